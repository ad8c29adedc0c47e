//! Every limit on what arrives from the network or from a disk. A length is checked against this file before
//! anything is allocated for it; each limit is tested at 0, 1, max and max + 1.

/// Largest frame on the rpc protocol, in bytes: one vendor's head with all its leases, or a batch of final FATs.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest request that any peer may send at any time, in bytes; longer ones, up to [`FRAME_BYTES_MAX`], are taken in a few
/// at a time (invariant 11).
pub const FIRST_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest chunk header, in bytes: 8 hops with addresses and signatures.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Chunks that come on one stream, one after another, and that are asked for on one. Together they are at most [`CHUNK_BYTES_MAX`] long,
/// and their headers or requests [`FIRST_FRAME_BYTES_MAX`].
pub const BUNDLE_CHUNKS_MAX: usize = 16;
/// Largest answer about one chunk on the chunk and fetch protocols, in bytes: a receipt naming every sub-chunk.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// Largest frame of answers about chunks that came on one stream, in bytes.
pub const ANSWERS_BYTES_MAX: usize = 2 * ANSWER_BYTES_MAX;
/// Answers in one frame: each vendor of a chain says one thing about each chunk.
pub const ANSWERS_MAX: usize = BUNDLE_CHUNKS_MAX * HOPS_MAX;
/// Largest gossip message, in bytes. libp2p's gossipsub stalls a link at 64 KiB; this keeps well clear.
pub const GOSSIP_BYTES_MAX: usize = 48 * 1024;
/// Records in one gossip message.
pub const GOSSIP_RECORDS_MAX: usize = 64;
/// Hops of one header.
pub const HOPS_MAX: usize = 8;
/// Addresses of one node in a record.
pub const ADDRESSES_MAX: usize = 8;
/// Length of one multiaddress as text, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Length of a zone, operator, media or reason text, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;
/// Length of a reason or hint in an answer, in bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// Ciphertext of one chunk, in bytes: 4 MiB of plaintext and one 16-byte tag per 64 KiB segment.
pub const CHUNK_BYTES_MAX: usize = CHUNK_PLAIN_MAX + (CHUNK_PLAIN_MAX / SEGMENT_PLAIN) * SEGMENT_TAG;
/// Plaintext of one chunk, in bytes.
pub const CHUNK_PLAIN_MAX: usize = 4 * 1024 * 1024;
/// Plaintext of one sealed segment, in bytes.
pub const SEGMENT_PLAIN: usize = 64 * 1024;
/// Authentication tag of one sealed segment, in bytes.
pub const SEGMENT_TAG: usize = 16;
/// Sub-chunks of one chunk at one vendor.
pub const PARTS_MAX: usize = 64;
/// Devices of one vendor.
pub const DEVICES_MAX: usize = 64;
/// Live leases of one vendor.
pub const LEASES_MAX: usize = 16_384;
/// Steps from a lease to its vendor's root: the binary logarithm of [`LEASES_MAX`].
pub const LEASE_PROOF_DEPTH_MAX: usize = 14;
/// Leases that vanished from heads and wait for their release to arrive, at one mirror.
pub const SUSPICIONS_MAX: usize = 1_024;
/// Of these, noted for one head: one proof is enough.
pub const SUSPICIONS_PER_HEAD_MAX: usize = 4;
/// Leases that one delta changes, and leases that it drops; a vendor whose leases changed more sends them all.
pub const DELTA_LEASES_MAX: usize = 1_024;
/// Leases that one final FAT uses, and vendors that it frees.
pub const FAT_USES_MAX: usize = 4_096;
/// Sealed manifest of one final FAT, in bytes: about 130,000 chunks (500 GiB) at 4 MiB a chunk in 3 copies, 100,000 with 4+2.
pub const FAT_BODY_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Final FATs of one file with one counter that are kept: versions that devices of one user wrote at once.
pub const VERSIONS_MAX: usize = 8;
/// Versions that a final FAT names of those that it follows. A put that lasts while so many others of its file end is refused.
pub const FOLLOWS_MAX: usize = 16;
/// Final FATs that an owner may have at a mirror whatever it leases, if it leases anything.
pub const FILES_FREE: u64 = 1_024;
/// Leased bytes that warrant one final FAT more, and one byte more of its manifest: about what one copy of a file of one byte takes.
pub const FILE_LEASED_BYTES: u64 = 16;
/// Sealed manifest of a final FAT that is taken whatever its owner leases, in bytes: that of a file of about 1,000 chunks.
pub const FILE_BODY_FREE: u64 = 64 * 1024;
/// Final FATs of an owner without any lease that the mirror knows.
pub const STRANGER_FILES_MAX: u64 = 64;
/// Bytes of final FATs that a mirror takes within an hour from all owners without any lease that it knows.
pub const STRANGER_BYTES_PER_HOUR: u64 = 64 * 1024 * 1024;
/// Length of a file's name, in bytes.
pub const NAME_BYTES_MAX: usize = 4_096;
/// Records in one sync answer.
pub const SYNC_RECORDS_MAX: usize = 1_024;
/// Length of a record's key, in bytes: a move's is the longest.
pub const KEY_BYTES_MAX: usize = 97;
/// Files that one query names.
pub const FILES_PER_QUERY_MAX: usize = 64;
/// Words on downloads that are told at once: at their longest, they still fit a frame.
pub const VALIDATIONS_MAX: usize = 16;
/// Final FATs in one submission.
pub const FATS_PER_SUBMIT_MAX: usize = 256;
/// Copies of one chunk.
pub const COPIES_MAX: usize = 8;
/// Shards of one stripe, data and parity; also the columns of one allocation.
pub const SHARDS_MAX: usize = 16;
/// Bytes of which a parity shard has a whole number: the unit in which the code works.
pub const PARITY_UNIT: u32 = 64;
/// Vendors that one allocation may name as excluded, and leases that it may return.
pub const ALLOCATE_VENDORS_MAX: usize = 64;
/// Mirrors that a vendor reports to; the others hear from these.
pub const MIRRORS_TOLD_MAX: usize = 3;
/// Mirrors or peers in one answer about the network.
pub const PEERS_MAX: usize = 256;
/// Vendors that one allocation asks before it gives up.
pub const ALLOCATE_ASKED_MAX: usize = 128;
/// Estimated bytes of memory that the vendors of a mirror's table take, heads and leases: enough for a million leases of ten
/// thousand vendors, each of which names a final FAT.
pub const VENDOR_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// What each of them counts at least beside its leases, in bytes, so that there are at most some 43,000.
pub const VENDOR_BYTES_MIN: u64 = 24 * 1024;
/// Heads asked for at once: at their largest, they still fit a frame.
pub const HEADS_MAX: usize = 64;
/// Largest lease extent, in bytes.
pub const EXTENT_BYTES_MAX: u64 = 1 << 30;
/// Chunks named in one validation, download report or erase.
pub const CHUNKS_PER_MESSAGE_MAX: usize = 4_096;
/// Parts of a table that one comparison message asks about.
pub const COMPARE_ASKS_MAX: usize = 256;
/// Entries that one answer of a comparison lists in all.
pub const COMPARE_ENTRIES_MAX: usize = 4_096;
/// Entries that one answer of a comparison lists for one part; what is beyond is asked for again.
pub const COMPARE_PAGE_MAX: usize = 256;
/// Records that one request of a comparison asks for.
pub const COMPARE_WANTED_MAX: usize = 256;
/// Records or messages of one peer that do not verify before it is banned; they are forgiven one by one.
pub const BAD_RECORDS_MAX: u32 = 16;
/// Messages of one peer that are verified at a time.
pub const CHECKING_PER_PEER_MAX: u32 = 64;
/// Peers whose behaviour is remembered; the least conspicuous go first.
pub const MARKS_MAX: usize = 4_096;
/// Peers that are banned at a time; the ban that ends first ends early.
pub const BANS_MAX: usize = 1_024;
