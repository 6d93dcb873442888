//! What a peer's client does, whatever the library beneath, and the operations of the protocol
//! put into calls of it.

use std::collections::HashMap;

use crate::{Answer, Fields, Request, Value, json, octets};

/// A result whose error is the text of the answer.
pub type Outcome<T> = Result<T, String>;

/// A peer's answer to hello.
pub struct Peer {
    pub name: &'static str,
    pub version: &'static str,
    pub suites: Vec<u16>,
    pub can: Vec<&'static str>,
}

/// What every peer here can do.
pub const CAN: [&str; 28] = [
    "key_package",
    "create",
    "add",
    "remove",
    "update",
    "commit",
    "propose",
    "propose_add",
    "propose_remove",
    "propose_update",
    "propose_psk",
    "join",
    "external_join",
    "resync",
    "group_info",
    "process",
    "seal",
    "open",
    "export",
    "psk",
    "state",
    "private",
    "tree",
    "last_resort",
    "aad",
    "past_epochs",
    "tree_hash",
    "epoch_authenticator",
];

/// What goes into a commit beside the pending proposals.
#[derive(Default)]
pub struct Plan {
    pub key_packages: Vec<Vec<u8>>,
    pub members: Vec<u32>,
    pub psks: Vec<Vec<u8>>,
    /// The id and the suite of the group that is to follow.
    pub reinit: Option<(Vec<u8>, u16)>,
    /// A path even if no proposal asks for one.
    pub path: bool,
    pub private: bool,
    /// No tree in the welcome.
    pub no_tree: bool,
}

/// A commit as messages. The tree is beside the welcome when the plan wants it so.
pub struct Commit {
    pub commit: Vec<u8>,
    pub welcome: Option<Vec<u8>>,
    pub tree: Option<Vec<u8>>,
}

/// A proposal to be sent on its own.
pub enum Wanted {
    Add(Vec<u8>),
    Remove(u32),
    Update,
    Psk(Vec<u8>),
    Reinit(Vec<u8>, u16),
}

/// A decrypted application message.
pub struct Opened {
    pub data: Vec<u8>,
    pub aad: Vec<u8>,
    pub sender: u32,
}

/// What all members of an epoch agree on.
pub struct State {
    pub epoch: u64,
    pub members: Vec<(u32, String)>,
    pub authenticator: Vec<u8>,
    pub tree_hash: Vec<u8>,
}

/// One client with its own keys and memberships. Messages and ids go in and out as octets.
pub trait Client: Default {
    fn key_package(&mut self, suite: u16, identity: &str, last: bool) -> Outcome<Vec<u8>>;
    fn create(&mut self, suite: u16, identity: &str, group: &[u8], private: bool) -> Outcome<()>;
    /// Commits the pending proposals and what the plan names, and merges the commit at once.
    fn commit(&mut self, group: &[u8], plan: Plan) -> Outcome<Commit>;
    /// Makes a proposal, which also waits here for the next commit.
    fn propose(&mut self, group: &[u8], wanted: Wanted, private: bool) -> Outcome<Vec<u8>>;
    /// Joins with the key package of this client that the welcome names; returns the group's id.
    fn join(&mut self, welcome: &[u8], tree: Option<Vec<u8>>) -> Outcome<Vec<u8>>;
    /// Joins by an external commit; returns the group's id and the commit. With resync the commit
    /// removes the client's former leaf.
    fn external_join(
        &mut self,
        identity: &str,
        group_info: &[u8],
        tree: Option<Vec<u8>>,
        resync: bool,
    ) -> Outcome<(Vec<u8>, Vec<u8>)>;
    /// A GroupInfo with external_pub, and with the tree if wanted.
    fn group_info(&mut self, group: &[u8], tree: bool) -> Outcome<Vec<u8>>;
    /// The tree as the body of the ratchet_tree extension.
    fn tree(&mut self, group: &[u8]) -> Outcome<Vec<u8>>;
    /// Takes in a proposal or a commit; true when it removed this client.
    fn process(&mut self, group: &[u8], message: &[u8]) -> Outcome<bool>;
    fn seal(&mut self, group: &[u8], data: &[u8], aad: Vec<u8>) -> Outcome<Vec<u8>>;
    fn open(&mut self, group: &[u8], message: &[u8]) -> Outcome<Opened>;
    fn export(&mut self, group: &[u8], label: &str, context: &[u8], len: usize) -> Outcome<Vec<u8>>;
    /// Registers an external pre-shared key.
    fn psk(&mut self, id: Vec<u8>, secret: &[u8]) -> Outcome<()>;
    fn state(&mut self, group: &[u8]) -> Outcome<State>;
    /// Called after everything that may have brought a new epoch, for libraries that want to be
    /// told when to store.
    fn settle(&mut self, _group: &[u8]) -> Outcome<()> {
        Ok(())
    }
    /// Founds the successor of a group that a ReInit has ended; returns its id and the welcome.
    fn successor(&mut self, _: &[u8], _: &str, _: Vec<Vec<u8>>) -> Outcome<(Vec<u8>, Vec<u8>)> {
        Err("this library has no reinitialization".into())
    }
    /// Founds a subgroup and returns the welcome.
    fn branch(&mut self, _: &[u8], _: &[u8], _: Vec<Vec<u8>>) -> Outcome<Vec<u8>> {
        Err("this library has no branching".into())
    }
}

fn fields<const N: usize>(pairs: [(&str, Value); N]) -> Fields {
    pairs.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// All clients of a process by name, each with the identity it gave last.
pub struct Clients<C> {
    peer: Peer,
    all: HashMap<String, (C, String)>,
}

impl<C: Client> Clients<C> {
    /// A process without clients yet.
    pub fn new(peer: Peer) -> Clients<C> {
        Clients { peer, all: HashMap::new() }
    }

    /// Carries out one request.
    pub fn call(&mut self, op: &str, request: &Request) -> Answer {
        if op == "hello" {
            let Peer { name, version, suites, can } = &self.peer;
            return Ok(fields([
                ("name", (*name).into()),
                ("version", (*version).into()),
                ("suites", suites.clone().into()),
                ("can", can.clone().into()),
            ]));
        }
        let name = request.text("client")?;
        let new = matches!(op, "key_package" | "create" | "external_join" | "psk");
        if new && !self.all.contains_key(name) {
            self.all.insert(name.into(), Default::default());
        }
        let (client, identity) = self.all.get_mut(name).ok_or("no such client")?;
        if let Ok(given) = request.text("identity") {
            *identity = given.into();
        }
        match op {
            "key_package" | "psk" => alone(client, op, request),
            "join" | "external_join" | "reinit_group" | "branch" => enter(client, op, request, identity),
            _ => inside(client, op, request),
        }
    }
}

fn suite(request: &Request) -> Outcome<u16> {
    u16::try_from(request.number("suite")?).map_err(|_| "field suite: too large".into())
}

/// Operations without a group.
fn alone<C: Client>(client: &mut C, op: &str, request: &Request) -> Answer {
    if op == "psk" {
        client.psk(request.bytes("psk")?, &request.bytes("secret")?)?;
        return Ok(Fields::new());
    }
    let last = request.flag("last_resort", false);
    let package = client.key_package(suite(request)?, request.text("identity")?, last)?;
    Ok(fields([("key_package", octets(&package))]))
}

/// Operations whose answer names the group that the client is now in.
fn enter<C: Client>(client: &mut C, op: &str, request: &Request, identity: &str) -> Answer {
    let tree = request.maybe_bytes("ratchet_tree")?;
    let (group, mut answer) = match op {
        "join" => (client.join(&request.bytes("welcome")?, tree)?, Fields::new()),
        "external_join" => {
            let (info, resync) = (request.bytes("group_info")?, request.flag("resync", false));
            let (group, commit) = client.external_join(request.text("identity")?, &info, tree, resync)?;
            (group, fields([("commit", octets(&commit))]))
        }
        "branch" => {
            let (old, new) = (request.bytes("group")?, request.bytes("new_group")?);
            let welcome = client.branch(&old, &new, request.list("key_packages")?)?;
            (new, fields([("welcome", octets(&welcome))]))
        }
        _ => {
            let (old, packages) = (request.bytes("group")?, request.list("key_packages")?);
            let (group, welcome) = client.successor(&old, identity, packages)?;
            (group, fields([("welcome", octets(&welcome))]))
        }
    };
    client.settle(&group)?;
    answer.insert("group".into(), octets(&group));
    answer.extend(state(client, &group)?);
    Ok(answer)
}

/// Operations of a member.
fn inside<C: Client>(client: &mut C, op: &str, request: &Request) -> Answer {
    let group = request.bytes("group")?;
    let private = request.flag("private", false);
    let mut answer = match op {
        "create" => {
            client.create(suite(request)?, request.text("identity")?, &group, private)?;
            Fields::new()
        }
        "add" | "remove" | "update" | "commit" | "reinit" => commit(client, op, &group, request)?,
        "process" => {
            if client.process(&group, &request.bytes("message")?)? {
                return Ok(fields([("removed", true.into())]));
            }
            Fields::new()
        }
        "seal" => {
            let aad = request.maybe_bytes("aad")?.unwrap_or_default();
            let message = client.seal(&group, &request.bytes("data")?, aad)?;
            fields([("message", octets(&message))])
        }
        "open" => open(client, &group, request)?,
        "state" => Fields::new(),
        "export" => {
            let context = request.maybe_bytes("context")?.unwrap_or_default();
            let len = request.number("length")? as usize;
            let secret = client.export(&group, request.text("label")?, &context, len)?;
            fields([("secret", octets(&secret))])
        }
        "group_info" => {
            let tree = request.flag("tree", true);
            let mut answer = fields([("group_info", octets(&client.group_info(&group, tree)?))]);
            if !tree {
                answer.insert("ratchet_tree".into(), octets(&client.tree(&group)?));
            }
            answer
        }
        _ => {
            let proposal = client.propose(&group, wanted(op, request)?, private)?;
            fields([("proposal", octets(&proposal))])
        }
    };
    if matches!(op, "create" | "add" | "remove" | "update" | "commit" | "reinit" | "process") {
        client.settle(&group)?;
    }
    answer.extend(state(client, &group)?);
    Ok(answer)
}

fn commit<C: Client>(client: &mut C, op: &str, group: &[u8], request: &Request) -> Answer {
    let reinit = match op {
        "reinit" => Some((request.bytes("new_group")?, suite(request)?)),
        _ => None,
    };
    let plan = Plan {
        key_packages: request.list("key_packages")?,
        members: request.numbers("members")?,
        psks: request.list("psks")?,
        reinit,
        path: op == "update" || request.flag("path", false),
        private: request.flag("private", false),
        no_tree: !request.flag("tree", true),
    };
    let Commit { commit, welcome, tree } = client.commit(group, plan)?;
    let mut answer = fields([("commit", octets(&commit))]);
    if let Some(welcome) = welcome {
        answer.insert("welcome".into(), octets(&welcome));
    }
    if let Some(tree) = tree {
        answer.insert("ratchet_tree".into(), octets(&tree));
    }
    Ok(answer)
}

fn open<C: Client>(client: &mut C, group: &[u8], request: &Request) -> Answer {
    let Opened { data, aad, sender } = client.open(group, &request.bytes("message")?)?;
    Ok(fields([("data", octets(&data)), ("aad", octets(&aad)), ("sender", sender.into())]))
}

fn wanted(op: &str, request: &Request) -> Outcome<Wanted> {
    Ok(match op {
        "propose_add" => Wanted::Add(request.bytes("key_package")?),
        "propose_remove" => Wanted::Remove(request.number("member")?),
        "propose_update" => Wanted::Update,
        "propose_psk" => Wanted::Psk(request.bytes("psk")?),
        "propose_reinit" => Wanted::Reinit(request.bytes("new_group")?, suite(request)?),
        _ => return Err(format!("unknown op {op}")),
    })
}

fn state<C: Client>(client: &mut C, group: &[u8]) -> Answer {
    let State { epoch, mut members, authenticator, tree_hash } = client.state(group)?;
    members.sort();
    let member = |(index, identity)| json!({"index": index, "identity": identity});
    let state = fields([
        ("epoch", epoch.into()),
        ("members", members.into_iter().map(member).collect()),
        ("epoch_authenticator", octets(&authenticator)),
        ("tree_hash", octets(&tree_hash)),
    ]);
    Ok(fields([("state", state.into())]))
}
