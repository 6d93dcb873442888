//! One client: its key packages and its memberships. Everything goes in and out as octets.

use std::collections::HashMap;

use openmls::prelude::tls_codec::{Deserialize, Serialize};
use openmls::prelude::*;
use openmls::schedule::{ExternalPsk, PreSharedKeyId, Psk};
use openmls::treesync::LeafNodeParameters;
use openmls::treesync::RatchetTreeIn;
use peerline::client::{Client, Commit, Opened, Outcome, Plan, State, Wanted};
use peerline::why;

use crate::crypto::{Key, Provider};

/// How many messages may come late or be skipped, and how many epochs are kept.
const LATE: u32 = 100;
const SKIPPED: u32 = 1000;
const PAST_EPOCHS: usize = 3;

struct Membership {
    group: MlsGroup,
    key: Key,
}

/// One client with its own storage.
#[derive(Default)]
pub struct Openmls {
    provider: Provider,
    keys: HashMap<Vec<u8>, Key>,
    groups: HashMap<Vec<u8>, Membership>,
}

fn policy(private: bool) -> WireFormatPolicy {
    if private { MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY } else { MIXED_PLAINTEXT_WIRE_FORMAT_POLICY }
}

fn settings(private: bool) -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(policy(private))
        .padding_size(0)
        .max_past_epochs(PAST_EPOCHS)
        .use_ratchet_tree_extension(true)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(LATE, SKIPPED))
        .build()
}

fn parse(message: &[u8]) -> Outcome<MlsMessageBodyIn> {
    MlsMessageIn::tls_deserialize_exact(message).map(MlsMessageIn::extract).map_err(why)
}

fn protocol_message(message: &[u8]) -> Outcome<ProtocolMessage> {
    let message = MlsMessageIn::tls_deserialize_exact(message).map_err(why)?;
    message.try_into_protocol_message().map_err(why)
}

fn tree_of(octets: Option<Vec<u8>>) -> Outcome<Option<RatchetTreeIn>> {
    octets.map(|o| RatchetTreeIn::tls_deserialize_exact(&o).map_err(why)).transpose()
}

impl Openmls {
    fn membership(&mut self, group: &[u8]) -> Outcome<&mut Membership> {
        self.groups.get_mut(group).ok_or_else(|| "no such group".into())
    }

    fn parts(&mut self, group: &[u8]) -> Outcome<(&Provider, &mut Membership)> {
        let membership = self.groups.get_mut(group).ok_or("no such group")?;
        Ok((&self.provider, membership))
    }

    fn keep(&mut self, group: MlsGroup, key: Key) -> Vec<u8> {
        let id = group.group_id().to_vec();
        self.groups.insert(id.clone(), Membership { group, key });
        id
    }

    fn credential(identity: &str, key: &Key) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(identity.as_bytes().to_vec()).into(),
            signature_key: key.public.as_slice().into(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::for_provider(self.provider.crypto())
    }
}

impl Client for Openmls {
    /// Makes a key package with a signature key of its own.
    fn key_package(&mut self, suite: u16, identity: &str, last: bool) -> Outcome<Vec<u8>> {
        let suite = Ciphersuite::try_from(suite).map_err(why)?;
        let key = Key::generate(suite).map_err(why)?;
        let mut builder = KeyPackage::builder();
        if last {
            // A key package's extensions have to be among the leaf's (RFC 9420 §10).
            let listed = Capabilities::builder()
                .ciphersuites(self.provider.crypto().supported_ciphersuites())
                .extensions(vec![ExtensionType::LastResort])
                .build();
            builder = builder.leaf_node_capabilities(listed).mark_as_last_resort();
        } else {
            builder = builder.leaf_node_capabilities(self.capabilities());
        }
        let credential = Self::credential(identity, &key);
        let bundle = builder.build(suite, &self.provider, &key, credential).map_err(why)?;
        self.keys.insert(key.public.clone(), key);
        MlsMessageOut::from(bundle.into_key_package()).to_bytes().map_err(why)
    }

    fn create(&mut self, suite: u16, identity: &str, group: &[u8], private: bool) -> Outcome<()> {
        let suite = Ciphersuite::try_from(suite).map_err(why)?;
        let key = Key::generate(suite).map_err(why)?;
        let made = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(group))
            .ciphersuite(suite)
            .with_capabilities(self.capabilities())
            .with_wire_format_policy(policy(private))
            .max_past_epochs(PAST_EPOCHS)
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(LATE, SKIPPED))
            .replace_old_group()
            .build(&self.provider, &key, Self::credential(identity, &key))
            .map_err(why)?;
        self.keep(made, key);
        Ok(())
    }

    /// Commits the pending proposals and what the plan names, and merges the commit at once.
    fn commit(&mut self, group: &[u8], plan: Plan) -> Outcome<Commit> {
        let (provider, Membership { group, key }) = self.parts(group)?;
        if plan.reinit.is_some() {
            return Err("this library has no reinitialization".into());
        }
        group.set_configuration(provider.storage(), &settings(plan.private)).map_err(why)?;
        let suite = group.ciphersuite();
        let mut builder = group.commit_builder().force_self_update(plan.path);
        let adds = plan.key_packages.iter().map(|k| read_key_package(provider, k));
        builder = builder.propose_adds(adds.collect::<Outcome<Vec<_>>>()?);
        builder = builder.propose_removals(plan.members.into_iter().map(LeafNodeIndex::new));
        for id in plan.psks {
            let id = psk_id(provider, suite, id)?;
            builder = builder.add_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(id))));
        }
        let bundle = builder
            .load_psks(provider.storage())
            .map_err(why)?
            .use_ratchet_tree_extension(!plan.no_tree)
            .build(provider.rand(), provider.crypto(), key, |_| true)
            .map_err(why)?
            .stage_commit(provider)
            .map_err(why)?;
        group.merge_pending_commit(provider).map_err(why)?;
        let (commit, welcome, _) = bundle.into_messages();
        let welcome = welcome.map(|w| w.to_bytes()).transpose().map_err(why)?;
        let tree = match plan.no_tree && welcome.is_some() {
            true => Some(group.export_ratchet_tree().tls_serialize_detached().map_err(why)?),
            false => None,
        };
        Ok(Commit { commit: commit.to_bytes().map_err(why)?, welcome, tree })
    }

    /// Makes a proposal, which also waits here for the next commit.
    fn propose(&mut self, group: &[u8], wanted: Wanted, private: bool) -> Outcome<Vec<u8>> {
        let (provider, Membership { group, key }) = self.parts(group)?;
        group.set_configuration(provider.storage(), &settings(private)).map_err(why)?;
        let propose = match wanted {
            Wanted::Add(package) => Propose::Add(read_key_package(provider, &package)?),
            Wanted::Remove(leaf) => Propose::Remove(leaf),
            Wanted::Update => Propose::Update(LeafNodeParameters::default()),
            Wanted::Reinit(..) => return Err("this library has no reinitialization".into()),
            Wanted::Psk(id) => Propose::PreSharedKey(psk_id(provider, group.ciphersuite(), id)?),
        };
        let made = group.propose(provider, key, propose, ProposalOrRefType::Reference);
        made.map_err(why)?.0.to_bytes().map_err(why)
    }

    /// Joins with the key package of this client that the welcome names; returns the group's id.
    fn join(&mut self, welcome: &[u8], tree: Option<Vec<u8>>) -> Outcome<Vec<u8>> {
        let MlsMessageBodyIn::Welcome(welcome) = parse(welcome)? else {
            return Err("not a welcome".into());
        };
        let mut joining = StagedWelcome::build_from_welcome(&self.provider, &settings(false), welcome)
            .map_err(why)?
            .replace_old_group();
        if let Some(tree) = tree_of(tree)? {
            joining = joining.with_ratchet_tree(tree);
        }
        let group = joining.build().map_err(why)?.into_group(&self.provider).map_err(why)?;
        let leaf = group.own_leaf_node().ok_or("no leaf of one's own")?;
        let key = self.keys.get(leaf.signature_key().as_slice()).ok_or("no signature key")?.clone();
        Ok(self.keep(group, key))
    }

    /// Joins by an external commit; with resync the client's former leaf is removed by it, which
    /// openmls does when, and only when, the signature key is in the tree already.
    fn external_join(
        &mut self,
        identity: &str,
        group_info: &[u8],
        tree: Option<Vec<u8>>,
        resync: bool,
    ) -> Outcome<(Vec<u8>, Vec<u8>)> {
        let MlsMessageBodyIn::GroupInfo(info) = parse(group_info)? else {
            return Err("not a group info".into());
        };
        let former = self.groups.get(info.group_id().as_slice());
        let key = match (resync, former) {
            (false, _) => Key::generate(info.ciphersuite()).map_err(why)?,
            (true, Some(membership)) => membership.key.clone(),
            (true, None) => return Err("resync: not a member before".into()),
        };
        let mut builder = MlsGroup::external_commit_builder().with_config(settings(false));
        if let Some(tree) = tree_of(tree)? {
            builder = builder.with_ratchet_tree(tree);
        }
        let leaf = LeafNodeParameters::builder().with_capabilities(self.capabilities()).build();
        let (group, bundle) = builder
            .build_group(&self.provider, info, Self::credential(identity, &key))
            .map_err(why)?
            .leaf_node_parameters(leaf)
            .load_psks(self.provider.storage())
            .map_err(why)?
            .build(self.provider.rand(), self.provider.crypto(), &key, |_| true)
            .map_err(why)?
            .finalize(&self.provider)
            .map_err(why)?;
        let commit = bundle.into_commit().to_bytes().map_err(why)?;
        Ok((self.keep(group, key), commit))
    }

    /// A GroupInfo with external_pub, and with the tree if wanted.
    fn group_info(&mut self, group: &[u8], tree: bool) -> Outcome<Vec<u8>> {
        let (provider, Membership { group, key }) = self.parts(group)?;
        let info = group.export_group_info(provider.crypto(), key, tree).map_err(why)?;
        info.to_bytes().map_err(why)
    }

    /// The tree as the body of the ratchet_tree extension.
    fn tree(&mut self, group: &[u8]) -> Outcome<Vec<u8>> {
        let group = &self.membership(group)?.group;
        group.export_ratchet_tree().tls_serialize_detached().map_err(why)
    }

    /// Takes in a proposal or a commit; true when it removed this client.
    fn process(&mut self, group: &[u8], message: &[u8]) -> Outcome<bool> {
        let (provider, Membership { group, .. }) = self.parts(group)?;
        let message = protocol_message(message)?;
        if message.content_type() == ContentType::Application {
            return Err("an application message".into());
        }
        let processed = group.process_message(provider, message).map_err(why)?;
        match processed.into_content() {
            ProcessedMessageContent::ProposalMessage(proposal)
            | ProcessedMessageContent::ExternalJoinProposalMessage(proposal) => {
                group.store_pending_proposal(provider.storage(), *proposal).map_err(why)?;
                Ok(false)
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let removed = staged.self_removed();
                group.merge_staged_commit(provider, *staged).map_err(why)?;
                Ok(removed)
            }
            _ => Err("a message of one's own".into()),
        }
    }

    fn seal(&mut self, group: &[u8], data: &[u8], aad: Vec<u8>) -> Outcome<Vec<u8>> {
        let (provider, Membership { group, key }) = self.parts(group)?;
        group.set_aad(aad);
        let made = group.create_message(provider, key, data);
        // A refusal would leave it for the next message.
        group.set_aad(Vec::new());
        made.map_err(why)?.to_bytes().map_err(why)
    }

    fn open(&mut self, group: &[u8], message: &[u8]) -> Outcome<Opened> {
        let (provider, Membership { group, .. }) = self.parts(group)?;
        let message = protocol_message(message)?;
        if message.content_type() != ContentType::Application {
            return Err("not an application message".into());
        }
        let processed = group.process_message(provider, message).map_err(why)?;
        let aad = processed.aad().to_vec();
        let sender = match processed.sender() {
            Sender::Member(leaf) => leaf.u32(),
            _ => return Err("sender is not a member".into()),
        };
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(m) => {
                Ok(Opened { data: m.into_bytes(), aad, sender })
            }
            _ => Err("a message of one's own".into()),
        }
    }

    fn export(&mut self, group: &[u8], label: &str, context: &[u8], len: usize) -> Outcome<Vec<u8>> {
        let (provider, Membership { group, .. }) = self.parts(group)?;
        group.export_secret(provider.crypto(), label, context, len).map_err(why)
    }

    /// Registers an external pre-shared key.
    fn psk(&mut self, id: Vec<u8>, secret: &[u8]) -> Outcome<()> {
        // The nonce is not stored, so any suite's will do.
        let id = psk_id(&self.provider, Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519, id)?;
        id.store(&self.provider, secret).map_err(why)
    }

    fn state(&mut self, group: &[u8]) -> Outcome<State> {
        let group = &self.membership(group)?.group;
        let member = |m: Member| {
            let identity = String::from_utf8_lossy(m.credential.serialized_content()).into_owned();
            (m.index.u32(), identity)
        };
        Ok(State {
            epoch: group.epoch().as_u64(),
            members: group.members().map(member).collect(),
            authenticator: group.epoch_authenticator().as_slice().to_vec(),
            tree_hash: group.public_group().group_context().tree_hash().to_vec(),
        })
    }
}

fn read_key_package(provider: &Provider, message: &[u8]) -> Outcome<KeyPackage> {
    match parse(message)? {
        MlsMessageBodyIn::KeyPackage(package) => {
            package.validate(provider.crypto(), ProtocolVersion::Mls10).map_err(why)
        }
        _ => Err("not a key package".into()),
    }
}

/// The id of an external PSK, with a fresh nonce as long as the suite's hash (RFC 9420 §8.4).
fn psk_id(provider: &Provider, suite: Ciphersuite, id: Vec<u8>) -> Outcome<PreSharedKeyId> {
    PreSharedKeyId::new(suite, provider.rand(), Psk::External(ExternalPsk::new(id))).map_err(why)
}
