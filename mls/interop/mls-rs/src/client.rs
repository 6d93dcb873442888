//! One client of mls-rs: its signature keys, key packages and memberships.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use mls_rs::client_builder::{
    BaseConfig, PaddingMode, WithCryptoProvider, WithGroupStateStorage, WithIdentityProvider,
    WithKeyPackageRepo, WithMlsRules, WithPskStore,
};
use mls_rs::crypto::SignatureSecretKey;
use mls_rs::extension::recommended::LastResortKeyPackageExt;
use mls_rs::group::{CommitEffect, ContentType, ExportedTree, GroupContext, ReceivedMessage, Roster};
use mls_rs::identity::SigningIdentity;
use mls_rs::identity::basic::{BasicCredential, BasicIdentityProvider};
use mls_rs::mls_rules::{CommitDirection, CommitOptions, CommitSource, EncryptionOptions, ProposalBundle};
use mls_rs::psk::{ExternalPskId, PreSharedKey};
use mls_rs::storage_provider::in_memory::{
    InMemoryGroupStateStorage, InMemoryKeyPackageStorage, InMemoryPreSharedKeyStorage,
};
use mls_rs::time::MlsTime;
use mls_rs::{
    CipherSuite, CipherSuiteProvider, Client as Library, CryptoProvider, ExtensionList, Group, MlsMessage,
    MlsMessageDescription, MlsRules, ProtocolVersion,
};
use peerline::client::{Client, Commit, Opened, Outcome, Plan, State, Wanted};
use peerline::why;

/// How many past epochs are kept.
const PAST_EPOCHS: usize = 3;

/// How long a leaf is valid: as long as with openmls. The year that mls-rs gives by itself may be more
/// than an application's maximum.
const LIFETIME: Duration = Duration::from_secs(84 * 24 * 60 * 60);

/// How long ago it began to be valid: to core-crypto, what begins this second has not begun.
const AGE: Duration = Duration::from_secs(60 * 60);

type Settings<P> = WithCryptoProvider<
    P,
    WithIdentityProvider<
        BasicIdentityProvider,
        WithMlsRules<
            Rules,
            WithGroupStateStorage<
                InMemoryGroupStateStorage,
                WithPskStore<
                    InMemoryPreSharedKeyStorage,
                    WithKeyPackageRepo<InMemoryKeyPackageStorage, BaseConfig>,
                >,
            >,
        >,
    >,
>;

/// What the next message is to be like. mls-rs asks its rules, so every request sets them first.
#[derive(Clone, Default)]
struct Rules(Arc<Wishes>);

#[derive(Default)]
struct Wishes {
    path: AtomicBool,
    private: AtomicBool,
    no_tree: AtomicBool,
}

impl MlsRules for Rules {
    type Error = Infallible;

    fn filter_proposals(
        &self,
        _: CommitDirection,
        _: CommitSource,
        _: &Roster,
        _: &GroupContext,
        proposals: ProposalBundle,
    ) -> Result<ProposalBundle, Infallible> {
        Ok(proposals)
    }

    fn commit_options(
        &self,
        _: &Roster,
        _: &GroupContext,
        _: &ProposalBundle,
    ) -> Result<CommitOptions, Infallible> {
        Ok(CommitOptions::new()
            .with_path_required(self.0.path.load(Relaxed))
            .with_ratchet_tree_extension(!self.0.no_tree.load(Relaxed))
            .with_single_welcome_message(true))
    }

    fn encryption_options(&self, _: &Roster, _: &GroupContext) -> Result<EncryptionOptions, Infallible> {
        Ok(EncryptionOptions::new(self.0.private.load(Relaxed), PaddingMode::None))
    }
}

/// A signature key pair with the identity that goes with it.
#[derive(Clone)]
struct Key {
    suite: CipherSuite,
    identity: SigningIdentity,
    secret: SignatureSecretKey,
}

/// One client. It has one signature key for each suite and identity, because mls-rs takes that of
/// the old group for the members of a branch.
pub struct MlsRs<P: CryptoProvider + Default + Clone> {
    crypto: P,
    rules: Rules,
    states: InMemoryGroupStateStorage,
    packages: InMemoryKeyPackageStorage,
    psks: InMemoryPreSharedKeyStorage,
    keys: HashMap<(u16, String), Key>,
    /// The key of every key package, by its reference.
    used: HashMap<Vec<u8>, Key>,
    groups: HashMap<Vec<u8>, Group<Settings<P>>>,
    /// The suite of the successor of every group that a ReInit has ended.
    ended: HashMap<Vec<u8>, u16>,
}

impl<P: CryptoProvider + Default + Clone> Default for MlsRs<P> {
    fn default() -> Self {
        let states = InMemoryGroupStateStorage::new().with_max_epoch_retention(PAST_EPOCHS);
        MlsRs {
            crypto: P::default(),
            rules: Rules::default(),
            states: states.expect("a retention above zero is allowed"),
            packages: Default::default(),
            psks: Default::default(),
            keys: HashMap::new(),
            used: HashMap::new(),
            groups: HashMap::new(),
            ended: HashMap::new(),
        }
    }
}

fn born() -> Option<MlsTime> {
    Some(MlsTime::now() - AGE)
}

fn message(octets: &[u8]) -> Outcome<MlsMessage> {
    MlsMessage::from_bytes(octets).map_err(why)
}

fn octets(message: &MlsMessage) -> Outcome<Vec<u8>> {
    message.to_bytes().map_err(why)
}

fn tree_of(octets: Option<Vec<u8>>) -> Outcome<Option<ExportedTree<'static>>> {
    octets.map(|o| ExportedTree::from_bytes(&o).map_err(why)).transpose()
}

/// The kind of a message of a group, told without opening it.
fn content(message: &MlsMessage) -> Outcome<ContentType> {
    match message.description() {
        MlsMessageDescription::PrivateProtocolMessage { content_type, .. } => Ok(content_type),
        MlsMessageDescription::PublicProtocolMessage { content_type, .. } => Ok(content_type),
        _ => Err("not a message within a group".into()),
    }
}

impl<P: CryptoProvider + Default + Clone> MlsRs<P> {
    fn group(&mut self, group: &[u8]) -> Outcome<&mut Group<Settings<P>>> {
        self.groups.get_mut(group).ok_or_else(|| "no such group".into())
    }

    fn wish(&self, path: bool, private: bool, no_tree: bool) {
        self.rules.0.path.store(path, Relaxed);
        self.rules.0.private.store(private, Relaxed);
        self.rules.0.no_tree.store(no_tree, Relaxed);
    }

    fn key(&mut self, suite: u16, identity: &str) -> Outcome<Key> {
        if let Some(key) = self.keys.get(&(suite, identity.into())) {
            return Ok(key.clone());
        }
        let provider = self.crypto.cipher_suite_provider(suite.into()).ok_or("unsupported suite")?;
        let (secret, public) = provider.signature_key_generate().map_err(why)?;
        let credential = BasicCredential::new(identity.as_bytes().to_vec()).into_credential();
        let key = Key { suite: suite.into(), identity: SigningIdentity::new(credential, public), secret };
        self.keys.insert((suite, identity.into()), key.clone());
        Ok(key)
    }

    fn library(&self, key: Key, last: bool) -> Library<Settings<P>> {
        let mut builder = Library::builder()
            .key_package_repo(self.packages.clone())
            .psk_store(self.psks.clone())
            .group_state_storage(self.states.clone())
            .key_package_lifetime(LIFETIME)
            .mls_rules(self.rules.clone())
            .identity_provider(BasicIdentityProvider::new())
            .crypto_provider(self.crypto.clone())
            .signing_identity(key.identity, key.secret, key.suite);
        if last {
            builder = builder.extension_type(mls_rs::extension::ExtensionType::LAST_RESORT_KEY_PACKAGE);
        }
        builder.build()
    }

    /// Keeps a group that is new to this client, and forgets what is stored of a former membership.
    fn keep(&mut self, group: Group<Settings<P>>) -> Vec<u8> {
        let id = group.group_id().to_vec();
        self.states.delete_group(&id);
        self.groups.insert(id.clone(), group);
        id
    }

    /// Notes what a commit did to a group; true when it removed this client.
    fn note(&mut self, group: &[u8], effect: CommitEffect) -> bool {
        if let CommitEffect::ReInit(reinit) = &effect {
            self.ended.insert(group.to_vec(), reinit.proposal.new_cipher_suite().into());
        }
        matches!(effect, CommitEffect::Removed { .. })
    }

    /// Joins a group that a ReInit or a branch of a group of this client has founded.
    fn join_kin(
        &mut self,
        welcome: &MlsMessage,
        tree: Option<&ExportedTree<'static>>,
        key: &Key,
    ) -> Option<Group<Settings<P>>> {
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            let branch = self.groups[&id].join_subgroup(welcome, tree.cloned(), None);
            if let Ok((joined, _)) = branch {
                return Some(joined);
            }
            if !self.ended.contains_key(&id) {
                continue;
            }
            let Ok(old) = self.library(key.clone(), false).load_group(&id) else { continue };
            let reinit = old.get_reinit_client(Some(key.secret.clone()), Some(key.identity.clone()));
            if let Ok(Ok((joined, _))) = reinit.map(|r| r.join(welcome, tree.cloned(), None)) {
                return Some(joined);
            }
        }
        None
    }
}

impl<P: CryptoProvider + Default + Clone> Client for MlsRs<P> {
    fn key_package(&mut self, suite: u16, identity: &str, last: bool) -> Outcome<Vec<u8>> {
        let key = self.key(suite, identity)?;
        let mut extensions = ExtensionList::new();
        if last {
            extensions.set_from(LastResortKeyPackageExt).map_err(why)?;
        }
        let library = self.library(key.clone(), last);
        let made = library.generate_key_package_message(extensions, ExtensionList::new(), born());
        let made = made.map_err(why)?;
        let provider = self.crypto.cipher_suite_provider(suite.into()).ok_or("unsupported suite")?;
        let reference = made.key_package_reference(&provider).map_err(why)?;
        self.used.insert(reference.ok_or("no reference")?.to_vec(), key);
        octets(&made)
    }

    fn create(&mut self, suite: u16, identity: &str, group: &[u8], _private: bool) -> Outcome<()> {
        let key = self.key(suite, identity)?;
        let none = ExtensionList::new;
        let made = self.library(key, false).create_group_with_id(group.to_vec(), none(), none(), born());
        self.keep(made.map_err(why)?);
        Ok(())
    }

    fn commit(&mut self, group: &[u8], plan: Plan) -> Outcome<Commit> {
        self.wish(plan.path, plan.private, plan.no_tree);
        let current = self.group(group)?;
        let mut builder = current.commit_builder();
        for package in plan.key_packages {
            builder = builder.add_member(message(&package)?).map_err(why)?;
        }
        for member in plan.members {
            builder = builder.remove_member(member).map_err(why)?;
        }
        for id in plan.psks {
            builder = builder.add_external_psk(ExternalPskId::new(id)).map_err(why)?;
        }
        if let Some((id, suite)) = plan.reinit {
            let (version, none) = (ProtocolVersion::MLS_10, ExtensionList::new());
            builder = builder.reinit(Some(id), version, suite.into(), none).map_err(why)?;
        }
        let made = builder.build().map_err(why)?;
        let effect = current.apply_pending_commit().map_err(why)?.effect;
        self.note(group, effect);
        let welcome = made.welcome_messages().first();
        let tree = made.ratchet_tree().filter(|_| welcome.is_some());
        Ok(Commit {
            commit: octets(made.commit_message())?,
            welcome: welcome.map(octets).transpose()?,
            tree: tree.map(|t| t.to_bytes().map_err(why)).transpose()?,
        })
    }

    fn propose(&mut self, group: &[u8], wanted: Wanted, private: bool) -> Outcome<Vec<u8>> {
        self.wish(false, private, false);
        let group = self.group(group)?;
        let made = match wanted {
            Wanted::Add(package) => group.propose_add(message(&package)?, Vec::new()),
            Wanted::Remove(leaf) => group.propose_remove(leaf, Vec::new()),
            Wanted::Update => group.propose_update(Vec::new()),
            Wanted::Psk(id) => group.propose_external_psk(ExternalPskId::new(id), Vec::new()),
            Wanted::Reinit(id, suite) => {
                let (version, none) = (ProtocolVersion::MLS_10, ExtensionList::new());
                group.propose_reinit(Some(id), version, suite.into(), none, Vec::new())
            }
        };
        octets(&made.map_err(why)?)
    }

    fn join(&mut self, welcome: &[u8], tree: Option<Vec<u8>>) -> Outcome<Vec<u8>> {
        let (welcome, tree) = (message(welcome)?, tree_of(tree)?);
        let references = welcome.welcome_key_package_references();
        let key = references.iter().find_map(|r| self.used.get(&r.to_vec())).cloned();
        let key = key.ok_or("no key package of this client's in the welcome")?;
        let joined = self.library(key.clone(), false).join_group(tree.clone(), &welcome, None);
        let joined = match joined {
            Ok((joined, _)) => joined,
            Err(err) => self.join_kin(&welcome, tree.as_ref(), &key).ok_or_else(|| why(err))?,
        };
        Ok(self.keep(joined))
    }

    fn external_join(
        &mut self,
        identity: &str,
        group_info: &[u8],
        tree: Option<Vec<u8>>,
        resync: bool,
    ) -> Outcome<(Vec<u8>, Vec<u8>)> {
        let info = message(group_info)?;
        let context = info.as_group_info().ok_or("not a group info")?.group_context();
        let (suite, id) = (context.cipher_suite(), context.group_id().to_vec());
        let key = self.key(suite.into(), identity)?;
        self.wish(false, false, false);
        let library = self.library(key, false);
        let mut builder = library.external_commit_builder().map_err(why)?;
        if let Some(tree) = tree_of(tree)? {
            builder = builder.with_tree_data(tree);
        }
        if resync {
            let former = self.groups.get(&id).ok_or("resync: not a member before")?;
            builder = builder.with_removal(former.current_member_index());
        }
        // mls-rs takes the epochs that it has stored to be without gaps.
        self.states.delete_group(&id);
        let (joined, commit) = builder.build(info).map_err(why)?;
        Ok((self.keep(joined), octets(&commit)?))
    }

    fn group_info(&mut self, group: &[u8], tree: bool) -> Outcome<Vec<u8>> {
        octets(&self.group(group)?.group_info_message_allowing_ext_commit(tree).map_err(why)?)
    }

    fn tree(&mut self, group: &[u8]) -> Outcome<Vec<u8>> {
        self.group(group)?.export_tree().to_bytes().map_err(why)
    }

    fn process(&mut self, group: &[u8], octets: &[u8]) -> Outcome<bool> {
        let message = message(octets)?;
        if content(&message)? == ContentType::Application {
            return Err("an application message".into());
        }
        match self.group(group)?.process_incoming_message(message).map_err(why)? {
            ReceivedMessage::Commit(c) => Ok(self.note(group, c.effect)),
            _ => Ok(false),
        }
    }

    fn seal(&mut self, group: &[u8], data: &[u8], aad: Vec<u8>) -> Outcome<Vec<u8>> {
        octets(&self.group(group)?.encrypt_application_message(data, aad).map_err(why)?)
    }

    fn open(&mut self, group: &[u8], octets: &[u8]) -> Outcome<Opened> {
        let message = message(octets)?;
        if content(&message)? != ContentType::Application {
            return Err("not an application message".into());
        }
        match self.group(group)?.process_incoming_message(message).map_err(why)? {
            ReceivedMessage::ApplicationMessage(m) => {
                Ok(Opened { data: m.data().to_vec(), sender: m.sender_index, aad: m.authenticated_data })
            }
            _ => Err("not an application message".into()),
        }
    }

    fn export(&mut self, group: &[u8], label: &str, context: &[u8], len: usize) -> Outcome<Vec<u8>> {
        let secret = self.group(group)?.export_secret(label.as_bytes(), context, len);
        Ok(secret.map_err(why)?.as_bytes().to_vec())
    }

    fn psk(&mut self, id: Vec<u8>, secret: &[u8]) -> Outcome<()> {
        self.psks.insert(ExternalPskId::new(id), PreSharedKey::new(secret.to_vec()));
        Ok(())
    }

    fn state(&mut self, group: &[u8]) -> Outcome<State> {
        let group = self.group(group)?;
        let member = |m: mls_rs::group::Member| {
            let basic = m.signing_identity.credential.as_basic();
            let identity = basic.map_or(&[][..], |b| b.identifier());
            (m.index, String::from_utf8_lossy(identity).into_owned())
        };
        Ok(State {
            epoch: group.current_epoch(),
            members: group.roster().members_iter().map(member).collect(),
            authenticator: group.epoch_authenticator().map_err(why)?.as_bytes().to_vec(),
            tree_hash: group.context().tree_hash.clone(),
        })
    }

    fn settle(&mut self, group: &[u8]) -> Outcome<()> {
        self.group(group)?.write_to_storage().map_err(why)
    }

    fn successor(
        &mut self,
        group: &[u8],
        identity: &str,
        packages: Vec<Vec<u8>>,
    ) -> Outcome<(Vec<u8>, Vec<u8>)> {
        let suite = *self.ended.get(group).ok_or("no ReInit has ended this group")?;
        let key = self.key(suite, identity)?;
        let group = self.library(key.clone(), false).load_group(group).map_err(why)?;
        let reinit = group.get_reinit_client(Some(key.secret), Some(key.identity)).map_err(why)?;
        let packages = packages.iter().map(|p| message(p)).collect::<Outcome<Vec<_>>>()?;
        self.wish(false, false, false);
        let (made, welcomes) = reinit.commit(packages, ExtensionList::new(), None).map_err(why)?;
        let welcome = octets(welcomes.first().ok_or("no welcome")?)?;
        Ok((self.keep(made), welcome))
    }

    fn branch(&mut self, group: &[u8], new: &[u8], packages: Vec<Vec<u8>>) -> Outcome<Vec<u8>> {
        let packages = packages.iter().map(|p| message(p)).collect::<Outcome<Vec<_>>>()?;
        self.wish(false, false, false);
        let made = self.group(group)?.branch(new.to_vec(), packages, None);
        let (made, welcomes) = made.map_err(why)?;
        self.keep(made);
        octets(welcomes.first().ok_or("no welcome")?)
    }
}
