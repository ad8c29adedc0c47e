//! The node's network: `DIR/network.toml`.

use std::path::{Path, PathBuf};

use fathom_bootstrap::{DescriptorError, INVITE_PREFIX, NetworkDescriptor};
use fathom_protocol::ids::NetworkId;

use crate::home::{Home, HomeError, MODE_PUBLIC, read_text, write_atomic};

/// Why a network cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The directory or a file in it.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No `network.toml`.
    #[error("this node is in no network; ask somebody in one for an invite and run `fathom join INVITE`")]
    None,
    /// The file that was named is not there.
    #[error("{} is neither an invite (fathom:...) nor a file; check its name", .0.display())]
    NoFile(PathBuf),
    /// A text that is no descriptor.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// `network.toml` is damaged.
    #[error("{}: {error}", path.display())]
    Stored {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: DescriptorError,
    },
    /// A descriptor that leads nowhere.
    #[error(
        "the network \"{0}\" has no address to enter it by; run `fathom invite` at a running node of it, and join by that"
    )]
    NoPeers(String),
    /// The directory belongs to another network.
    #[error("this node is in the network \"{0}\" already; use another directory (--dir) for another network")]
    Other(String),
    /// The system gave no random bytes.
    #[error("failed to get random bytes from the system: {0}")]
    Random(String),
}

/// The descriptor that `source` is (an invite) or names (a file).
///
/// # Errors
/// [`NetworkError::NoFile`], [`NetworkError::Descriptor`] or [`NetworkError::Home`].
pub fn read(source: &str) -> Result<NetworkDescriptor, NetworkError> {
    let source = source.trim();
    if source.get(..INVITE_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(INVITE_PREFIX)) {
        return Ok(NetworkDescriptor::parse(source)?);
    }
    let path = Path::new(source);
    let text = read_text(path)?.ok_or_else(|| NetworkError::NoFile(path.to_owned()))?;
    Ok(NetworkDescriptor::parse(&text)?)
}

/// A new network, which has no peers yet.
///
/// # Errors
/// [`NetworkError::Descriptor`] for its name, or [`NetworkError::Random`].
pub fn found(name: &str) -> Result<NetworkDescriptor, NetworkError> {
    let mut id = [0; NetworkId::LEN];
    getrandom::fill(&mut id).map_err(|error| NetworkError::Random(error.to_string()))?;
    Ok(NetworkDescriptor::create(name, NetworkId(id), [])?)
}

/// The network of `home`.
///
/// # Errors
/// [`NetworkError::None`], [`NetworkError::Stored`] or [`NetworkError::Home`].
pub fn load(home: &Home) -> Result<NetworkDescriptor, NetworkError> {
    let path = home.network();
    let text = read_text(&path)?.ok_or(NetworkError::None)?;
    NetworkDescriptor::parse(&text).map_err(|error| NetworkError::Stored { path, error })
}

/// Puts `descriptor` down as the network of `home`, in place of an older descriptor of the same network.
///
/// # Errors
/// [`NetworkError::Other`] if the node is in another network, or [`NetworkError::Home`].
pub fn store(home: &Home, descriptor: &NetworkDescriptor) -> Result<(), NetworkError> {
    match load(home) {
        Ok(there) if there.id() != descriptor.id() => return Err(NetworkError::Other(there.name().to_owned())),
        // A damaged file says nothing worth keeping.
        Ok(_) | Err(NetworkError::None | NetworkError::Stored { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(write_atomic(&home.network(), descriptor.to_toml().as_bytes(), MODE_PUBLIC)?)
}

/// Checks that a newcomer can enter by `descriptor`.
///
/// # Errors
/// [`NetworkError::NoPeers`].
pub fn check_enterable(descriptor: &NetworkDescriptor) -> Result<(), NetworkError> {
    match descriptor.peers() {
        [] => Err(NetworkError::NoPeers(descriptor.name().to_owned())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_network_is_stored_and_not_exchanged_for_another() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::create(temp.path()).unwrap();
        assert!(matches!(load(&home), Err(NetworkError::None)));
        let first = found("first").unwrap();
        store(&home, &first).unwrap();
        assert_eq!(load(&home).unwrap(), first);
        let peer = format!("/ip4/192.0.2.1/udp/4600/quic-v1/p2p/12D3KooW{}", "a".repeat(44));
        let richer = first.with_peers([peer]).unwrap();
        store(&home, &richer).unwrap();
        assert_eq!(load(&home).unwrap(), richer);
        assert!(matches!(store(&home, &found("first").unwrap()), Err(NetworkError::Other(_))));
        assert_eq!(load(&home).unwrap(), richer);
    }

    #[test]
    fn a_descriptor_is_read_from_either_form() {
        let temp = tempfile::tempdir().unwrap();
        let network = found("home").unwrap();
        let file = temp.path().join("network.toml");
        std::fs::write(&file, network.to_toml()).unwrap();
        assert_eq!(read(file.to_str().unwrap()).unwrap(), network);
        assert_eq!(read(&network.to_invite()).unwrap(), network);
        assert!(matches!(read("nowhere.toml"), Err(NetworkError::NoFile(_))));
        assert!(matches!(check_enterable(&network), Err(NetworkError::NoPeers(_))));
    }
}
