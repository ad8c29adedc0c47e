//! Every label that separates one use of a key or hash from another, and every version number, in one place.
//! A label is never reused or changed; a new meaning gets a new label.

/// Version of the wire messages and signed records that this build writes and reads.
pub const VERSION: u16 = 1;
/// Version of the manifest of a file that is stored with parity. Builds that do not know parity refuse it, rather than lose it.
pub const MANIFEST_CODED: u16 = 2;

/// Signature labels: the message that is signed is `label, 0x00, BLAKE3(body)`.
pub mod sign {
    /// A vendor's head.
    pub const HEAD: &str = "fathom 1 vendor head";
    /// A vendor's lease.
    pub const LEASE: &str = "fathom 1 lease";
    /// One hop of a chunk header.
    pub const HOP: &str = "fathom 1 hop";
    /// A vendor's receipt.
    pub const RECEIPT: &str = "fathom 1 receipt";
    /// A user's final FAT of one file.
    pub const FAT: &str = "fathom 1 final fat";
    /// A move, by either vendor.
    pub const MOVE: &str = "fathom 1 move";
    /// A node's announcement of its roles and addresses.
    pub const PEER: &str = "fathom 1 peer";
    /// A request for storage.
    pub const ALLOCATE: &str = "fathom 1 allocate";
    /// A request for chunk bytes.
    pub const FETCH: &str = "fathom 1 fetch";
    /// A user's request for its own final FATs.
    pub const QUERY: &str = "fathom 1 query";
    /// A user's word on a download, to vendors and mirrors.
    pub const VALIDATION: &str = "fathom 1 validation";
    /// A user's return of unused room in a lease.
    pub const UNUSED: &str = "fathom 1 unused";
    /// The withdrawal of a request for storage.
    pub const CANCEL: &str = "fathom 1 cancel";
    /// A user's renewal of a lease.
    pub const RENEW: &str = "fathom 1 renew";
    /// A user's order to a vendor to make a shard again.
    pub const REBUILD: &str = "fathom 1 rebuild";
}

/// HKDF-SHA256 info labels.
pub mod derive {
    /// Seed to the user's ed25519 signing key.
    pub const SIGNING: &[u8] = b"fathom 1 signing";
    /// Seed to the key that seals manifests.
    pub const MANIFEST: &[u8] = b"fathom 1 manifest";
    /// Seed to the key that hides file names in file identifiers.
    pub const INDEX: &[u8] = b"fathom 1 index";
    /// File key, with index and salt, to a chunk's key.
    pub const CHUNK: &[u8] = b"fathom 1 chunk";
    /// File key to the key under which a chunk's plaintext gives its salt.
    pub const SALT: &[u8] = b"fathom 1 chunk salt";
}

/// BLAKE3 domain bytes of the lease root.
pub mod root {
    /// A leaf: one lease.
    pub const LEAF: u8 = 0;
    /// An inner node.
    pub const NODE: u8 = 1;
    /// No lease at all.
    pub const EMPTY: u8 = 2;
}

/// BLAKE3 domain bytes of the index over which mirrors compare their tables.
pub mod index {
    /// An entry: one record.
    pub const ENTRY: u8 = 0;
    /// A few entries that share a prefix.
    pub const LEAF: u8 = 1;
    /// Sixteen parts.
    pub const NODE: u8 = 2;
    /// The half of a fingerprint's key that is no secret.
    pub const SESSION: &[u8; 16] = b"fathom 1 compare";
}

/// Gossip topic; the network's identifier is appended.
pub const GOSSIP_TOPIC: &str = "fathom/fat/1";
