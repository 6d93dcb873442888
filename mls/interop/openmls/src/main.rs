//! A peer of the interoperability tests over openmls: `openmls-peer` reads requests as docs/MLS.md
//! says under "Driving a peer", `openmls-peer bench N` measures groups of N members.

mod client;
mod crypto;

use openmls_traits::OpenMlsProvider;
use openmls_traits::crypto::OpenMlsCrypto;
use peerline::client::{CAN, Peer};

fn main() {
    let suites = crypto::Provider::default().crypto().supported_ciphersuites();
    let peer = Peer {
        name: "openmls",
        version: "0.9.2",
        suites: suites.into_iter().map(|s| s as u16).collect(),
        can: CAN.to_vec(),
    };
    let args: Vec<String> = std::env::args().skip(1).collect();
    peerline::main::<client::Openmls>(peer, &args);
}
