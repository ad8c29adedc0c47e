//! What proofs, and the answers of vendors, say of copies.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use fathom_protocol::codec::decode;
use fathom_protocol::keys::Phrase;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::wire::SyncRecord;

use super::super::path::tests::start;
use super::*;
use crate::golden;
use crate::roles::user::UserSettings;

#[tokio::test(flavor = "multi_thread")]
async fn fault_26_a_proof_of_a_dropped_lease_names_the_copies_that_are_gone() {
    let record: SyncRecord = decode(&golden::message("sync_proof_dropped"), FRAME_BYTES_MAX).unwrap();
    let SyncRecord::Proof(proof) = record.clone() else { panic!("a proof") };
    let proof = proof.verify().unwrap();
    let Offence::Dropped { owner, lease, .. } = proof.offence() else { panic!("a dropped lease") };
    let vendor = proof.vendor();
    let mirror = start(92, true, Some(record)).await;
    // The samples' user, whose lease it was, and another one.
    for (seed, entropy, is_owner) in [(93, 7, true), (94, 99, false)] {
        let dir = tempfile::tempdir().unwrap();
        let net = start(seed, false, None).await;
        net.book().learn(mirror.announcement().await.unwrap());
        let keys = Phrase::from_entropy([entropy; 32]).user_keys();
        let user = User::open(dir.path(), net, keys, UserSettings::TEST).unwrap();
        assert_eq!(user.owner() == owner, is_owner);
        let gone = user.proven(&BTreeSet::from([vendor])).await;
        assert_eq!(gone.has(Place { vendor, lease }), is_owner);
        assert!(
            !gone.has(Place { vendor, lease: fathom_protocol::ids::LeaseId([0xee; 16]) }),
            "no other lease is gone"
        );
        assert!(user.proven(&BTreeSet::new()).await.is_empty(), "a vendor that is not used concerns nobody");
    }
}
