//! Headers and bodies that are wrong: each gets a typed answer, and nothing is written or dialled.

use serde::Serialize;

use super::*;

/// A user, two vendors with a lease each, and a body.
struct Scene {
    user: TestUser,
    vendors: [TestVendor; 2],
    stops: [Stop; 2],
    body: Vec<u8>,
}

impl Scene {
    async fn new(seed: u8) -> Self {
        let user = TestUser::start(seed).await;
        let vendors = [TestVendor::start(seed + 1).await, TestVendor::start(seed + 2).await];
        let stops = [user.lock(&vendors[0], MIB).await, user.lock(&vendors[1], MIB).await];
        // Before this the second vendor has seen the stream on which its room was locked.
        vendors[1].peer.streams.store(0, Ordering::SeqCst);
        Self { user, vendors, stops, body: bytes(400_000, seed) }
    }

    /// Sends to the first vendor, which must refuse with `kind`, write nothing and dial nobody.
    async fn refuses(&self, header: &[u8], kind: RefusalKind) {
        let me = self.vendors[0].node();
        let answers = self.user.send_raw(me, header, &self.body, false).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(failures(&answers), [(me, kind)], "{answers:?}");
        self.untouched();
        assert_eq!(self.vendors[1].peer.streams.load(Ordering::SeqCst), 0, "the second vendor was dialled");
    }

    fn untouched(&self) {
        for vendor in &self.vendors {
            assert_eq!(vendor.counts(), (0, 0, 0, MIB));
            assert_eq!(vendor.files(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_32_reordered_or_swapped_hops_are_refused() {
    let scene = Scene::new(30).await;
    let hops = scene.user.hops(&scene.body, &[&scene.stops[0], &scene.stops[1]]);

    let mut reordered = hops.clone();
    reordered.swap(0, 1);
    scene.refuses(&codec::encode(&scene.user.sign(reordered)), RefusalKind::BadRequest).await;

    let mut skipped = hops.clone();
    skipped[1].position = 2;
    scene.refuses(&codec::encode(&scene.user.sign(skipped)), RefusalKind::BadRequest).await;

    let mut other = hops.clone();
    other[1].chunk = ChunkId([1; 32]);
    scene.refuses(&codec::encode(&scene.user.sign(other)), RefusalKind::BadRequest).await;

    // A hop that somebody else changed: the signature is the owner's, over something else.
    let signed = codec::encode(&scene.user.sign(hops));
    let at = signed.windows(4).rposition(|bytes| bytes == b"quic").unwrap();
    let mut forged = signed.clone();
    forged[at] ^= 1;
    scene.refuses(&forged, RefusalKind::NotAuthorised).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_33_a_destination_that_never_consented_is_not_dialled() {
    let scene = Scene::new(33).await;
    let mut hops = scene.user.hops(&scene.body, &[&scene.stops[0], &scene.stops[1]]);
    hops[1].lease = scene.stops[0].lease.clone();
    scene.refuses(&codec::encode(&scene.user.sign(hops)), RefusalKind::NotAuthorised).await;

    // A lease of another user is no consent either.
    let stranger = TestUser::start(37).await;
    let hops = stranger.hops(&scene.body, &[&scene.stops[0], &scene.stops[1]]);
    let answers = stranger.know(&scene.vendors[0].peer.net).await;
    let () = answers;
    let answers = stranger.send(scene.vendors[0].node(), &stranger.sign(hops), &scene.body).await;
    assert_eq!(failures(&answers), [(scene.vendors[0].node(), RefusalKind::NotAuthorised)]);
    let hops = stranger.hops(&scene.body, &[&scene.stops[0]]);
    let answers = stranger.send(scene.vendors[0].node(), &stranger.sign(hops), &scene.body).await;
    assert_eq!(answers.len(), 1);
    assert!(receipts(&answers).is_empty());
    scene.untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_34_a_loop_or_more_than_eight_hops_are_refused() {
    #[derive(Serialize)]
    struct Long {
        version: u16,
        hops: Vec<Carried<Hop>>,
    }
    let scene = Scene::new(38).await;
    let (a, b) = (&scene.stops[0], &scene.stops[1]);
    let header = scene.user.header(&scene.body, &[a, b, a]);
    scene.refuses(&codec::encode(&header), RefusalKind::BadRequest).await;

    let hops = scene.user.hops(&scene.body, &[a, b, a, b, a, b, a, b, a]);
    let hops = hops.into_iter().map(|hop| Signed::sign(hop, &scene.user.key).unwrap().into_carried()).collect();
    scene.refuses(&codec::encode(&Long { version: tags::VERSION, hops }), RefusalKind::BadRequest).await;
    scene.refuses(&codec::encode(&Long { version: tags::VERSION, hops: Vec::new() }), RefusalKind::BadRequest).await;
    scene.refuses(&[0xff; 100], RefusalKind::BadRequest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_35_a_lease_overused_by_one_byte_is_refused_and_earlier_chunks_stay() {
    let user = TestUser::start(41).await;
    let vendor = TestVendor::start(42).await;
    let (first, second) = (bytes(300_000, 1), bytes(200_001, 2));
    let stop = user.lock(&vendor, 500_000).await;
    assert_eq!(receipts(&user.send(vendor.node(), &user.header(&first, &[&stop]), &first).await).len(), 1);
    let answers = user.send(vendor.node(), &user.header(&second, &[&stop]), &second).await;
    assert_eq!(failures(&answers), [(vendor.node(), RefusalKind::OverLease)]);
    assert_eq!(vendor.counts(), (1, 1, 300_000, 500_000));
    // What fits exactly is taken: nothing of the refused chunk counts.
    let exact = &second[..200_000];
    assert_eq!(receipts(&user.send(vendor.node(), &user.header(exact, &[&stop]), exact).await).len(), 1);
    assert_eq!(vendor.counts(), (2, 2, 500_000, 500_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_36_impossible_lengths_are_refused() {
    let scene = Scene::new(43).await;
    for length in [0, 1 << 30, u32::MAX] {
        let mut hops = scene.user.hops(&scene.body, &[&scene.stops[0], &scene.stops[1]]);
        for hop in &mut hops {
            hop.length = length;
        }
        // The record's own check stands in the way of signing this, so it is carried with a signature over it.
        #[derive(Serialize)]
        struct Raw {
            #[serde(with = "serde_bytes")]
            body: Vec<u8>,
            signature: fathom_protocol::ids::Signature,
        }
        #[derive(Serialize)]
        struct Bare {
            version: u16,
            hops: Vec<Raw>,
        }
        let hops = hops.iter().map(|hop| {
            let body = codec::encode(hop);
            let signature = fathom_protocol::sign::sign_bytes(tags::sign::HOP, &body, &scene.user.key);
            Raw { body, signature }
        });
        let header = Bare { version: tags::VERSION, hops: hops.collect() };
        scene.refuses(&codec::encode(&header), RefusalKind::BadRequest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_37_a_body_of_another_length_or_hash_is_refused_everywhere() {
    let scene = Scene::new(46).await;
    let (first, second) = (scene.vendors[0].node(), scene.vendors[1].node());
    let header = codec::encode(&scene.user.header(&scene.body, &[&scene.stops[0], &scene.stops[1]]));
    let mut longer = scene.body.clone();
    longer.push(0);
    let mut wrong = scene.body.clone();
    wrong[123_456] ^= 1;
    let shorter = &scene.body[..scene.body.len() - 1];
    for (body, end, expected) in [
        (&longer[..], false, RefusalKind::WrongLength),
        (shorter, true, RefusalKind::WrongLength),
        (&[], true, RefusalKind::WrongLength),
        // A sender that stops is the sender's fault, not that of the vendor, which would be given no more chunks if it said Silent.
        (shorter, false, RefusalKind::WrongLength),
        (&wrong[..], false, RefusalKind::WrongHash),
    ] {
        let answers = scene.user.send_raw(first, &header, body, end).await;
        let failed = failures(&answers);
        assert!(failed.contains(&(first, expected)), "{} bytes: {answers:?}", body.len());
        assert!(receipts(&answers).is_empty());
        if expected == RefusalKind::WrongHash {
            assert!(failed.contains(&(second, RefusalKind::WrongHash)), "{answers:?}");
        }
        // The next hop gives up on its own, just after.
        eventually("no temporary file", || scene.vendors.iter().all(|vendor| vendor.files() == 0)).await;
        scene.untouched();
    }
    // No room stayed taken.
    let full = bytes(MIB as usize, 9);
    let header = scene.user.header(&full, &[&scene.stops[0], &scene.stops[1]]);
    assert_eq!(receipts(&scene.user.send(first, &header, &full).await).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_22_a_lease_that_has_expired_takes_nothing() {
    let user = TestUser::start(49).await;
    let vendor = TestVendor::with(50, 64 * MIB, |settings| settings.terms.offer_ms = 300).await;
    let stop = user.lock(&vendor, MIB).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let body = bytes(1000, 1);
    let answers = user.send(vendor.node(), &user.header(&body, &[&stop]), &body).await;
    assert_eq!(failures(&answers), [(vendor.node(), RefusalKind::LeaseExpired)]);
    // Also once the vendor has forgotten it.
    vendor.run();
    eventually("the lease is dropped", || vendor.counts().3 == 0).await;
    let answers = user.send(vendor.node(), &user.header(&body, &[&stop]), &body).await;
    assert_eq!(failures(&answers), [(vendor.node(), RefusalKind::LeaseExpired)]);
    let mut old = user.hops(&body, &[&stop]);
    old[0].expires = UnixMs(1);
    let answers = user.send(vendor.node(), &user.sign(old), &body).await;
    assert_eq!(failures(&answers), [(vendor.node(), RefusalKind::LeaseExpired)]);
    assert_eq!((vendor.counts(), vendor.files()), ((0, 0, 0, 0), 0));
}
