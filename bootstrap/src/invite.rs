//! The compact form: `fathom:` and lower-case base32 (RFC 4648, no padding) of these bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 16 | network id |
//! | 1 | length of the name, 1 to 64 |
//! | n | name, UTF-8 |
//! | 1 | number of peers, 0 to 32 |
//! | 2 + n each | length of the address, big endian, 1 to 256; the address as text |
//! | 4 | the first bytes of the BLAKE3 hash of everything before |
//!
//! The checksum finds an invite that was cut or mistyped. It is no signature.

use data_encoding::BASE32_NOPAD;
use fathom_protocol::ids::{Hash, NetworkId};
use fathom_protocol::limits::{ADDRESS_BYTES_MAX, LABEL_BYTES_MAX};

use crate::descriptor::{DescriptorError, NetworkDescriptor, PEERS_MAX};

/// What every invite begins with.
pub const INVITE_PREFIX: &str = "fathom:";
/// Version of the invite's bytes.
pub const INVITE_VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 4;

/// Whether `text` means to be an invite.
pub(crate) fn is_invite(text: &str) -> bool {
    text.get(..INVITE_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(INVITE_PREFIX))
}

/// The invite of a descriptor, whose lengths its constructor has checked.
pub(crate) fn encode(descriptor: &NetworkDescriptor) -> String {
    let mut bytes = vec![INVITE_VERSION];
    bytes.extend_from_slice(descriptor.id().as_bytes());
    bytes.push(u8::try_from(descriptor.name().len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(descriptor.name().as_bytes());
    bytes.push(u8::try_from(descriptor.peers().len()).unwrap_or(u8::MAX));
    for peer in descriptor.peers() {
        let length = u16::try_from(peer.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(peer.as_bytes());
    }
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    format!("{INVITE_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// Reads an invite; `text` is bounded by the caller and begins with the prefix.
pub(crate) fn decode(text: &str) -> Result<NetworkDescriptor, DescriptorError> {
    let letters: String = text
        .chars()
        .skip(INVITE_PREFIX.len())
        .filter(|letter| !letter.is_whitespace())
        .map(|letter| letter.to_ascii_uppercase())
        .collect();
    let bytes = BASE32_NOPAD.decode(letters.as_bytes()).map_err(|error| match error.kind {
        data_encoding::DecodeKind::Symbol => DescriptorError::InviteAlphabet,
        // A text of impossible length is one that was cut.
        _ => DescriptorError::InviteChecksum,
    })?;
    let Some((content, found)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(DescriptorError::InviteChecksum);
    };
    if *found != checksum(content) {
        return Err(DescriptorError::InviteChecksum);
    }
    let mut reader = Reader(content);
    let version = reader.u8()?;
    if version != INVITE_VERSION {
        return Err(DescriptorError::Version { found: u32::from(version) });
    }
    let id = NetworkId::from_slice(reader.take(NetworkId::LEN)?).ok_or(DescriptorError::Id)?;
    let name_bytes = usize::from(reader.u8()?);
    if name_bytes > LABEL_BYTES_MAX {
        return Err(DescriptorError::Name);
    }
    let name = std::str::from_utf8(reader.take(name_bytes)?).map_err(|_| DescriptorError::Name)?.to_owned();
    let count = usize::from(reader.u8()?);
    if count > PEERS_MAX {
        return Err(DescriptorError::TooManyPeers { found: count });
    }
    let mut peers = Vec::with_capacity(count);
    for _ in 0..count {
        peers.push(reader.address()?);
    }
    if !reader.0.is_empty() {
        return Err(DescriptorError::InviteLength);
    }
    NetworkDescriptor::create(name, id, peers)
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = Hash::of(content).0;
    [a, b, c, d]
}

/// What of the content is still unread.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], DescriptorError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(DescriptorError::InviteLength)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DescriptorError> {
        self.take(1).map(|taken| taken[0])
    }

    fn address(&mut self) -> Result<String, DescriptorError> {
        let high = self.u8()?;
        let low = self.u8()?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let unreadable = |bytes: &[u8]| DescriptorError::PeerAddress {
            address: String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned(),
        };
        if length > ADDRESS_BYTES_MAX {
            return Err(unreadable(self.0));
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| unreadable(bytes))
    }
}
