//! The two forms of a network descriptor: round trips, golden texts, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use fathom_bootstrap::{DescriptorError, INVITE_PREFIX, NetworkDescriptor, PEERS_MAX, TEXT_BYTES_MAX};
use fathom_protocol::ids::{Hash, NetworkId};

const PEER: &str = "/ip4/192.0.2.1/udp/4600/quic-v1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X";

fn sample() -> NetworkDescriptor {
    NetworkDescriptor::create("friends", NetworkId([7; 16]), [PEER.to_owned()]).unwrap()
}

/// A base32 text of these bytes with a right checksum: what a program that is not Fathom could write.
fn forge(mut bytes: Vec<u8>) -> String {
    let hash = Hash::of(&bytes);
    bytes.extend_from_slice(&hash.0[..4]);
    let base32 = data_encoding::BASE32_NOPAD.encode(&bytes);
    format!("{INVITE_PREFIX}{}", base32.to_lowercase())
}

/// Never edit these two texts: files and invites of this version are out there.
#[test]
fn golden_forms() {
    let toml = include_str!("golden/descriptor-v1.toml");
    let invite = include_str!("golden/invite-v1.txt").trim();
    assert_eq!(sample().to_toml(), toml);
    assert_eq!(sample().to_invite(), invite);
    assert_eq!(NetworkDescriptor::parse(toml).unwrap(), sample());
    assert_eq!(NetworkDescriptor::parse(invite).unwrap(), sample());
}

#[test]
fn both_forms_round_trip() {
    let peers = |count: usize| (0..count).map(|n| PEER.replace("4600", &n.to_string())).collect::<Vec<_>>();
    for (name, count) in [("a", 0), ("Ünï \"quoted\" \\ name", 1), (&"n".repeat(64), 3), ("all", PEERS_MAX)] {
        let descriptor = NetworkDescriptor::create(name, NetworkId([255; 16]), peers(count)).unwrap();
        assert_eq!(NetworkDescriptor::parse(&descriptor.to_toml()).unwrap(), descriptor);
        assert_eq!(NetworkDescriptor::parse(&descriptor.to_invite()).unwrap(), descriptor);
        assert!(descriptor.to_invite().len() <= TEXT_BYTES_MAX);
    }
}

#[test]
fn an_invite_survives_mail() {
    let invite = sample().to_invite();
    let broken: String =
        invite.chars().enumerate().flat_map(|(n, c)| if n % 60 == 59 { vec![c, '\n'] } else { vec![c] }).collect();
    assert_eq!(NetworkDescriptor::parse(&format!("  {broken}\r\n")).unwrap(), sample());
    assert_eq!(NetworkDescriptor::parse(&invite.to_uppercase()).unwrap(), sample());
}

#[test]
fn a_damaged_invite_is_told() {
    let invite = sample().to_invite();
    let damaged = |text: &str| {
        let error = NetworkDescriptor::parse(text).unwrap_err();
        assert!(
            matches!(error, DescriptorError::InviteChecksum | DescriptorError::InviteAlphabet),
            "{text}: {error:?}"
        );
    };
    for cut in INVITE_PREFIX.len()..invite.len() {
        damaged(&invite[..cut]);
    }
    for at in INVITE_PREFIX.len()..invite.len() - 1 {
        let mut text = invite.clone().into_bytes();
        text[at] = if text[at] == b'a' { b'b' } else { b'a' };
        damaged(&String::from_utf8(text).unwrap());
    }
    damaged(&format!("{INVITE_PREFIX}0189!"));
    damaged(&format!("{INVITE_PREFIX}äöü"));
}

#[test]
fn an_invite_with_a_right_checksum_and_wrong_content_is_refused() {
    let head = |name: &[u8]| [&[1][..], &[7; 16], &[name.len() as u8], name].concat();
    let with = |rest: &[u8]| NetworkDescriptor::parse(&forge([head(b"n").as_slice(), rest].concat())).unwrap_err();
    assert_eq!(with(&[]), DescriptorError::InviteLength);
    assert_eq!(with(&[0, 0]), DescriptorError::InviteLength);
    assert_eq!(with(&[1]), DescriptorError::InviteLength);
    assert_eq!(with(&[1, 0, 5, b'/']), DescriptorError::InviteLength);
    assert!(matches!(with(&[33]), DescriptorError::TooManyPeers { found: 33 }));
    assert!(matches!(with(&[255]), DescriptorError::TooManyPeers { found: 255 }));
    assert!(matches!(with(&[1, 255, 255]), DescriptorError::PeerAddress { .. }));
    assert!(matches!(with(&[1, 1, 1]), DescriptorError::PeerAddress { .. }));
    assert!(matches!(with(&[1, 0, 0]), DescriptorError::PeerAddress { .. }));
    assert!(matches!(with(&[1, 0, 1, 0xff]), DescriptorError::PeerAddress { .. }));
    let parse = |bytes: Vec<u8>| NetworkDescriptor::parse(&forge(bytes)).unwrap_err();
    assert_eq!(parse(Vec::new()), DescriptorError::InviteLength);
    assert_eq!(parse(vec![2]), DescriptorError::Version { found: 2 });
    assert_eq!(parse([head(b"").as_slice(), &[0]].concat()), DescriptorError::Name);
    assert_eq!(parse([head(&[0xff]).as_slice(), &[0]].concat()), DescriptorError::Name);
    assert_eq!(parse([head(&[b'n'; 65]).as_slice(), &[0]].concat()), DescriptorError::Name);
}

#[test]
fn what_is_no_descriptor_is_refused() {
    let parse = |text: &str| NetworkDescriptor::parse(text).unwrap_err();
    assert_eq!(parse(" \n"), DescriptorError::Empty);
    assert!(matches!(parse("hello"), DescriptorError::Syntax { .. }));
    assert!(matches!(parse("version = 1"), DescriptorError::Syntax { .. }));
    assert!(matches!(parse(&"x".repeat(TEXT_BYTES_MAX)), DescriptorError::Syntax { .. }));
    assert!(matches!(parse(&"x".repeat(TEXT_BYTES_MAX + 1)), DescriptorError::TooLong { .. }));
    let toml = sample().to_toml();
    assert_eq!(parse(&toml.replace("version = 1", "version = 2\nnew = 1")), DescriptorError::Version { found: 2 });
    assert!(matches!(parse(&toml.replace("version = 1", "version = 1\nnew = 1")), DescriptorError::Syntax { .. }));
    assert_eq!(parse(&toml.replace("0707", "07")), DescriptorError::Id);
    assert_eq!(parse(&toml.replace("friends", "a\\u0007b")), DescriptorError::Name);
}

#[test]
fn limits_hold_at_their_edges() {
    let create = |name: &str, peers: Vec<String>| NetworkDescriptor::create(name, NetworkId([0; 16]), peers);
    assert_eq!(create("", vec![]), Err(DescriptorError::Name));
    assert!(create("n", vec![]).is_ok());
    assert!(create(&"n".repeat(64), vec![]).is_ok());
    assert_eq!(create(&"n".repeat(65), vec![]), Err(DescriptorError::Name));
    let peers = |count: usize| (0..count).map(|n| PEER.replace("4600", &n.to_string())).collect();
    assert!(create("n", peers(PEERS_MAX)).is_ok());
    assert!(matches!(create("n", peers(PEERS_MAX + 1)), Err(DescriptorError::TooManyPeers { .. })));
    let long = |bytes: usize| format!("/dns/{}{}", "h".repeat(bytes - PEER.len() - 5), PEER);
    assert_eq!(long(256).len(), 256);
    assert!(create("n", vec![long(256)]).is_ok());
    assert!(create("n", vec![long(257)]).is_err());
    assert_eq!(create("n", vec![PEER.to_owned(); 50]).unwrap().peers(), [PEER]);
    for bad in [
        "",
        "/",
        "/p2p/",
        "192.0.2.1:4600",
        "/ip4/192.0.2.1/udp/4600/quic-v1",
        "/ip4/1/p2p/short",
        &format!("{PEER}\n"),
        &PEER.replace("udp", "u dp"),
    ] {
        assert!(matches!(create("n", vec![bad.to_owned()]), Err(DescriptorError::PeerAddress { .. })), "{bad:?}");
    }
}

#[test]
fn every_refusal_says_what_to_do() {
    for error in [
        DescriptorError::TooLong { bytes: 1 },
        DescriptorError::Empty,
        DescriptorError::Syntax { reason: String::new() },
        DescriptorError::Version { found: 2 },
        DescriptorError::InviteAlphabet,
        DescriptorError::InviteChecksum,
        DescriptorError::InviteLength,
        DescriptorError::Name,
        DescriptorError::Id,
        DescriptorError::TooManyPeers { found: 33 },
    ] {
        assert!(error.to_string().contains("; "), "{error}");
    }
}
