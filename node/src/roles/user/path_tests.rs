//! Heads from mirrors that do not know the same.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use fathom_overlay::{ConnectionCaps, OverlayConfig};
use fathom_protocol::codec::decode;
use fathom_protocol::head::VendorRecord;
use fathom_protocol::ids::{Hash, NetworkId};
use fathom_protocol::keys::Phrase;
use fathom_protocol::sign::Carried;
use fathom_protocol::time::UnixMs;
use fathom_protocol::wire::{Page, Refusal, RefusalKind, Roles};

use super::*;
use crate::golden;
use crate::net::book::PeerBook;
use crate::net::{Handler, Net, serve_rpc};
use crate::roles::user::UserSettings;

/// A mirror that knows one record.
struct Knows(SyncRecord);

impl Handler for Knows {
    async fn handle(&self, _: NodeId, request: Request) -> Response {
        match (request, &self.0) {
            (Request::Heads(_), SyncRecord::Vendor(vendor)) => Response::Heads(Bounded::first([vendor.head.clone()])),
            (Request::Proofs(_), proof @ SyncRecord::Proof(_)) => {
                let records = Bounded::first([proof.clone()]);
                Response::Page(Page { log: Hash([0; 32]), next: 0, more: false, clock: UnixMs(0), records })
            }
            _ => Response::Refused(Refusal::new(RefusalKind::WrongRole, "knows one record only")),
        }
    }
}

/// A node, which answers with the record that it knows, if any.
pub(in crate::roles::user) async fn start(seed: u8, mirror: bool, knows: Option<SyncRecord>) -> Net {
    let config = OverlayConfig {
        key_seed: [seed; 32],
        network: NetworkId([9; 16]),
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()],
        external: Vec::new(),
        gossip: false,
        limits: ConnectionCaps::default(),
    };
    let (overlay, mut incoming) = fathom_overlay::start(config).await.unwrap();
    let roles = Roles { mirror, ..Roles::default() };
    let net = Net::new(overlay, SigningKey::from_bytes(&[seed; 32]), roles, PeerBook::default());
    if let Some(record) = knows {
        let answers = Arc::new(Knows(record));
        tokio::spawn(async move {
            while let Some(inbound) = incoming.streams.recv().await {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move { serve_rpc(inbound.stream, &*answers).await });
            }
        });
    }
    net
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_27_of_two_heads_the_newer_is_used_whoever_has_it() {
    let record: VendorRecord = decode(&golden::message("vendor_record"), 1 << 20).unwrap();
    let newest = record.head.peek().unwrap();
    // The samples' vendors sign with a key of one repeated byte.
    let key = (1..=9).map(|byte| SigningKey::from_bytes(&[byte; 32]));
    let key = key.into_iter().find(|key| key.verifying_key().to_bytes() == newest.vendor.0).unwrap();
    let hour_old = VendorHead { seq: newest.seq - 1, issued: UnixMs(newest.issued.0 - 3_600_000), ..newest.clone() };
    let signed = |head: &VendorHead| Signed::sign(head.clone(), &key).unwrap().into_carried();
    let with = |head| Some(SyncRecord::Vendor(VendorRecord { head, leases: Bounded::default() }));
    let forged = {
        let mut bytes = fathom_protocol::codec::encode(&signed(&newest));
        *bytes.last_mut().unwrap() ^= 1;
        decode::<Carried<VendorHead>>(&bytes, 1 << 20).unwrap()
    };
    let keys = Phrase::from_entropy([7; 32]).user_keys();
    for (seed, first) in [(81, &hour_old), (84, &newest)] {
        let second = if first == &newest { &hour_old } else { &newest };
        let (a, b) = (start(seed, true, with(signed(first))).await, start(seed + 1, true, with(signed(second))).await);
        let net = start(seed + 2, false, None).await;
        net.book().learn(a.announcement().await.unwrap());
        net.book().learn(b.announcement().await.unwrap());
        let dir = tempfile::tempdir().unwrap();
        let user = User::open(dir.path(), net, keys.clone(), UserSettings::TEST).unwrap();
        let heads = user.heads(BTreeSet::from([newest.vendor])).await.unwrap();
        assert_eq!((heads[&newest.vendor].seq, heads[&newest.vendor].issued), (newest.seq, newest.issued));
    }
    // One that forges hides nothing that the other has.
    let (a, b) = (start(87, true, with(forged)).await, start(88, true, with(signed(&hour_old))).await);
    let net = start(89, false, None).await;
    net.book().learn(a.announcement().await.unwrap());
    net.book().learn(b.announcement().await.unwrap());
    let dir = tempfile::tempdir().unwrap();
    let user = User::open(dir.path(), net, keys, UserSettings::TEST).unwrap();
    assert_eq!(user.heads(BTreeSet::from([newest.vendor])).await.unwrap()[&newest.vendor].seq, hour_old.seq);
}
