//! The words on downloads for vendors and a mirror (figures 19 and 20): those of many gets go out as one for each vendor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fathom_protocol::codec::Bounded;
use fathom_protocol::ids::{ChunkId, NodeId};
use fathom_protocol::limits::{CHUNKS_PER_MESSAGE_MAX, VALIDATIONS_MAX};
use fathom_protocol::sign::{Carried, Signed};
use fathom_protocol::wire::{Request, Validation};

use super::User;
use super::fetch::Service;
use super::store::lock;
use crate::clock;

/// How long words are gathered. Nobody waits for them.
const GATHER: Duration = Duration::from_millis(250);
/// Longest wait for a vendor or mirror to take them.
const TOLD: Duration = Duration::from_millis(1_500);

/// Chunks that arrived from a vendor, and that did not. What is beyond a message's length is left out.
#[derive(Default)]
struct Word {
    good: Vec<ChunkId>,
    bad: Vec<ChunkId>,
}

impl Word {
    fn add(&mut self, service: &Service) {
        for (list, more) in [(&mut self.good, &service.good), (&mut self.bad, &service.bad)] {
            let room = CHUNKS_PER_MESSAGE_MAX.saturating_sub(list.len());
            list.extend(more.iter().take(room));
        }
    }
}

/// Words that are still to be told, by vendor.
#[derive(Default)]
pub(super) struct Words(Mutex<BTreeMap<NodeId, Word>>);

impl User {
    /// Has each vendor told which chunks arrived, and a mirror how it went. Best effort, soon.
    pub(super) fn tell_soon(self: &Arc<Self>, services: &BTreeMap<NodeId, Service>) {
        let mut words = lock(&self.words.0);
        let first = words.is_empty();
        for (vendor, service) in services {
            words.entry(*vendor).or_default().add(service);
        }
        if first && !words.is_empty() {
            // It keeps no node from ending, which tells them itself.
            let user = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                if let Some(user) = user.upgrade() {
                    user.tell_now().await;
                }
            });
        }
    }

    /// Tells what is to be told.
    pub(super) async fn tell_now(&self) {
        let words = std::mem::take(&mut *lock(&self.words.0));
        let at = clock::now();
        let signed = words.into_iter().filter_map(|(vendor, Word { good, bad })| {
            let validation = Validation {
                version: fathom_protocol::tags::VERSION,
                owner: self.owner(),
                vendor,
                good: Bounded::first(good),
                bad: Bounded::first(bad),
                at,
            };
            Signed::sign(validation, self.signing()).ok()
        });
        let signed: Vec<Signed<Validation>> = signed.collect();
        let to_vendors = signed.iter().map(|word| self.tell(word.vendor, vec![word.carried().clone()]));
        let to_mirror = async {
            let Some(mirror) = self.net.book().mirrors().first().copied() else { return };
            for some in signed.chunks(VALIDATIONS_MAX) {
                self.tell(mirror, some.iter().map(|word| word.carried().clone()).collect()).await;
            }
        };
        tokio::join!(futures::future::join_all(to_vendors), to_mirror);
    }

    async fn tell(&self, to: NodeId, words: Vec<Carried<Validation>>) {
        if self.net.book().behaviour(to).suspected {
            return;
        }
        if let Err(error) = self.net.call(to, &Request::Validate(Bounded::first(words)), TOLD).await {
            tracing::debug!(to = %to.short(), %error, "downloads were not reported");
        }
    }
}
