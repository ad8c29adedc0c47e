//! A user's keys, all from one phrase of 24 words.
//!
//! ```text
//! phrase --BIP-39 (PBKDF2, no passphrase)--> seed[64] --HKDF-SHA256, one label each--> signing, manifest, index, erase
//! ```

use bip39::Mnemonic;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codec::{self, Blob, DecodeError};
use crate::fat::{Manifest, ManifestError};
use crate::ids::{FileId, OwnerId};
use crate::limits::FAT_BODY_BYTES_MAX;
use crate::tags;

/// Why a phrase was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Not 24 words.
    #[error("a recovery phrase has 24 words, this one has {0}")]
    WordCount(usize),
    /// A word that is not in the list, or a checksum that does not fit.
    #[error("the recovery phrase has a wrong or misplaced word: {0}")]
    Wrong(String),
}

/// The recovery phrase: 256 bits as 24 words.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Phrase {
    entropy: [u8; 32],
}

impl Phrase {
    /// The phrase for `entropy`, which must come from a cryptographic random source.
    #[must_use]
    pub fn from_entropy(entropy: [u8; 32]) -> Self {
        Self { entropy }
    }

    /// Reads 24 words, in any case, with any space between them.
    ///
    /// # Errors
    /// [`PhraseError`].
    pub fn parse(text: &str) -> Result<Self, PhraseError> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        if words.len() != 24 {
            return Err(PhraseError::WordCount(words.len()));
        }
        let mnemonic =
            Mnemonic::parse_normalized(&words.join(" ")).map_err(|error| PhraseError::Wrong(error.to_string()))?;
        let bytes = Zeroizing::new(mnemonic.to_entropy());
        let entropy = bytes.as_slice().try_into().map_err(|_| PhraseError::WordCount(words.len()))?;
        Ok(Self { entropy })
    }

    /// The 24 words, separated by single spaces.
    #[must_use]
    pub fn words(&self) -> String {
        self.mnemonic().to_string()
    }

    /// The 32 bytes behind the words.
    #[must_use]
    pub fn entropy(&self) -> &[u8; 32] {
        &self.entropy
    }

    /// All keys of this user.
    #[must_use]
    pub fn user_keys(&self) -> UserKeys {
        let seed = Zeroizing::new(self.mnemonic().to_seed_normalized(""));
        let derive = |label: &[u8]| derive(seed.as_slice(), label);
        UserKeys {
            signing: SigningKey::from_bytes(&derive(tags::derive::SIGNING)),
            manifest: derive(tags::derive::MANIFEST),
            index: derive(tags::derive::INDEX),
        }
    }

    fn mnemonic(&self) -> Mnemonic {
        match Mnemonic::from_entropy(&self.entropy) {
            Ok(mnemonic) => mnemonic,
            Err(error) => unreachable!("32 bytes are always a phrase: {error}"),
        }
    }
}

/// HKDF-SHA256 of `secret` with `info`, without salt. 32 bytes.
pub(crate) fn derive(secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    match Hkdf::<Sha256>::new(None, secret).expand(info, &mut key) {
        Ok(()) => key,
        Err(error) => unreachable!("32 bytes are within HKDF's limit: {error}"),
    }
}

/// What a user signs and seals with.
#[derive(Clone, ZeroizeOnDrop)]
pub struct UserKeys {
    signing: SigningKey,
    manifest: [u8; 32],
    index: [u8; 32],
}

/// Why a sealed manifest did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenManifestError {
    /// Not sealed by this user for this file and sequence number.
    #[error("the manifest was not sealed with this recovery phrase")]
    Sealed,
    /// It opened and did not decode.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// It decoded and does not hold together.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
}

const NONCE_LEN: usize = 24;

impl UserKeys {
    /// The user's public identity.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        OwnerId(self.signing.verifying_key().to_bytes())
    }

    /// The key that signs final FATs, hops and requests.
    #[must_use]
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The identifier under which the file named `name` is known to mirrors and vendors.
    #[must_use]
    pub fn file_id(&self, name: &str) -> FileId {
        let hash = blake3::keyed_hash(&self.index, name.as_bytes());
        let mut id = [0; FileId::LEN];
        id.copy_from_slice(&hash.as_bytes()[..FileId::LEN]);
        FileId(id)
    }

    /// Seals a manifest for `(file, seq)`: `nonce[24]` and XChaCha20-Poly1305 ciphertext. `nonce` must be random.
    ///
    /// # Errors
    /// [`ManifestError::TooLarge`].
    pub fn seal_manifest(
        &self,
        manifest: &Manifest,
        file: FileId,
        seq: u64,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Blob<FAT_BODY_BYTES_MAX>, ManifestError> {
        let mut sealed = codec::encode(manifest);
        let cipher = XChaCha20Poly1305::new(&self.manifest.into());
        let aad = self.aad(file, seq);
        cipher.encrypt_in_place(&XNonce::from(nonce), &aad, &mut sealed).map_err(|_| ManifestError::TooLarge)?;
        let mut body = nonce.to_vec();
        body.append(&mut sealed);
        Blob::new(body).map_err(|_| ManifestError::TooLarge)
    }

    /// Opens what [`Self::seal_manifest`] made for the same file and sequence number.
    ///
    /// # Errors
    /// [`OpenManifestError`].
    pub fn open_manifest(&self, body: &[u8], file: FileId, seq: u64) -> Result<Manifest, OpenManifestError> {
        let (nonce, sealed) = body.split_first_chunk::<NONCE_LEN>().ok_or(OpenManifestError::Sealed)?;
        let mut plain = sealed.to_vec();
        let cipher = XChaCha20Poly1305::new(&self.manifest.into());
        let aad = self.aad(file, seq);
        cipher.decrypt_in_place(&XNonce::from(*nonce), &aad, &mut plain).map_err(|_| OpenManifestError::Sealed)?;
        let manifest: Manifest = codec::decode(&plain, FAT_BODY_BYTES_MAX)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn aad(&self, file: FileId, seq: u64) -> Vec<u8> {
        let mut aad = self.owner().0.to_vec();
        aad.extend_from_slice(&file.0);
        aad.extend_from_slice(&seq.to_le_bytes());
        aad
    }
}
