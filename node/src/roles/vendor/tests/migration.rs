//! Reports to mirrors, orders from them, and migration (figures 2, 3, 15b to 15e, 22).

use fathom_protocol::fat::{FinalFat, Follows, Lineage, Tag, Use};
use fathom_protocol::moves::CarriedMove;
use fathom_protocol::wire::FetchRequest;

use super::mirror::TestMirror;
use super::*;

pub(super) async fn introduce(to: &TestVendor, mirror: &Peer) {
    to.peer.net.book().learn(mirror.net.announcement().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn fig_03_a_vendor_reports_what_changes() {
    let user = TestUser::start(80).await;
    let vendor = TestVendor::start(81).await;
    let (peer, mirror) = TestMirror::start(82).await;
    vendor.run();
    introduce(&vendor, &peer).await;
    let head = || mirror.heads.lock().unwrap().get(&vendor.node()).cloned();
    eventually("a first head", || head().is_some()).await;
    let first = head().unwrap();
    assert_eq!((first.head.capacity, first.head.root.sum, first.head.devices.len()), (64 * MIB, 0, 1));
    let receipt = user.store(&vendor, &bytes(300_000, 1)).await;
    eventually("the stored chunk shows", || head().unwrap().head.used == 300_000).await;
    let second = head().unwrap();
    assert!(second.head.seq > first.head.seq);
    assert_eq!(second.leases[0].id, receipt.lease);
    assert_eq!(second.head.capacity, 64 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_vendor_on_an_old_state_begins_a_new_epoch() {
    let vendor = TestVendor::start(83).await;
    let (peer, mirror) = TestMirror::start(84).await;
    // A mirror heard a head of this vendor's future: its own key, a later sequence number.
    let head = vendor.vendor.next_head(vendor.peer.net.addresses().await);
    let mut newer = head.clone();
    let mut body = (*head.head).clone();
    body.seq = 500;
    newer.head = Signed::sign(body, vendor.peer.net.key()).unwrap();
    mirror.heads.lock().unwrap().insert(vendor.node(), newer);
    vendor.run();
    introduce(&vendor, &peer).await;
    eventually("a new epoch", || mirror.heads.lock().unwrap()[&vendor.node()].head.epoch == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fig_22_orders_that_were_missed_are_asked_for() {
    let user = TestUser::start(85).await;
    let vendor = TestVendor::start(86).await;
    let receipt = user.store(&vendor, &bytes(300_000, 1)).await;
    let (peer, mirror) = TestMirror::start(87).await;
    mirror.fats.lock().unwrap().push(user.sealed(user.fat(1, 1, vec![user.uses(&receipt, 0)], Vec::new())));
    mirror.fats.lock().unwrap().push(user.sealed(user.fat(2, 2, Vec::new(), vec![vendor.node()])));
    vendor.run();
    introduce(&vendor, &peer).await;
    eventually("the release is acted on", || vendor.counts() == (0, 0, 0, 0) && vendor.files() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_no_final_fat_names_are_erased_in_the_end() {
    let user = TestUser::start(88).await;
    let vendor = TestVendor::with(89, 64 * MIB, |settings| settings.terms.lock_ms = 1_500).await;
    user.store(&vendor, &bytes(300_000, 1)).await;
    vendor.run();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(vendor.counts().0, 1, "without a mirror's clock nothing is erased");
    let (peer, _mirror) = TestMirror::start(90).await;
    introduce(&vendor, &peer).await;
    eventually("the chunk is erased", || vendor.counts() == (0, 0, 0, 0) && vendor.files() == 0).await;
}

/// Keeps away: a vendor that comes back sweeps chunks whose final FAT it has not read yet.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_swept_before_the_orders_were_read() {
    let user = TestUser::start(91).await;
    let vendor = TestVendor::start(92).await;
    user.store(&vendor, &bytes(300_000, 1)).await;
    let late = clock::now().plus_seconds(400 * 24 * 3_600);
    vendor.vendor.sweep(late, Some(late)).unwrap();
    assert_eq!(vendor.counts().0, 1, "no mirror's orders were read");
    vendor.run();
    let (peer, _mirror) = TestMirror::start(93).await;
    introduce(&vendor, &peer).await;
    eventually("orders were read", || vendor.vendor.has_caught_up()).await;
    // The chunk came before any mirror was heard: its time begins once one was.
    vendor.vendor.redate().unwrap();
    vendor.vendor.sweep(late, Some(clock::now())).unwrap();
    assert_eq!(vendor.counts().0, 1, "the local clock alone erases nothing");
    vendor.vendor.sweep(late, Some(late)).unwrap();
    assert_eq!(vendor.counts(), (0, 0, 0, 0));
}

/// Keeps away: an order that a clock which is ahead takes for expired is never heard again.
#[tokio::test(flavor = "multi_thread")]
async fn fault_21_an_order_has_expired_only_by_both_clocks() {
    let user = TestUser::start(94).await;
    let vendor = TestVendor::start(95).await;
    let receipt = user.store(&vendor, &bytes(300_000, 1)).await;
    let (peer, _mirror) = TestMirror::start(96).await;
    introduce(&vendor, &peer).await;
    let now = clock::now();
    let mut fat = user.fat(1, 1, vec![user.uses(&receipt, 0)], Vec::new());
    fat.order_expires = fathom_protocol::time::UnixMs(now.0 - 3_600_000);
    let order = || vendor.vendor.order(vec![user.sealed(fat.clone())]).remove(0).map_err(|refusal| refusal.kind);
    assert_eq!(order(), Err(RefusalKind::Internal), "no mirror's clock is known: the order is asked for again");
    vendor.vendor.note_clock(peer.net.me(), now);
    assert_eq!(order(), Err(RefusalKind::LeaseExpired));
    vendor.vendor.note_clock(peer.net.me(), fathom_protocol::time::UnixMs(now.0 - 7_200_000));
    assert_eq!(order(), Ok(()));
}

/// Keeps away: a vendor that started with a clock which was behind took chunks before it had heard a mirror, and reclaimed them as
/// soon as that clock was set right.
#[tokio::test(flavor = "multi_thread")]
async fn fault_21_what_was_promised_before_the_time_was_known_is_promised_anew() {
    let user = TestUser::start(97).await;
    let vendor = TestVendor::start(98).await;
    let (peer, _mirror) = TestMirror::start(99).await;
    let noted = |vendor: &TestVendor| vendor.vendor.fat.kv(super::super::accounts::DOUBTS_KEY).unwrap().is_some();
    let doubts = |vendor: &TestVendor| super::super::lock(&vendor.vendor.ledger).doubts();
    assert!(!doubts(&vendor) && !noted(&vendor));
    user.store(&vendor, &bytes(300_000, 1)).await;
    assert!(doubts(&vendor) && noted(&vendor), "no mirror was heard: the dates are the wall clock's alone");
    // It is remembered over a restart, before anybody could be promised anything else.
    let vendor = vendor.restart(98).await;
    introduce(&vendor, &peer).await;
    assert!(doubts(&vendor));
    // This node's clock is 40 days behind, and is set right.
    let days = |days: u64| clock::now().plus_seconds(days * 86_400);
    let lapse = |days: fathom_protocol::time::UnixMs| {
        vendor.vendor.note_caught_up(peer.net.me());
        vendor.vendor.redate().unwrap();
        vendor.vendor.sweep(days, Some(days)).unwrap();
    };
    lapse(days(40));
    assert_eq!(vendor.counts(), (1, 1, 300_000, 300_000), "nothing in doubt is reclaimed");
    vendor.vendor.note_clock(peer.net.me(), days(40));
    lapse(days(40));
    assert!(!doubts(&vendor) && !noted(&vendor));
    assert_eq!(vendor.counts(), (1, 1, 300_000, 300_000), "its time begins when the time is known");
    lapse(days(42));
    assert_eq!(vendor.counts(), (0, 0, 0, 0), "what no final FAT names is kept for its time, and no longer");
}

/// A full vendor, an empty one, and a mirror; the full one holds eight committed chunks of 1 MiB.
struct Move {
    user: TestUser,
    source: TestVendor,
    target: TestVendor,
    mirror: (Peer, Arc<TestMirror>),
    bodies: Vec<Vec<u8>>,
    /// The final FAT of what the source stores.
    fat: Carried<FinalFat>,
}

impl Move {
    async fn new(seed: u8) -> Self {
        let user = TestUser::start(seed).await;
        let source = TestVendor::with(seed + 1, 10 * MIB, |settings| {
            settings.overload_percent = 75;
            settings.relief_percent = 50;
        })
        .await;
        let target = TestVendor::start(seed + 2).await;
        let mirror = TestMirror::start(seed + 3).await;
        let stop = user.lock(&source, 8 * MIB).await;
        let bodies: Vec<Vec<u8>> = (0..8).map(|i| bytes(MIB as usize, i)).collect();
        let mut receipt = None;
        for body in &bodies {
            let answers = user.send(source.node(), &user.header(body, &[&stop]), body).await;
            receipt = Some(receipts(&answers).remove(0));
        }
        let receipt = receipt.unwrap();
        let mut used = user.uses(&receipt, 0);
        used.bytes = 8 * MIB;
        let fat = user.sealed(user.fat(1, 1, vec![used], Vec::new()));
        let order = Request::Order(Bounded::first([fat.clone()]));
        user.peer.net.call(source.node(), &order, WAIT).await.unwrap();
        Self { user, source, target, mirror, bodies, fat }
    }

    async fn begin(&self) {
        self.target.run();
        introduce(&self.target, &self.mirror.0).await;
        let mirror = &self.mirror.1;
        eventually("the target reports", || mirror.heads.lock().unwrap().contains_key(&self.target.node())).await;
        self.source.run();
        introduce(&self.source, &self.mirror.0).await;
    }

    async fn readable(&self, at: &TestVendor) -> usize {
        self.user.know(&at.peer.net).await;
        let mut found = 0;
        for body in &self.bodies {
            let request = FetchRequest {
                version: tags::VERSION,
                owner: self.user.owner(),
                vendor: at.node(),
                chunk: ChunkId::of(body),
                offset: 0,
                length: MIB as u32,
                expires: hour(),
            };
            found += usize::from(self.user.fetch(request).await.is_ok_and(|found| found == *body));
        }
        found
    }
}

/// Keeps away: a vendor that is cut off with one mirror of three erases what a final FAT names that the two others have.
#[tokio::test(flavor = "multi_thread")]
async fn fault_18_a_vendor_that_sees_one_mirror_of_three_erases_nothing_for_want_of_a_name() {
    let user = TestUser::start(145).await;
    let vendor = TestVendor::start(146).await;
    user.store(&vendor, &bytes(300_000, 1)).await;
    let (seen, _mirror) = TestMirror::start(147).await;
    let (other, _other) = TestMirror::start(148).await;
    let (third, _third) = TestMirror::start(149).await;
    introduce(&vendor, &other).await;
    introduce(&vendor, &third).await;
    introduce(&vendor, &seen).await;
    let late = clock::now().plus_seconds(400 * 24 * 3_600);
    let sweep = || {
        vendor.vendor.redate().unwrap();
        vendor.vendor.sweep(late, Some(late)).unwrap();
        vendor.counts().0
    };
    vendor.vendor.note_clock(seen.net.me(), clock::now());
    vendor.vendor.note_clock(other.net.me(), clock::now());
    vendor.vendor.note_caught_up(seen.net.me());
    vendor.vendor.note_caught_up(seen.net.me());
    assert_eq!(sweep(), 1, "the two others may have its name");
    vendor.vendor.note_caught_up(other.net.me());
    assert_eq!(sweep(), 0, "the third one alone is too few for a final FAT that is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn fig_15_an_overloaded_vendor_moves_chunks_away_and_erases_them_after_the_hold() {
    let scene = Move::new(91).await;
    scene.begin().await;
    // Entries go first, then parts, and then the room is free again.
    let moved = || {
        let (chunks, _, used, locked) = scene.source.counts();
        (chunks, used, locked) == (5, 5 * MIB, 5 * MIB)
    };
    eventually("chunks are moved and erased here", moved).await;
    assert_eq!(scene.source.vendor.status()["migrations"], 3);
    // The room is given back after the parts are gone, which is after the local FAT has forgotten them.
    let free_again = || (scene.source.counts().2, scene.source.counts().3) == (5 * MIB, 5 * MIB);
    eventually("the room is free again", free_again).await;
    assert_eq!(scene.target.counts().0, 3);
    let moves = scene.mirror.1.moves.lock().unwrap().clone();
    assert_eq!(moves.len(), 3);
    assert!(moves.iter().all(|moved| moved.from == scene.source.node() && moved.to == scene.target.node()));
    assert_eq!((scene.readable(&scene.source).await, scene.readable(&scene.target).await), (5, 3));
    // The moved chunks live as long as their file: the release reaches them at the target.
    let release = scene.user.sealed(scene.user.fat(2, 2, Vec::new(), vec![scene.target.node()]));
    scene.user.peer.net.call(scene.target.node(), &Request::Order(Bounded::first([release])), WAIT).await.unwrap();
    assert_eq!(scene.target.counts(), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_16_without_the_mirrors_word_the_source_keeps_its_chunks() {
    let scene = Move::new(95).await;
    scene.mirror.1.refuse_moves.store(true, Ordering::SeqCst);
    scene.begin().await;
    eventually("chunks arrive at the target", || scene.target.counts().0 == 3).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((scene.source.counts().0, scene.readable(&scene.source).await), (8, 8));
    assert!(scene.mirror.1.moves.lock().unwrap().is_empty());
    // The moves wait on disk, and go on once a mirror takes them.
    scene.mirror.1.refuse_moves.store(false, Ordering::SeqCst);
    eventually("the moves go on", || scene.source.counts().0 == 5).await;
    assert_eq!((scene.readable(&scene.source).await, scene.readable(&scene.target).await), (5, 3));
}

impl Move {
    /// Lets the time pass after which the target hands in moves itself; then no move waits there.
    async fn confirm(&self) {
        let vendor = &self.target.vendor;
        let passed = Duration::from_millis(fathom_protocol::rehome::CONFIRM_AFTER_MS);
        for since in super::super::lock(&vendor.unconfirmed).values_mut() {
            *since = since.checked_sub(passed).unwrap();
        }
        eventually("the target has asked", || super::super::lock(&vendor.unconfirmed).is_empty()).await;
    }

    fn target_states(&self) -> Vec<fathom_store::ChunkState> {
        let chunks = self.target.vendor.fat.chunks_after(None, 64).unwrap();
        chunks.into_iter().map(|chunk| chunk.state).collect()
    }
}

/// Keeps away: a chunk whose move never came to a mirror, since its file was released at that moment or its source died, stayed at the
/// destination for as long as other chunks under the same lease: no final FAT ever reaches a vendor that no mirror knows to have it.
#[tokio::test(flavor = "multi_thread")]
async fn fault_15_what_came_by_a_move_that_is_void_lapses() {
    let scene = Move::new(126).await;
    scene.mirror.1.void_moves.store(true, Ordering::SeqCst);
    scene.begin().await;
    let waiting = || super::super::lock(&scene.target.vendor.unconfirmed).len();
    eventually("chunks arrive at the target", || waiting() == 3).await;
    scene.source.peer.cancel.cancel();
    scene.source.peer.net.overlay().shutdown().await;
    let late = clock::now().plus_seconds(400 * 24 * 3_600);
    eventually("orders were read", || scene.target.vendor.has_caught_up()).await;
    scene.target.vendor.redate().unwrap();
    scene.target.vendor.sweep(late, Some(late)).unwrap();
    assert_eq!(scene.target.counts().0, 3, "a mirror may have the moves: a table may lead here");
    // It names their version, and means the copies at the source.
    assert_eq!(scene.target.vendor.order(vec![scene.fat.clone()]), [Ok(())]);
    scene.confirm().await;
    assert!(scene.target.vendor.fat.moves().unwrap().is_empty());
    eventually("orders were read", || scene.target.vendor.has_caught_up()).await;
    scene.target.vendor.sweep(clock::now(), Some(clock::now())).unwrap();
    assert_eq!(scene.target.counts().0, 3, "they have their time");
    scene.target.vendor.sweep(late, Some(late)).unwrap();
    assert_eq!(scene.target.counts(), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_a_move_that_a_mirror_has_stays() {
    let scene = Move::new(130).await;
    scene.begin().await;
    let waiting = || super::super::lock(&scene.target.vendor.unconfirmed).len();
    eventually("chunks arrive at the target", || waiting() == 3).await;
    eventually("the source hands the moves in", || scene.mirror.1.moves.lock().unwrap().len() == 3).await;
    assert!(scene.target_states().iter().all(|state| *state == fathom_store::ChunkState::Sent));
    scene.confirm().await;
    assert!(scene.target_states().iter().all(|state| *state == fathom_store::ChunkState::Committed));
    let late = clock::now().plus_seconds(400 * 24 * 3_600);
    eventually("orders were read", || scene.target.vendor.has_caught_up()).await;
    scene.target.vendor.redate().unwrap();
    scene.target.vendor.sweep(late, Some(late)).unwrap();
    assert_eq!((scene.target.counts().0, scene.mirror.1.moves.lock().unwrap().len()), (3, 3));
}

/// Keeps away: another device that chooses this version at the same moment finds nothing of it, since the copy that had just moved
/// had only the rest of the time of a copy that was sent.
#[tokio::test(flavor = "multi_thread")]
async fn fault_47_a_version_that_was_given_up_while_it_moved_has_the_time_of_one_that_is_let_go() {
    let scene = Move::new(134).await;
    scene.begin().await;
    let waiting = || super::super::lock(&scene.target.vendor.unconfirmed).len();
    eventually("chunks arrive at the target", || waiting() == 3).await;
    eventually("the source hands the moves in", || scene.mirror.1.moves.lock().unwrap().len() == 3).await;
    // The user chooses what another device stored meanwhile.
    let (first, other, none) = (scene.fat.clone().verify().unwrap(), Tag::new(1, 1), Follows::default());
    let version = |tag| Lineage { base: tag, seq: tag, follows: &none };
    let follows = Follows::all_of([version(first.tag()), version(other)], Some(other));
    let elsewhere = Use { vendor: NodeId([9; 32]), ..first.uses[0] };
    let choice = FinalFat { base: other.0, follows, ..scene.user.fat(2, 2, vec![elsewhere], Vec::new()) };
    let fats = vec![scene.fat.clone(), scene.user.sealed(choice)];
    assert_eq!(scene.target.vendor.order(fats), [Ok(()), Ok(())]);
    let before = clock::now();
    scene.confirm().await;
    let chunks = scene.target.vendor.fat.chunks_after(None, 64).unwrap();
    assert_eq!(chunks.len(), 3);
    assert!(chunks.iter().all(|chunk| chunk.state == fathom_store::ChunkState::Stored && chunk.stored_at >= before));
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_15_stopped_in_mid_migration_every_chunk_is_readable_and_it_goes_on() {
    for after in [0, 1, 2, 3] {
        let seed = 110 + 4 * after as u8;
        let mut scene = Move::new(seed).await;
        scene.begin().await;
        eventually("some chunks are over there", || scene.target.counts().0 >= after).await;
        scene.source = scene.source.restart(seed + 1).await;
        let here = scene.readable(&scene.source).await;
        let moved = scene.mirror.1.moves.lock().unwrap().len();
        assert!(here == 8 || here + scene.readable(&scene.target).await >= 8, "{here} readable at the source");
        assert!(here + moved >= 8, "nothing is erased without a move that a mirror has");
        scene.source.run();
        introduce(&scene.source, &scene.mirror.0).await;
        eventually("the rest is moved and erased", || scene.source.counts().0 == 5).await;
        assert!(scene.readable(&scene.source).await == 5 && scene.readable(&scene.target).await >= 3);
        eventually("the room is free again", || scene.source.counts().3 == 5 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_16_a_target_that_dies_leaves_everything_at_the_source() {
    let scene = Move::new(101).await;
    scene.target.run();
    introduce(&scene.target, &scene.mirror.0).await;
    let mirror = &scene.mirror.1;
    eventually("the target reports", || mirror.heads.lock().unwrap().contains_key(&scene.target.node())).await;
    scene.target.peer.cancel.cancel();
    scene.target.peer.net.overlay().shutdown().await;
    scene.source.run();
    introduce(&scene.source, &scene.mirror.0).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((scene.source.counts().0, scene.readable(&scene.source).await), (8, 8));
    assert!(mirror.moves.lock().unwrap().is_empty());
    assert_eq!(scene.source.vendor.status()["migrations"], 0);
}

/// Keeps away: a vendor whose disk was put back finds the move of a copy that it gave away, and lets go by it the copy that came to it
/// since, under another lease.
#[tokio::test(flavor = "multi_thread")]
async fn fault_24_a_move_of_an_earlier_copy_takes_no_later_one_away() {
    let (user, vendor, other) =
        (TestUser::start(138).await, TestVendor::start(139).await, TestVendor::start(140).await);
    let mirror = TestMirror::start(141).await;
    let receipt = user.store(&vendor, &bytes(300_000, 1)).await;
    let stored = user.sealed(user.fat(1, 1, vec![user.uses(&receipt, 0)], Vec::new()));
    assert_eq!(vendor.vendor.order(vec![stored]), [Ok(())]);
    let earlier = fathom_protocol::moves::Move {
        version: fathom_protocol::tags::VERSION,
        owner: receipt.owner,
        file: receipt.file,
        seq: receipt.seq,
        chunk: receipt.chunk,
        length: receipt.length,
        from: vendor.node(),
        from_lease: fathom_protocol::ids::LeaseId([9; 16]),
        to: other.node(),
        to_lease: fathom_protocol::ids::LeaseId([8; 16]),
        at: clock::now(),
    };
    let moved = CarriedMove::propose(&earlier, vendor.peer.net.key()).unwrap().cosign(other.peer.net.key());
    let key = fathom_store::ChunkKey { owner: receipt.owner, chunk: receipt.chunk };
    vendor.vendor.fat.write(|tx| tx.put_move(&key, &codec::encode(&moved))).unwrap();
    vendor.run();
    introduce(&vendor, &mirror.0).await;
    eventually("the move is forgotten", || vendor.vendor.fat.moves().unwrap().is_empty()).await;
    let entry = vendor.vendor.fat.chunk(receipt.owner, receipt.chunk).unwrap().unwrap();
    assert_eq!(entry.state, fathom_store::ChunkState::Committed);
    assert!(mirror.1.moves.lock().unwrap().is_empty(), "nobody is told of it again");
}
