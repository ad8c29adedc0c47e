//! Chunks back to their owner (figure 19).

use fathom_protocol::limits::{ANSWER_BYTES_MAX, CHUNK_BYTES_MAX};
use fathom_protocol::wire::{FetchAnswer, FetchRequest};
use tokio::io::AsyncReadExt;

use super::*;
use crate::bao;

impl TestUser {
    fn wants(&self, vendor: NodeId, chunk: ChunkId, offset: u32, length: u32) -> FetchRequest {
        let expires = clock::now().plus_seconds(60);
        FetchRequest { version: tags::VERSION, owner: self.owner(), vendor, chunk, offset, length, expires }
    }

    pub(super) async fn fetch(&self, request: FetchRequest) -> Result<Vec<u8>, Refusal> {
        let (to, chunk, offset, length) = (request.vendor, request.chunk, request.offset, request.length);
        let request = Signed::sign(request, &self.key).unwrap().into_carried();
        self.fetch_from(to, &codec::encode(&request), chunk, offset, length).await
    }

    async fn fetch_from(
        &self,
        to: NodeId,
        request: &[u8],
        chunk: ChunkId,
        offset: u32,
        length: u32,
    ) -> Result<Vec<u8>, Refusal> {
        let mut stream = self.peer.net.open(to, Proto::Fetch).await?;
        // A list of one: CBOR's array of one element is the byte 0x81 before it.
        frame::write_frame(&mut stream, &[&[0x81], request].concat()).await.unwrap();
        loop {
            let answer = frame::read_frame_within(&mut stream, ANSWER_BYTES_MAX, WAIT).await.unwrap();
            match codec::decode(&answer, ANSWER_BYTES_MAX).unwrap() {
                FetchAnswer::Alive => {}
                FetchAnswer::Refused(refusal) => return Err(refusal),
                FetchAnswer::Found { chunk_length, encoded_length } => {
                    assert!(encoded_length as usize <= bao::encoded_max(chunk_length, length));
                    let mut encoded = vec![0; encoded_length as usize];
                    stream.read_exact(&mut encoded).await.unwrap();
                    return Ok(bao::decode(chunk, chunk_length, offset, length, &encoded).unwrap());
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fig_19_a_chunk_and_its_ranges_come_back() {
    let user = TestUser::start(60).await;
    let vendor = TestVendor::start(61).await;
    let body = bytes(CHUNK_BYTES_MAX, 3);
    let receipt = user.store(&vendor, &body).await;
    let length = receipt.length;
    for (offset, count) in [(0, length), (0, 1), (length - 1, 1), (1_000_000, 1_500_000)] {
        let found = user.fetch(user.wants(vendor.node(), receipt.chunk, offset, count)).await.unwrap();
        assert!(found == body[offset as usize..(offset + count) as usize], "{offset} {count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_asked_for_together_come_in_order_and_one_that_is_not_there_holds_up_none() {
    let user = TestUser::start(67).await;
    let vendor = TestVendor::start(68).await;
    let bodies = [bytes(70_000, 1), bytes(50_000, 2)];
    for body in &bodies {
        user.store(&vendor, body).await;
    }
    let ids = [ChunkId::of(&bodies[0]), ChunkId([9; 32]), ChunkId::of(&bodies[1])];
    let lengths = [70_000, 10, 50_000];
    let request = |(id, length): (&ChunkId, &u32)| {
        Signed::sign(user.wants(vendor.node(), *id, 0, *length), &user.key).unwrap().into_carried()
    };
    let requests: Vec<_> = ids.iter().zip(&lengths).map(request).collect();
    let mut stream = user.peer.net.open(vendor.node(), Proto::Fetch).await.unwrap();
    frame::write_frame(&mut stream, &codec::encode(&requests)).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 3 {
        let answer = frame::read_frame_within(&mut stream, ANSWER_BYTES_MAX, WAIT).await.unwrap();
        match codec::decode(&answer, ANSWER_BYTES_MAX).unwrap() {
            FetchAnswer::Alive => {}
            FetchAnswer::Refused(refusal) => found.push(Err(refusal.kind)),
            FetchAnswer::Found { chunk_length, encoded_length } => {
                let mut encoded = vec![0; encoded_length as usize];
                stream.read_exact(&mut encoded).await.unwrap();
                found.push(Ok(bao::decode(ids[found.len()], chunk_length, 0, chunk_length, &encoded).unwrap()));
            }
        }
    }
    assert!(found == [Ok(bodies[0].clone()), Err(RefusalKind::NotFound), Ok(bodies[1].clone())]);

    // More bytes than one chunk can have are not to be had on one stream.
    let requests = vec![requests[0].clone(), request((&ids[0], &(CHUNK_BYTES_MAX as u32 - 1)))];
    let mut stream = user.peer.net.open(vendor.node(), Proto::Fetch).await.unwrap();
    frame::write_frame(&mut stream, &codec::encode(&requests)).await.unwrap();
    let answer = frame::read_frame_within(&mut stream, ANSWER_BYTES_MAX, WAIT).await.unwrap();
    let answer: FetchAnswer = codec::decode(&answer, ANSWER_BYTES_MAX).unwrap();
    assert!(matches!(answer, FetchAnswer::Refused(refusal) if refusal.kind == RefusalKind::BadRequest));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_gets_its_chunk() {
    let (user, stranger) = (TestUser::start(62).await, TestUser::start(63).await);
    let vendor = TestVendor::start(64).await;
    let receipt = user.store(&vendor, &bytes(50_000, 3)).await;
    stranger.know(&vendor.peer.net).await;
    let wants = |who: &TestUser| who.wants(vendor.node(), receipt.chunk, 0, 50_000);

    assert_eq!(kind(stranger.fetch(wants(&stranger)).await), RefusalKind::NotFound);
    let mut forged = codec::encode(&Signed::sign(wants(&user), &user.key).unwrap().into_carried());
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let refused = stranger.fetch_from(vendor.node(), &forged, receipt.chunk, 0, 1).await;
    assert_eq!(kind(refused), RefusalKind::NotAuthorised);
    let late = FetchRequest { expires: UnixMs(1), ..wants(&user) };
    assert_eq!(kind(user.fetch(late).await), RefusalKind::LeaseExpired);
    let elsewhere = FetchRequest { vendor: stranger.peer.net.me(), ..wants(&user) };
    let elsewhere = codec::encode(&Signed::sign(elsewhere, &user.key).unwrap().into_carried());
    let refused = user.fetch_from(vendor.node(), &elsewhere, receipt.chunk, 0, 1).await;
    assert_eq!(kind(refused), RefusalKind::NotAuthorised);
    for (offset, length) in [(0, 0), (0, 50_001), (50_000, 1), (u32::MAX, u32::MAX)] {
        let refused = user.fetch(user.wants(vendor.node(), receipt.chunk, offset, length)).await;
        assert_eq!(kind(refused), RefusalKind::BadRequest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_08_a_damaged_part_is_never_served() {
    let user = TestUser::start(65).await;
    let vendor = TestVendor::start(66).await;
    let body = bytes(200_000, 3);
    let receipt = user.store(&vendor, &body).await;
    let parts = vendor.dir.path().join("device").join("parts");
    for dir in std::fs::read_dir(parts).unwrap() {
        for part in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = part.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    for (offset, length) in [(0, 200_000), (0, 10)] {
        let refused = user.fetch(user.wants(vendor.node(), receipt.chunk, offset, length)).await;
        assert_eq!(kind(refused), RefusalKind::Corrupt);
    }
    assert_eq!(vendor.vendor.status()["damaged"], 1);
}
