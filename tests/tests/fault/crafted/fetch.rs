//! What the peer reads: chunks from vendors, and its user's files at mirrors.

use fathom_overlay::Proto;
use fathom_protocol::codec::{Bounded, decode, encode};
use fathom_protocol::fat::{FinalFat, Manifest};
use fathom_protocol::ids::{ChunkId, NodeId};
use fathom_protocol::limits::ANSWER_BYTES_MAX;
use fathom_protocol::moves::Move;
use fathom_protocol::sign::Carried;
use fathom_protocol::tags::VERSION;
use fathom_protocol::wire::{FetchAnswer, FetchRequest, OwnerQuery, Refusal, Request, Response, SyncRecord};
use fathom_testnet::{Net, NodeHandle};
use tokio::io::AsyncReadExt;

use super::{Client, forge, id, now};

/// Bytes of one leaf of a chunk's hash tree as it is sent.
const GROUP: usize = 16 * 1024;
/// Bytes of one pair of hashes.
const PAIR: usize = 64;

impl Client {
    /// A request for all of `chunk` from `vendor`.
    pub(crate) fn wants(&self, vendor: NodeId, chunk: ChunkId, length: u32) -> FetchRequest {
        FetchRequest {
            version: VERSION,
            owner: self.keys.owner(),
            vendor,
            chunk,
            offset: 0,
            length,
            expires: now().plus_seconds(60),
        }
    }

    /// The bytes that `vendor` serves for `chunk`, whatever they are.
    ///
    /// # Errors
    /// What the vendor refused with.
    pub(crate) async fn fetch(&self, vendor: &NodeHandle, request: &Carried<FetchRequest>) -> Result<Vec<u8>, Refusal> {
        let last = |answer: &[u8]| match decode(answer, ANSWER_BYTES_MAX).expect("an answer") {
            FetchAnswer::Alive => None,
            FetchAnswer::Refused(refusal) => Some(Err(refusal)),
            FetchAnswer::Found { chunk_length, encoded_length } => Some(Ok((chunk_length, encoded_length))),
        };
        let (found, mut stream) = self.talk(vendor, Proto::Fetch, &encode(&[request]), last).await;
        let (chunk_length, encoded_length) = found?;
        let mut encoded = vec![0; encoded_length as usize];
        stream.read_exact(&mut encoded).await.expect("what was announced");
        let mut plain = Vec::new();
        leaves(&mut encoded.as_slice(), chunk_length as usize, &mut plain);
        Ok(plain)
    }

    /// Whether `vendor` serves `chunk`, byte by byte.
    ///
    /// # Errors
    /// What it refused with.
    #[track_caller]
    pub(crate) fn read(&self, vendor: &NodeHandle, chunk: ChunkId, length: u32) -> Result<(), Refusal> {
        let request = forge(&self.wants(id(vendor), chunk, length), self.keys.signing());
        let bytes = self.run(self.fetch(vendor, &request))?;
        assert_eq!(ChunkId::of(&bytes), chunk, "{} served something else", vendor.name);
        Ok(())
    }

    /// This user's final FATs as `mirror` has them, with their manifests, moves laid over.
    #[track_caller]
    pub(crate) fn files(&self, mirror: &NodeHandle) -> Vec<(FinalFat, Manifest)> {
        let query = OwnerQuery {
            version: VERSION,
            owner: self.keys.owner(),
            mirror: id(mirror),
            files: Bounded::default(),
            since: None,
            after: None,
            expires: now().plus_seconds(60),
        };
        let query = forge(&query, self.keys.signing());
        let Response::Files(page) = self.call(mirror, &Request::FatsOf(query)) else { panic!("no page of files") };
        assert!(!page.more, "more files than the tests make");
        let mut fats: Vec<FinalFat> = Vec::new();
        let mut moves: Vec<Move> = Vec::new();
        for record in page.records {
            match record {
                SyncRecord::Fat(fat) => fats.push(fat.verify().expect("a signed final FAT").into_value()),
                SyncRecord::Move(moved) => moves.push(moved.verify().expect("a signed move")),
                other => panic!("{other:?}"),
            }
        }
        let open = |fat: FinalFat| {
            let manifest = self.keys.open_manifest(&fat.body, fat.file, fat.seq).expect("its manifest");
            let here: Vec<Move> = moves.iter().filter(|moved| moved.file == fat.file).cloned().collect();
            let manifest = manifest.with_moves(&here).expect("few moves");
            (fat, manifest)
        };
        fats.into_iter().filter(|fat| !fat.is_release()).map(open).collect()
    }

    /// Every copy of every chunk, and every shard, that the final FATs at `mirror` name: (vendor, chunk, length).
    #[track_caller]
    pub(crate) fn copies(&self, mirror: &NodeHandle) -> Vec<(NodeId, ChunkId, u32)> {
        let mut copies = Vec::new();
        for (_, manifest) in self.files(mirror) {
            for piece in manifest.pieces() {
                copies.extend(manifest.places_of_piece(&piece).map(|place| (place.vendor, piece.id, piece.length)));
            }
        }
        copies
    }

    /// Reads every copy that the final FATs at the first mirror of `net` name, each from its own vendor. Returns how many.
    #[track_caller]
    pub(crate) fn read_every_copy(&self, net: &Net) -> usize {
        self.every_copy(net).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// As [`Client::read_every_copy`]; the first copy that is not served is an error.
    pub(crate) fn every_copy(&self, net: &Net) -> Result<usize, String> {
        let mirror = net.with_role("mirror").next().expect("a mirror");
        let copies = self.copies(mirror);
        for (vendor, chunk, length) in &copies {
            let node = net.with_role("vendor").find(|node| id(node) == *vendor).expect("a vendor of this network");
            let read = self.read(node, *chunk, *length);
            read.map_err(|refusal| {
                format!("{} does not serve {chunk}, which a final FAT names: {refusal:?}", node.name)
            })?;
        }
        Ok(copies.len())
    }
}

/// The bytes of the encoding of a whole chunk of `length` bytes: the leaves, in order, without the hashes between them.
/// A chunk that they do not hash to is found by its identifier.
fn leaves(encoded: &mut &[u8], length: usize, plain: &mut Vec<u8>) {
    let groups = length.div_ceil(GROUP).max(1);
    let mut take = |bytes: usize| {
        let (taken, rest) = encoded.split_at_checked(bytes).expect("the encoding of a whole chunk");
        *encoded = rest;
        taken
    };
    if groups == 1 {
        plain.extend_from_slice(take(length));
        return;
    }
    take(PAIR);
    // The left subtree is the largest full one that leaves something for the right (BLAKE3, section 2.1).
    let left = groups.next_power_of_two() / 2 * GROUP;
    leaves(encoded, left, plain);
    leaves(encoded, length - left, plain);
}
