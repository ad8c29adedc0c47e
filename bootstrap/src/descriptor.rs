//! The descriptor itself, its checks, and its TOML form.

use std::fmt::Write as _;

use fathom_protocol::ids::NetworkId;
use fathom_protocol::limits::{ADDRESS_BYTES_MAX, LABEL_BYTES_MAX};
use serde::Deserialize;

use crate::invite;

/// Version of the descriptor's TOML form that this program writes and reads.
pub const DESCRIPTOR_VERSION: u32 = 1;
/// Peers that one descriptor may name. A newcomer needs one that answers; the rest are spares.
pub const PEERS_MAX: usize = 32;
/// Length of a descriptor or an invite as text, in bytes.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// A network, and peers through which it can be entered.
///
/// Invariant: every value of this type passed the checks of [`NetworkDescriptor::create`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDescriptor {
    version: u32,
    name: String,
    id: NetworkId,
    peers: Vec<String>,
}

/// Why a text or its parts are not a network descriptor. Each message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// The text is longer than [`TEXT_BYTES_MAX`].
    #[error(
        "the text has {bytes} bytes, more than the {TEXT_BYTES_MAX} of any network descriptor; check that it is the right file"
    )]
    TooLong {
        /// Length found, in bytes.
        bytes: usize,
    },
    /// Nothing but white space.
    #[error("the text is empty; pass an invite (fathom:...) or a network descriptor file")]
    Empty,
    /// Neither TOML with the expected keys nor an invite.
    #[error("this is neither an invite (fathom:...) nor a network descriptor: {reason}; ask for a new invite")]
    Syntax {
        /// What the TOML reader says.
        reason: String,
    },
    /// Written by another version of the program.
    #[error(
        "the descriptor has version {found}, and this fathom reads version {DESCRIPTOR_VERSION}; update fathom, or ask for an invite of version {DESCRIPTOR_VERSION}"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// The invite has characters outside base32.
    #[error("the invite has a character that no invite has; copy it again, whole")]
    InviteAlphabet,
    /// The invite's checksum does not fit its content.
    #[error("the invite is damaged (its checksum does not fit); copy it again, whole")]
    InviteChecksum,
    /// The invite's checksum fits but its content is cut short or has bytes left over.
    #[error("the invite's content has a wrong length; ask for a new invite")]
    InviteLength,
    /// Name empty, too long, or with control characters.
    #[error("the network's name must have 1 to {LABEL_BYTES_MAX} bytes and no control characters; choose another name")]
    Name,
    /// Not 32 hexadecimal digits.
    #[error("the network's id must be 32 hexadecimal digits; ask for a new invite")]
    Id,
    /// More than [`PEERS_MAX`] peers.
    #[error("the descriptor names {found} peers, more than {PEERS_MAX}; leave some out")]
    TooManyPeers {
        /// How many were found.
        found: usize,
    },
    /// A peer's address that cannot be one.
    #[error(
        "{address:?} is not a peer's address like /ip4/192.0.2.1/udp/4600/quic-v1/p2p/12D3Koo...; correct or remove it"
    )]
    PeerAddress {
        /// The text, cut to a readable length.
        address: String,
    },
}

/// The TOML form as read. Only [`NetworkDescriptor::create`] makes a descriptor of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlForm {
    version: u32,
    name: String,
    id: String,
    #[serde(default)]
    peers: Vec<String>,
}

/// Read first and alone, so that a newer version is told as such and not as an unknown key.
#[derive(Deserialize)]
struct TomlVersion {
    version: u32,
}

impl NetworkDescriptor {
    /// A descriptor of these parts. `peers` may be empty: so it is at the node that founds the network.
    /// Peers that are named twice are kept once.
    ///
    /// # Errors
    /// [`DescriptorError::Name`], [`DescriptorError::TooManyPeers`] or [`DescriptorError::PeerAddress`].
    pub fn create(
        name: impl Into<String>,
        id: NetworkId,
        peers: impl IntoIterator<Item = String>,
    ) -> Result<Self, DescriptorError> {
        let name = name.into();
        if name.trim().is_empty() || name.len() > LABEL_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(DescriptorError::Name);
        }
        let mut kept: Vec<String> = Vec::new();
        for peer in peers {
            check_peer(&peer)?;
            if !kept.contains(&peer) {
                kept.push(peer);
            }
            if kept.len() > PEERS_MAX {
                return Err(DescriptorError::TooManyPeers { found: kept.len() });
            }
        }
        Ok(Self { version: DESCRIPTOR_VERSION, name, id, peers: kept })
    }

    /// Reads either form: a text that begins with `fathom:` is an invite, anything else is TOML. White space
    /// inside an invite is ignored, since mail programs break long lines.
    ///
    /// # Errors
    /// Any [`DescriptorError`].
    pub fn parse(text: &str) -> Result<Self, DescriptorError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(DescriptorError::TooLong { bytes: text.len() });
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(DescriptorError::Empty);
        }
        if invite::is_invite(text) {
            return invite::decode(text);
        }
        let syntax = |error: toml::de::Error| DescriptorError::Syntax { reason: error.message().to_owned() };
        let TomlVersion { version } = toml::from_str(text).map_err(syntax)?;
        if version != DESCRIPTOR_VERSION {
            return Err(DescriptorError::Version { found: version });
        }
        let form: TomlForm = toml::from_str(text).map_err(syntax)?;
        debug_assert_eq!(form.version, version, "both passes read the same text");
        let id = form.id.parse().map_err(|_| DescriptorError::Id)?;
        Self::create(form.name, id, form.peers)
    }

    /// The descriptor as a TOML file with comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut out = String::from(
            "# A Fathom network: what it is called, and nodes through which it can be entered.\n\
             # Enter it with `fathom join FILE`.\n",
        );
        // Writing to a String cannot fail.
        let _ = writeln!(out, "version = {}", self.version);
        let _ = writeln!(out, "name = {}", quote(&self.name));
        let _ = writeln!(out, "id = \"{}\"", self.id);
        if self.peers.is_empty() {
            out.push_str("peers = []\n");
        } else {
            out.push_str("peers = [\n");
            for peer in &self.peers {
                let _ = writeln!(out, "    {},", quote(peer));
            }
            out.push_str("]\n");
        }
        out
    }

    /// The descriptor as an invite, one line that begins with `fathom:`.
    #[must_use]
    pub fn to_invite(&self) -> String {
        invite::encode(self)
    }

    /// The same network with other entry peers.
    ///
    /// # Errors
    /// [`DescriptorError::TooManyPeers`] or [`DescriptorError::PeerAddress`].
    pub fn with_peers(&self, peers: impl IntoIterator<Item = String>) -> Result<Self, DescriptorError> {
        Self::create(self.name.clone(), self.id, peers)
    }

    /// Version of the descriptor's form.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What people call the network, 1 to 64 bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network's identifier, which is part of every protocol name.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// Multiaddresses that end in `/p2p/<peer id>`, in order of preference.
    #[must_use]
    pub fn peers(&self) -> &[String] {
        &self.peers
    }
}

/// A textual check only: dialling finds out the rest. It keeps out what cannot be an address, so that nothing
/// odd is shown to a person or handed to a parser.
fn check_peer(address: &str) -> Result<(), DescriptorError> {
    let looks_right = address.len() <= ADDRESS_BYTES_MAX
        && address.starts_with('/')
        && address.bytes().all(|byte| byte.is_ascii_graphic())
        && address.rsplit_once("/p2p/").is_some_and(|(transport, peer)| {
            transport.len() > 1
                && (32..=64).contains(&peer.len())
                && peer.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
    if looks_right {
        return Ok(());
    }
    let shown: String = address.chars().take(80).collect();
    Err(DescriptorError::PeerAddress { address: shown })
}
