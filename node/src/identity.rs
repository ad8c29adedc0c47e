//! Who the node and its user are: `node.key` and `user.key`.
//!
//! Both files hold one line of text, so that a person can tell what they are:
//!
//! | file | content |
//! |---|---|
//! | `node.key` | `fathom-node-key-1 `, the ed25519 seed as 64 hexadecimal digits, line feed |
//! | `user.key` | `fathom-user-key-1 `, the recovery phrase's 32 bytes of entropy as 64 hexadecimal digits, line feed |
//!
//! The `1` is the version of the line. Whoever has `user.key` has the phrase and all files of the user.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use fathom_protocol::ids::{NodeId, OwnerId};
use fathom_protocol::keys::{Phrase, PhraseError, UserKeys};
use zeroize::Zeroizing;

use crate::home::{Home, HomeError, MODE_SECRET, create_atomic, read_secret};

const NODE_LINE: &str = "fathom-node-key-1 ";
const USER_LINE: &str = "fathom-user-key-1 ";
/// Length of a seed and of a phrase's entropy, in bytes.
const SEED_BYTES: usize = 32;

/// Why an identity cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory or a file in it.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No `node.key`.
    #[error("{} is missing; restore it from a backup, or create a new node with `fathom init`", .0.display())]
    NoNodeKey(PathBuf),
    /// No `user.key`.
    #[error(
        "there is no user in {}; run `fathom recover` to bring one back from its recovery phrase, or `fathom init --role user` in a new directory", .0.display()
    )]
    NoUserKey(PathBuf),
    /// A key file that this program did not write.
    #[error("{} does not hold a key; restore it from a backup", .0.display())]
    Content(PathBuf),
    /// The words are no recovery phrase.
    #[error("{0}; check the 24 words and their order")]
    Phrase(#[from] PhraseError),
    /// Another user's key is there.
    #[error("{} holds another user's key; use another directory (--dir) for this user", .0.display())]
    OtherUser(PathBuf),
    /// The system gave no random bytes.
    #[error("failed to get random bytes from the system: {0}")]
    Random(String),
}

fn random_seed() -> Result<Zeroizing<[u8; SEED_BYTES]>, IdentityError> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    getrandom::fill(seed.as_mut_slice()).map_err(|error| IdentityError::Random(error.to_string()))?;
    Ok(seed)
}

/// A node's key: an ed25519 seed.
pub struct NodeKey {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    node: NodeId,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKey").field("node", &self.node).finish_non_exhaustive()
    }
}

impl NodeKey {
    /// The key of this seed.
    #[must_use]
    pub fn from_seed(seed: Zeroizing<[u8; SEED_BYTES]>) -> Self {
        let node = NodeId(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        Self { seed, node }
    }

    /// Draws a key and stores it, durable when this returns.
    ///
    /// # Errors
    /// [`HomeError::Exists`] if there is one already; [`IdentityError::Random`]; or [`HomeError::Io`].
    pub fn create(home: &Home) -> Result<Self, IdentityError> {
        let key = Self::from_seed(random_seed()?);
        store(&home.node_key(), NODE_LINE, &key.seed)?;
        Ok(key)
    }

    /// Reads the stored key.
    ///
    /// # Errors
    /// [`IdentityError::NoNodeKey`], [`IdentityError::Content`] or [`IdentityError::Home`].
    pub fn load(home: &Home) -> Result<Self, IdentityError> {
        let path = home.node_key();
        load(&path, NODE_LINE)?.map(Self::from_seed).ok_or(IdentityError::NoNodeKey(path))
    }

    /// The 32-byte ed25519 seed.
    #[must_use]
    pub fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// The key that signs this node's records.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.seed)
    }

    /// The public key.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// The public key as a libp2p peer id.
    #[must_use]
    pub fn peer_id(&self) -> String {
        peer_id(self.node)
    }
}

/// The libp2p peer id of a node: base58 of an identity multihash (0x00, length 36) over the protobuf of an ed25519
/// key (field 1 type: 1; field 2 data: 32 bytes). Source: the libp2p peer id specification.
#[must_use]
pub fn peer_id(node: NodeId) -> String {
    let mut bytes = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    bytes.extend_from_slice(node.as_bytes());
    bs58::encode(bytes).into_string()
}

/// A user: the recovery phrase, and the keys that derive from it.
pub struct UserSecret {
    phrase: Phrase,
    keys: UserKeys,
}

impl std::fmt::Debug for UserSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSecret").field("owner", &self.owner()).finish_non_exhaustive()
    }
}

impl UserSecret {
    /// The user of this phrase. Deriving its keys takes some milliseconds.
    #[must_use]
    pub fn from_phrase(phrase: Phrase) -> Self {
        let keys = phrase.user_keys();
        Self { phrase, keys }
    }

    /// The user of these 24 words, in any case and with any white space between them.
    ///
    /// # Errors
    /// [`IdentityError::Phrase`].
    pub fn from_words(words: &str) -> Result<Self, IdentityError> {
        Ok(Self::from_phrase(Phrase::parse(words)?))
    }

    /// Draws a user and stores it, durable when this returns.
    ///
    /// # Errors
    /// [`HomeError::Exists`] if there is one already; [`IdentityError::Random`]; or [`HomeError::Io`].
    pub fn create(home: &Home) -> Result<Self, IdentityError> {
        let secret = Self::from_phrase(Phrase::from_entropy(*random_seed()?));
        store(&home.user_key(), USER_LINE, secret.phrase.entropy())?;
        Ok(secret)
    }

    /// Stores a user that was recovered. Storing the one that is there already changes nothing.
    ///
    /// # Errors
    /// [`IdentityError::OtherUser`] if the directory belongs to somebody else, or [`IdentityError::Home`].
    pub fn store(&self, home: &Home) -> Result<(), IdentityError> {
        let path = home.user_key();
        match load(&path, USER_LINE)? {
            Some(there) if *there == *self.phrase.entropy() => Ok(()),
            Some(_) => Err(IdentityError::OtherUser(path)),
            None => store(&path, USER_LINE, self.phrase.entropy()),
        }
    }

    /// Reads the stored user.
    ///
    /// # Errors
    /// [`IdentityError::NoUserKey`], [`IdentityError::Content`] or [`IdentityError::Home`].
    pub fn load(home: &Home) -> Result<Self, IdentityError> {
        let entropy =
            load(&home.user_key(), USER_LINE)?.ok_or_else(|| IdentityError::NoUserKey(home.dir().to_owned()))?;
        Ok(Self::from_phrase(Phrase::from_entropy(*entropy)))
    }

    /// The recovery phrase: 24 words, one space between them.
    #[must_use]
    pub fn words(&self) -> Zeroizing<String> {
        Zeroizing::new(self.phrase.words())
    }

    /// The keys with which the user signs and seals.
    #[must_use]
    pub fn keys(&self) -> &UserKeys {
        &self.keys
    }

    /// The user's public key.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        self.keys.owner()
    }
}

fn store(path: &Path, line: &str, seed: &[u8; SEED_BYTES]) -> Result<(), IdentityError> {
    let digits = Zeroizing::new(HEXLOWER.encode(seed));
    let mut text = Zeroizing::new(String::with_capacity(line.len() + digits.len() + 1));
    text.push_str(line);
    text.push_str(&digits);
    text.push('\n');
    Ok(create_atomic(path, text.as_bytes(), MODE_SECRET)?)
}

/// The seed of a key file; `None` if there is no file.
fn load(path: &Path, line: &str) -> Result<Option<Zeroizing<[u8; SEED_BYTES]>>, IdentityError> {
    let Some(text) = read_secret(path)? else {
        return Ok(None);
    };
    let wrong = || IdentityError::Content(path.to_owned());
    let digits = text.trim_end().strip_prefix(line).ok_or_else(wrong)?;
    let bytes = Zeroizing::new(HEXLOWER.decode(digits.as_bytes()).map_err(|_| wrong())?);
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    if bytes.len() != seed.len() {
        return Err(wrong());
    }
    seed.copy_from_slice(&bytes);
    Ok(Some(seed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::create(temp.path()).unwrap();
        (temp, home)
    }

    #[test]
    fn a_node_key_reads_back_and_is_never_overwritten() {
        let (_temp, home) = home();
        assert!(matches!(NodeKey::load(&home), Err(IdentityError::NoNodeKey(_))));
        let key = NodeKey::create(&home).unwrap();
        assert_eq!(NodeKey::load(&home).unwrap().seed(), key.seed());
        assert!(matches!(NodeKey::create(&home), Err(IdentityError::Home(HomeError::Exists(_)))));
        assert_eq!(NodeKey::load(&home).unwrap().node_id(), key.node_id());
    }

    /// Golden lines of version 1; they are never edited.
    #[test]
    fn key_files_keep_their_bytes_and_are_read_as_ever() {
        let (_temp, home) = home();
        let node = format!("fathom-node-key-1 {}\n", "07".repeat(32));
        let user = format!("fathom-user-key-1 {}\n", "00".repeat(32));
        for (path, line) in [(home.node_key(), &node), (home.user_key(), &user)] {
            create_atomic(&path, line.as_bytes(), MODE_SECRET).unwrap();
        }
        let key = NodeKey::load(&home).unwrap();
        assert_eq!(key.seed(), &[7; 32]);
        assert_eq!(key.node_id().to_string(), "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c");
        let secret = UserSecret::load(&home).unwrap();
        assert_eq!(*secret.words(), format!("{}art", "abandon ".repeat(23)));
        std::fs::remove_file(home.node_key()).unwrap();
        std::fs::remove_file(home.user_key()).unwrap();
        store(&home.node_key(), NODE_LINE, key.seed()).unwrap();
        secret.store(&home).unwrap();
        assert_eq!(std::fs::read_to_string(home.node_key()).unwrap(), node);
        assert_eq!(std::fs::read_to_string(home.user_key()).unwrap(), user);
    }

    #[test]
    fn the_peer_id_is_libp2ps() {
        // The public key of RFC 8032's first test vector, whose seed is below.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(&HEXLOWER.decode(seed.as_bytes()).unwrap());
        let key = NodeKey::from_seed(bytes);
        assert_eq!(key.node_id().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert!(key.peer_id().starts_with("12D3KooW"), "{}", key.peer_id());
        assert_eq!(key.peer_id().len(), 52);
    }

    #[test]
    fn a_phrase_gives_back_the_user() {
        let (_temp, home_a) = home();
        let user = UserSecret::create(&home_a).unwrap();
        assert_eq!(user.words().split(' ').count(), 24);
        let messy = format!("  {}\n", user.words().to_uppercase().replace(' ', "\n "));
        let again = UserSecret::from_words(&messy).unwrap();
        assert_eq!(again.owner(), user.owner());
        assert_eq!(again.words(), user.words());
        assert_eq!(UserSecret::load(&home_a).unwrap().owner(), user.owner());
    }

    #[test]
    fn a_wrong_phrase_is_refused() {
        let (_temp, home) = home();
        let user = UserSecret::create(&home).unwrap();
        let words = user.words();
        let mut swapped: Vec<&str> = words.split(' ').collect();
        swapped.pop();
        for wrong in ["", "hello", &swapped.join(" "), &"abandon ".repeat(24)] {
            assert!(matches!(UserSecret::from_words(wrong), Err(IdentityError::Phrase(_))), "{wrong}");
        }
    }

    #[test]
    fn a_recovered_user_never_replaces_another() {
        let (_temp_a, home_a) = home();
        let (_temp_b, home_b) = home();
        let a = UserSecret::create(&home_a).unwrap();
        UserSecret::create(&home_b).unwrap();
        a.store(&home_a).unwrap();
        assert!(matches!(a.store(&home_b), Err(IdentityError::OtherUser(_))));
    }

    #[test]
    fn a_damaged_key_file_is_told() {
        let (_temp, home) = home();
        for text in ["", "fathom-node-key-1 ", "fathom-node-key-2 00", "fathom-node-key-1 zz", &"0".repeat(64)] {
            crate::home::write_atomic(&home.node_key(), text.as_bytes(), MODE_SECRET).unwrap();
            assert!(matches!(NodeKey::load(&home), Err(IdentityError::Content(_))), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let (_temp, home) = home();
        let key = NodeKey::create(&home).unwrap();
        assert!(!format!("{key:?}").contains(&HEXLOWER.encode(key.seed())));
    }
}
