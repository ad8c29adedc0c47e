//! The bytes of every sample, each with the name of its golden file.

use fathom_protocol::codec::encode;
use fathom_protocol::header::Headers;
use fathom_protocol::ids::{ChunkId, FileId, Hash, LeaseId, NodeId, OwnerId};
use fathom_protocol::root::LeaseProof;
use fathom_protocol::table::{Key, MoveKey};
use fathom_protocol::wire::FetchRequests;

use super::*;

fn table_keys() -> Vec<(&'static str, Key)> {
    let moved = MoveKey {
        owner: OwnerId([2; 32]),
        file: FileId([3; 16]),
        chunk: ChunkId([4; 32]),
        from_lease: LeaseId([5; 16]),
    };
    vec![
        ("key_vendor", Key::Vendor(NodeId([1; 32]))),
        ("key_fat", Key::Fat(OwnerId([2; 32]), FileId([3; 16]))),
        ("key_move", Key::Move(moved)),
        ("key_proof", Key::Proof(NodeId([1; 32]))),
        ("key_twin", Key::Twin(OwnerId([2; 32]), FileId([3; 16]), Hash([7; 32]))),
    ]
}

/// Everything that has golden bytes: a name and the bytes.
#[must_use]
pub fn golden() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(&str, Vec<u8>)> = vec![
        ("lease", encode(&signed(lease(1, 1), &key(1)))),
        ("vendor_head", encode(&signed(head(1, 17, &[]), &key(1)))),
        ("vendor_head_measured", encode(&signed(measured_head(1), &key(1)))),
        ("vendor_record", encode(&vendor_record(1, 17))),
        ("hop", encode(&hops(&[1])[0])),
        ("header", encode(&header())),
        ("headers", encode(&Headers::first([header(), header()]))),
        ("receipt", encode(&signed(receipt(), &key(1)))),
        ("final_fat", encode(&by_user(final_fat()))),
        ("final_fat_release", encode(&by_user(release()))),
        ("move_proposed", encode(&proposed_move())),
        ("move_cosigned", encode(&cosigned_move())),
        ("peer", encode(&signed(peer(), &key(4)))),
        ("allocate", encode(&by_user(allocate()))),
        ("owner_query", encode(&by_user(query()))),
        ("validation", encode(&by_user(validation()))),
        ("unused", encode(&by_user(unused()))),
        ("renew", encode(&by_user(renew()))),
        ("fetch_request", encode(&by_user(fetch()))),
        ("fetch_requests", encode(&FetchRequests::first([by_user(fetch()).into_carried()]))),
        ("chunk_answers", encode(&messages::chunk_answers_frame())),
        ("manifest", encode(&manifest())),
        ("manifest_coded", encode(&coded_manifest())),
        ("parity_4_2", parity()),
        ("rebuild", encode(&by_user(rebuild()))),
        ("manifest_sealed", sealed_manifest()),
        ("chunk_sealed", sealed_chunk()),
        ("user_keys", [&user().owner().0[..], &user().file_id("a/b").0].concat()),
        ("refusal_kinds", encode(&REFUSAL_KINDS)),
        ("lease_states", encode(&LEASE_STATES)),
    ];
    all.extend(requests().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(responses().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(chunk_answers().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(fetch_answers().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(gossips().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(sync_records().iter().map(|(name, value)| (*name, encode(value))));
    all.extend(table_keys().iter().map(|(name, key)| (*name, key.to_bytes())));
    let mut all: Vec<(String, Vec<u8>)> = all.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    for count in [0, 1, 2, 3, 5] {
        let root = root_of(count);
        all.push((format!("lease_root_{count}"), [&root.hash.0[..], &root.sum.to_le_bytes()].concat()));
        let proof = LeaseProof::new(entries(count), lease_id(4));
        all.push((format!("lease_proof_{count}"), encode(&proof)));
    }
    all
}
