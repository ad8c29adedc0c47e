//! `fathom fat --lease`: what is known of one lease, in words.

use std::fmt::Write as _;

use crate::cli::render::{count, instant, printable};
use crate::control::results::LeaseResult;
use crate::progress::{human_bytes, human_seconds, or_dash, short_id};

/// Files and moves that a person is shown.
const SHOWN_MAX: usize = 20;

pub(super) fn render(story: &LeaseResult) -> String {
    let mut text = format!(
        "Lease {}\n  at vendor   {} in zone {}\n",
        story.lease,
        short_id(&story.vendor),
        printable(or_dash(&story.zone))
    );
    // Writing to a String cannot fail.
    if let Some(lease) = &story.record {
        let _ = writeln!(text, "  for user    {}", short_id(&lease.owner));
        let _ = writeln!(text, "  state       {}", state(&lease.state));
        let room = lease.bytes.saturating_sub(lease.used);
        let _ = writeln!(text, "  holds       {}, {} of it stored", human_bytes(lease.bytes), human_bytes(lease.used));
        if room > 0 {
            let _ = writeln!(text, "  free room   {}, held until {}", human_bytes(room), instant(lease.room_expires));
        }
        let _ = writeln!(text, "  expires     {}, unless it is renewed", instant(lease.expires));
        let _ = writeln!(text, "  revision    {}", lease.revision);
    } else {
        text.push_str("  state       gone: the vendor holds no such lease any more; it was released, or it expired\n");
    }
    used_by(&mut text, story);
    for moved in story.moves.iter().take(SHOWN_MAX) {
        let (way, other) =
            if moved.from_lease == story.lease { ("moved to", &moved.to) } else { ("moved from", &moved.from) };
        let _ = writeln!(
            text,
            "  {way:<11} vendor {}: chunk {} ({}), {}",
            short_id(other),
            short_id(&moved.chunk),
            human_bytes(moved.length),
            instant(moved.at)
        );
    }
    more(&mut text, story.moves.len(), "moves");
    let proof = &story.proof;
    let says = if story.live { "the lease is among them, as shown" } else { "no lease of this name is among them" };
    let _ = write!(
        text,
        "  proof       verified here: {says}\n              head epoch {}, number {}, signed {} ({} ago) by the vendor\n              root {} over {}; {} of proof from mirror {}",
        proof.epoch,
        proof.seq,
        instant(proof.issued),
        human_seconds(proof.age_seconds),
        short_id(&proof.root),
        count(proof.leases, "lease", "leases"),
        human_bytes(proof.bytes),
        short_id(&proof.mirror)
    );
    text
}

fn used_by(text: &mut String, story: &LeaseResult) {
    if story.used_by.is_empty() {
        text.push_str("  used by     no file of the user of this node\n");
    }
    for used in story.used_by.iter().take(SHOWN_MAX) {
        let name = used.name.as_deref().map_or_else(|| format!("file {}", short_id(&used.file)), printable);
        let _ = writeln!(text, "  used by     {name}: {}", human_bytes(used.bytes));
    }
    more(text, story.used_by.len(), "files");
}

fn more(text: &mut String, all: usize, what: &str) {
    if all > SHOWN_MAX {
        let _ = writeln!(text, "              and {} more {what} (--json lists them)", all - SHOWN_MAX);
    }
}

fn state(state: &str) -> &str {
    match state {
        "offered" => "offered: the room is held, and nothing of it is stored yet",
        "locked" => "locked: bytes arrive, and no final FAT names them yet",
        "committed" => "committed: a final FAT names what is stored",
        "grace" => "in grace: it has expired, can be read and renewed, and is erased when grace ends",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::control::results::{LeaseMove, LeaseProofResult, LeaseRecord, LeaseUse};

    #[test]
    fn a_lease_is_told_in_words_with_its_proof() {
        let record = LeaseRecord {
            owner: "cd".repeat(32),
            bytes: 5 << 20,
            used: 3 << 20,
            state: "committed".into(),
            revision: 4,
            ..LeaseRecord::default()
        };
        let proof = LeaseProofResult {
            verified: true,
            epoch: 2,
            seq: 9,
            leases: 7,
            bytes: 300,
            age_seconds: 90,
            ..LeaseProofResult::default()
        };
        let mut story = LeaseResult {
            lease: "ab".repeat(16),
            live: true,
            record: Some(record),
            used_by: vec![LeaseUse { name: Some("Letters/a.txt\u{1b}".into()), bytes: 10, ..LeaseUse::default() }],
            moves: vec![LeaseMove { from_lease: "ab".repeat(16), to: "ef".repeat(32), ..LeaseMove::default() }],
            proof,
            ..LeaseResult::default()
        };
        let text = render(&story);
        for part in [
            "committed: a final FAT",
            "5.00 MiB, 3.00 MiB of it stored",
            "Letters/a.txt?: 10 B",
            "moved to    vendor efefefef",
            "epoch 2, number 9",
            "90 s ago",
            "over 7 leases",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        (story.live, story.record) = (false, None);
        let text = render(&story);
        assert!(text.contains("gone: the vendor holds") && text.contains("no lease of this name"), "{text}");
    }
}
