//! The book of known peers: signed announcements, addresses learnt from heads, and how each peer behaved lately.
//! It is kept on disk, so that a node finds its network again without the bootstrap node.
//!
//! `peers.cbor` is a CBOR array of announcements as they were signed (each with a version of its own), mirrors first. It has no
//! version: all of it can be learnt again, and what cannot be read or verified is left out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fathom_protocol::codec::{self, Bounded};
use fathom_protocol::ids::NodeId;
use fathom_protocol::limits::{FRAME_BYTES_MAX, PEERS_MAX};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{PeerRecord, Roles};

use super::links::Link;

/// Peers remembered: all vendors of a large network. Beyond that, those that never answered make room.
const KNOWN_MAX: usize = 16_384;
/// How long a peer that failed is asked last.
const SUSPECTED: Duration = Duration::from_secs(15);
/// How soon one who waits hears that its peer is suspected.
const SUSPICION_LOOK: Duration = Duration::from_millis(100);
/// Weight of the newest round trip in the running mean, in eighths.
const NEWEST_EIGHTHS: u32 = 2;

#[derive(Clone, Debug, Default)]
struct Contact {
    record: Option<Signed<PeerRecord>>,
    addresses: Vec<String>,
    round_trip: Option<Duration>,
    variation: Duration,
    measured: Option<Instant>,
    link: Link,
    suspected_until: Option<Instant>,
    answers: u64,
    failures: u64,
}

/// How a peer behaved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// Running mean of its round trips.
    pub round_trip: Option<Duration>,
    /// Running mean of how far they are from that.
    pub variation: Duration,
    /// Whether it failed within the last seconds and has not answered since.
    pub suspected: bool,
    /// Share of calls that it answered, 0 to 1; 1 if never asked.
    pub answered: f64,
}

/// All known peers.
#[derive(Debug, Default)]
pub struct PeerBook {
    file: Option<PathBuf>,
    contacts: Mutex<BTreeMap<NodeId, Contact>>,
}

type FileForm = Bounded<Carried<PeerRecord>, PEERS_MAX>;

impl Contact {
    fn behaviour(&self, now: Instant) -> Behaviour {
        let asked = self.answers + self.failures;
        Behaviour {
            round_trip: self.round_trip,
            variation: self.variation,
            suspected: self.suspected_until.is_some_and(|until| until > now),
            answered: if asked == 0 { 1.0 } else { self.answers as f64 / asked as f64 },
        }
    }
}

impl PeerBook {
    /// The book kept in `file`; empty if there is none yet or it cannot be read, since all of it can be learnt again.
    #[must_use]
    pub fn open(file: PathBuf) -> Self {
        let book = Self { file: Some(file.clone()), contacts: Mutex::default() };
        if let Ok(bytes) = std::fs::read(&file)
            && let Ok(records) = codec::decode::<FileForm>(&bytes, FRAME_BYTES_MAX)
        {
            for record in records {
                if let Ok(record) = record.verify() {
                    book.learn(record);
                }
            }
        }
        book
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<NodeId, Contact>) -> T) -> T {
        work(&mut self.contacts.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Keeps an announcement if it is newer than the one known. Returns whether it was.
    pub fn learn(&self, record: Signed<PeerRecord>) -> bool {
        self.with(|contacts| {
            if !has_room(contacts, record.node, KNOWN_MAX) {
                return false;
            }
            let contact = contacts.entry(record.node).or_default();
            if contact.record.as_ref().is_some_and(|known| known.issued >= record.issued) {
                return false;
            }
            contact.addresses = record.addresses.iter().map(ToString::to_string).collect();
            contact.record = Some(record);
            true
        })
    }

    /// Keeps addresses that came with a vendor's signed head or hop.
    pub fn learn_addresses(&self, node: NodeId, addresses: impl IntoIterator<Item = String>) {
        let addresses: Vec<String> = addresses.into_iter().collect();
        self.with(|contacts| {
            if !addresses.is_empty() && has_room(contacts, node, KNOWN_MAX) {
                contacts.entry(node).or_default().addresses = addresses;
            }
        });
    }

    /// Where to dial `node`; empty if unknown.
    #[must_use]
    pub fn addresses(&self, node: NodeId) -> Vec<String> {
        self.with(|contacts| contacts.get(&node).map(|contact| contact.addresses.clone()).unwrap_or_default())
    }

    /// Known peers with a role, those that answer first, then by round trip.
    #[must_use]
    pub fn with_role(&self, role: impl Fn(&Roles) -> bool) -> Vec<NodeId> {
        let now = Instant::now();
        self.with(|contacts| {
            let mut found: Vec<(bool, Duration, NodeId)> = contacts
                .iter()
                .filter(|(_, contact)| contact.record.as_ref().is_some_and(|record| role(&record.roles)))
                .map(|(node, contact)| {
                    let suspected = contact.suspected_until.is_some_and(|until| until > now);
                    (suspected, contact.round_trip.unwrap_or(Duration::from_millis(100)), *node)
                })
                .collect();
            found.sort_unstable();
            found.into_iter().map(|(_, _, node)| node).collect()
        })
    }

    /// Known mirrors, the best first.
    #[must_use]
    pub fn mirrors(&self) -> Vec<NodeId> {
        self.with_role(|roles| roles.mirror)
    }

    /// Announcements to pass on, mirrors and bootstrap nodes first.
    #[must_use]
    pub fn announcements(&self) -> Vec<Signed<PeerRecord>> {
        self.with(|contacts| {
            let mut records: Vec<Signed<PeerRecord>> =
                contacts.values().filter_map(|contact| contact.record.clone()).collect();
            records.sort_by_key(|record| (!record.roles.mirror, !record.roles.bootstrap, !record.roles.vendor));
            records.truncate(PEERS_MAX);
            records
        })
    }

    /// Notes that `node` failed to answer.
    pub fn suspect(&self, node: NodeId) {
        self.with(|contacts| {
            if let Some(contact) = contacts.get_mut(&node) {
                contact.suspected_until = Some(Instant::now() + SUSPECTED);
                contact.failures += 1;
            }
        });
    }

    /// Notes that `node` answered; `round_trip` if it was a probe, whose time says something of the path.
    pub fn answered(&self, node: NodeId, round_trip: Option<Duration>) {
        self.with(|contacts| {
            if let Some(contact) = contacts.get_mut(&node) {
                contact.suspected_until = None;
                contact.answers += 1;
                contact.measured = round_trip.map(|_| Instant::now()).or(contact.measured);
                if let (Some(mean), Some(newest)) = (contact.round_trip, round_trip) {
                    contact.variation =
                        (contact.variation * (8 - NEWEST_EIGHTHS) + mean.abs_diff(newest) * NEWEST_EIGHTHS) / 8;
                }
                contact.round_trip = match (contact.round_trip, round_trip) {
                    (Some(mean), Some(newest)) => Some((mean * (8 - NEWEST_EIGHTHS) + newest * NEWEST_EIGHTHS) / 8),
                    (mean, newest) => mean.or(newest),
                };
            }
        });
    }

    /// Waits until `begun` is told or dropped, or until `node` is suspected.
    pub(super) async fn begun(&self, node: NodeId, begun: tokio::sync::oneshot::Receiver<()>) {
        let suspected = async {
            while !self.behaviour(node).suspected {
                tokio::time::sleep(SUSPICION_LOOK).await;
            }
        };
        tokio::select! {
            biased;
            _ = begun => {}
            () = suspected => {}
        }
    }

    /// Works with what is known of the link of `node`, if it is in the book.
    pub(super) fn link<T>(&self, node: NodeId, work: impl FnOnce(&mut Link) -> T) -> Option<T> {
        self.with(|contacts| contacts.get_mut(&node).map(|contact| work(&mut contact.link)))
    }

    /// Whether `node` can be reached over relays only.
    pub(super) fn is_relayed(&self, node: NodeId) -> bool {
        let relayed = |contact: &Contact| {
            !contact.addresses.is_empty() && contact.addresses.iter().all(|address| address.contains("/p2p-circuit"))
        };
        self.with(|contacts| contacts.get(&node).is_some_and(relayed))
    }

    /// How `node` behaved.
    #[must_use]
    pub fn behaviour(&self, node: NodeId) -> Behaviour {
        let now = Instant::now();
        self.with(|contacts| {
            contacts.get(&node).map_or_else(|| Contact::default().behaviour(now), |it| it.behaviour(now))
        })
    }

    /// Those of `nodes` whose way was not measured within `fresh`, and that did not fail lately.
    pub(super) fn unmeasured(&self, nodes: impl IntoIterator<Item = NodeId>, fresh: Duration) -> Vec<NodeId> {
        let now = Instant::now();
        let unmeasured = |contact: &Contact| {
            contact.measured.is_none_or(|at| now.saturating_duration_since(at) > fresh)
                && contact.suspected_until.is_none_or(|until| until <= now)
        };
        self.with(|contacts| nodes.into_iter().filter(|node| contacts.get(node).is_some_and(unmeasured)).collect())
    }

    /// Those of `nodes` whose way was not measured within `fresh`, and those that failed lately.
    pub(super) fn uncertain(&self, nodes: impl IntoIterator<Item = NodeId>, fresh: Duration) -> Vec<NodeId> {
        let now = Instant::now();
        let certain = |contact: &Contact| {
            contact.measured.is_some_and(|at| now.saturating_duration_since(at) <= fresh)
                && !contact.behaviour(now).suspected
        };
        self.with(|contacts| nodes.into_iter().filter(|node| !contacts.get(node).is_some_and(certain)).collect())
    }

    /// How nodes behaved of which there is anything to say: those that failed lately, and those whose way was measured. By node.
    #[must_use]
    pub fn noted(&self) -> Vec<(NodeId, Behaviour)> {
        let now = Instant::now();
        self.with(|contacts| {
            let noted = contacts.iter().filter(|(_, contact)| {
                contact.round_trip.is_some() || contact.suspected_until.is_some_and(|until| until > now)
            });
            noted.map(|(node, contact)| (*node, contact.behaviour(now))).collect()
        })
    }

    /// Writes the announcements to the book's file. Losing them costs a new search, so no sync is awaited.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        let records = FileForm::first(self.announcements().into_iter().map(Signed::into_carried));
        let temporary = file.with_extension("new");
        let written =
            std::fs::write(&temporary, codec::encode(&records)).and_then(|()| std::fs::rename(&temporary, file));
        if let Err(error) = written {
            tracing::warn!(%error, file = %file.display(), "the list of known peers was not saved");
        }
    }
}

/// Whether `node` may be in the book, after the peer that failed most of those that never answered made room for it if need be.
/// One that ever answered is never put out by one that only announces itself.
fn has_room(contacts: &mut BTreeMap<NodeId, Contact>, node: NodeId, known_max: usize) -> bool {
    if contacts.len() < known_max || contacts.contains_key(&node) {
        return true;
    }
    let strangers = contacts.iter().filter(|(_, contact)| contact.answers == 0);
    let Some(out) = strangers.max_by_key(|(_, contact)| contact.failures).map(|(node, _)| *node) else { return false };
    contacts.remove(&out);
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::golden;

    /// Golden bytes: they are never edited.
    #[test]
    fn the_file_keeps_its_bytes_and_is_read_as_ever() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("peers.cbor");
        let record: Carried<PeerRecord> = codec::decode(&golden::message("peer"), FRAME_BYTES_MAX).unwrap();
        let record = record.verify().unwrap();
        let book = PeerBook::open(file.clone());
        assert!(book.announcements().is_empty());
        assert!(book.learn(record.clone()));
        book.save();
        let bytes = golden::same("peers-v1", &std::fs::read(&file).unwrap());

        std::fs::write(&file, &bytes).unwrap();
        let again = PeerBook::open(file.clone());
        assert_eq!(again.mirrors(), [record.node]);
        assert_eq!(again.addresses(record.node), book.addresses(record.node));
        assert!(!again.addresses(record.node).is_empty());
        // What rotted costs a search and nothing else.
        let mut rotten = bytes;
        *rotten.last_mut().unwrap() ^= 1;
        for bad in [&rotten[..], &rotten[..20], b""] {
            std::fs::write(&file, bad).unwrap();
            assert!(PeerBook::open(file.clone()).announcements().is_empty());
        }
    }

    #[test]
    fn a_full_book_makes_room_by_forgetting_whom_nobody_ever_heard() {
        let node = |number: u8| NodeId([number; NodeId::LEN]);
        let heard = |answers, failures| Contact { answers, failures, ..Contact::default() };
        let mut contacts = BTreeMap::from([(node(1), heard(3, 9)), (node(2), heard(0, 1)), (node(3), heard(0, 0))]);
        assert!(has_room(&mut contacts, node(1), 3) && contacts.len() == 3, "who is known keeps its place");
        assert!(has_room(&mut contacts, node(4), 3));
        assert_eq!(contacts.keys().copied().collect::<Vec<_>>(), [node(1), node(3)], "the one that only failed went");
        contacts.insert(node(4), heard(1, 0));
        assert!(has_room(&mut contacts, node(5), 3));
        contacts.insert(node(5), heard(1, 0));
        assert!(!has_room(&mut contacts, node(6), 3), "those that answered stay");
        assert_eq!(contacts.len(), 3);
    }

    /// A put with a stopped vendor once took three seconds more: chunks whose header still waited for the connection's window
    /// began their own clock only when they were told of the silence that another chunk had found.
    #[tokio::test]
    async fn who_waits_for_the_window_of_a_hung_peer_goes_on_when_it_is_suspected() {
        let node = NodeId([1; NodeId::LEN]);
        let book = PeerBook::default();
        book.learn_addresses(node, ["/ip4/127.0.0.1/udp/1/quic-v1".to_owned()]);
        let (_never, begun) = tokio::sync::oneshot::channel();
        let waiting = book.begun(node, begun);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending(), "neither begun nor suspected");
        book.suspect(node);
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it goes on");
        let (told, begun) = tokio::sync::oneshot::channel();
        book.answered(node, None);
        told.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), book.begun(node, begun)).await.expect("it has begun");
    }
}
