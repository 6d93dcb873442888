//! A peer of the interoperability tests over openmls: `openmls-peer` reads requests as docs/MLS.md
//! says under "Driving a peer", `openmls-peer bench N` measures groups of N members.

mod bench;
mod client;
mod crypto;

use std::collections::HashMap;

use openmls_traits::OpenMlsProvider;
use openmls_traits::crypto::OpenMlsCrypto;
use peerline::{Answer, Fields, Request, Value, json, octets, serve};

use client::{Client, Commit, Membership, Plan, Wanted};

/// What hello lists beside the operations themselves.
const CAN: [&str; 22] = [
    "key_package", "create", "add", "remove", "update", "commit", "propose", "propose_add",
    "propose_remove", "propose_update", "propose_psk", "join", "external_join", "resync",
    "group_info", "psk", "export", "private", "tree", "last_resort", "tree_hash",
    "epoch_authenticator",
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let mut clients = HashMap::new();
            serve(|op, request| call(&mut clients, op, request)).map_err(|e| e.to_string())
        }
        ["bench", n] => n.parse().map_err(|_| "bench N".into()).and_then(bench::run),
        _ => Err("usage: openmls-peer [bench N]".into()),
    };
    if let Err(err) = done {
        eprintln!("openmls-peer: {err}");
        std::process::exit(1);
    }
}

fn fields<const N: usize>(pairs: [(&str, Value); N]) -> Fields {
    pairs.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

fn hello() -> Fields {
    let suites = crypto::Provider::default().crypto().supported_ciphersuites();
    fields([
        ("name", "openmls".into()),
        ("version", "0.9.2".into()),
        ("suites", suites.into_iter().map(|s| s as u16).collect()),
        ("can", CAN.to_vec().into()),
    ])
}

fn call(clients: &mut HashMap<String, Client>, op: &str, request: &Request) -> Answer {
    if op == "hello" {
        return Ok(hello());
    }
    let name = request.text("client")?;
    if matches!(op, "key_package" | "create" | "external_join" | "psk") && !clients.contains_key(name) {
        clients.insert(name.into(), Client::default());
    }
    let client = clients.get_mut(name).ok_or("no such client")?;
    match op {
        "key_package" | "psk" => alone(client, op, request),
        "join" | "external_join" => enter(client, op, request),
        _ => inside(client, op, request),
    }
}

fn suite(request: &Request) -> Result<u16, String> {
    u16::try_from(request.number("suite")?).map_err(|_| "field suite: too large".into())
}

/// Operations without a group.
fn alone(client: &mut Client, op: &str, request: &Request) -> Answer {
    if op == "psk" {
        client.psk(request.bytes("psk")?, &request.bytes("secret")?)?;
        return Ok(Fields::new());
    }
    let last = request.flag("last_resort", false);
    let package = client.key_package(suite(request)?, request.text("identity")?, last)?;
    Ok(fields([("key_package", octets(&package))]))
}

/// Operations that make a client a member.
fn enter(client: &mut Client, op: &str, request: &Request) -> Answer {
    let tree = request.maybe_bytes("ratchet_tree")?;
    let (group, mut answer) = if op == "join" {
        (client.join(&request.bytes("welcome")?, tree)?, Fields::new())
    } else {
        let (identity, info) = (request.text("identity")?, request.bytes("group_info")?);
        let resync = request.flag("resync", false);
        let (group, commit) = client.external_join(identity, &info, tree, resync)?;
        (group, fields([("commit", octets(&commit))]))
    };
    answer.insert("group".into(), octets(&group));
    answer.extend(state(client.membership(&group)?)?);
    Ok(answer)
}

/// Operations of a member.
fn inside(client: &mut Client, op: &str, request: &Request) -> Answer {
    let group = request.bytes("group")?;
    let mut answer = match op {
        "create" => {
            let private = request.flag("private", false);
            client.create(suite(request)?, request.text("identity")?, &group, private)?;
            Fields::new()
        }
        "add" | "remove" | "update" | "commit" => commit(client, op, &group, request)?,
        "propose_add" | "propose_remove" | "propose_update" | "propose_psk" => {
            let wanted = wanted(op, request)?;
            let proposal = client.propose(&group, wanted, request.flag("private", false))?;
            fields([("proposal", octets(&proposal))])
        }
        "group_info" => {
            let tree = request.flag("tree", true);
            let mut answer = fields([("group_info", octets(&client.group_info(&group, tree)?))]);
            if !tree {
                answer.insert("ratchet_tree".into(), octets(&client.tree(&group)?));
            }
            answer
        }
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
        "open" => {
            let opened = client.open(&group, &request.bytes("message")?)?;
            fields([
                ("data", octets(&opened.data)),
                ("aad", octets(&opened.aad)),
                ("sender", opened.sender.into()),
            ])
        }
        "export" => {
            let context = request.maybe_bytes("context")?.unwrap_or_default();
            let len = request.number("length")? as usize;
            let secret = client.export(&group, request.text("label")?, &context, len)?;
            fields([("secret", octets(&secret))])
        }
        "state" => Fields::new(),
        _ => return Err(format!("unknown op {op}")),
    };
    answer.extend(state(client.membership(&group)?)?);
    Ok(answer)
}

fn commit(client: &mut Client, op: &str, group: &[u8], request: &Request) -> Answer {
    let plan = Plan {
        key_packages: request.list("key_packages")?,
        members: request.numbers("members")?,
        psks: request.list("psks")?,
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

fn wanted(op: &str, request: &Request) -> Result<Wanted, String> {
    Ok(match op {
        "propose_add" => Wanted::Add(request.bytes("key_package")?),
        "propose_remove" => Wanted::Remove(request.number("member")?),
        "propose_psk" => Wanted::Psk(request.bytes("psk")?),
        _ => Wanted::Update,
    })
}

fn state(membership: &Membership) -> Answer {
    let group = &membership.group;
    let member = |m: openmls::prelude::Member| {
        let identity = String::from_utf8_lossy(m.credential.serialized_content()).into_owned();
        json!({"index": m.index.u32(), "identity": identity})
    };
    Ok(fields([
        ("epoch", group.epoch().as_u64().into()),
        ("members", group.members().map(member).collect()),
        ("epoch_authenticator", octets(group.epoch_authenticator().as_slice())),
        ("tree_hash", octets(group.public_group().group_context().tree_hash())),
    ]))
}
