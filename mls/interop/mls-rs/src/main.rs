//! A peer of the interoperability tests over mls-rs: `mls-rs-peer` reads requests as docs/MLS.md
//! says under "Driving a peer", `mls-rs-peer bench N` measures groups of N members.
//!
//! The primitives are those of RustCrypto, or with `openssl` as the first argument those of
//! OpenSSL, which has all seven suites of RFC 9420.

mod client;

use mls_rs::CryptoProvider;
use mls_rs_crypto_openssl::OpensslCryptoProvider;
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use peerline::client::{CAN, Peer};

fn peer<P: CryptoProvider + Default>() -> Peer {
    let mut suites: Vec<u16> = P::default().supported_cipher_suites().into_iter().map(u16::from).collect();
    suites.sort();
    let more = ["propose_reinit", "reinit", "reinit_group", "branch"];
    Peer { name: "mls-rs", version: "0.57.0", suites, can: [&CAN[..], &more[..]].concat() }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "openssl" => {
            peerline::main::<client::MlsRs<OpensslCryptoProvider>>(peer::<OpensslCryptoProvider>(), rest);
        }
        _ => peerline::main::<client::MlsRs<RustCryptoProvider>>(peer::<RustCryptoProvider>(), &args),
    }
}
