//! One direction of a link: datagrams go in with a destination and leave when it is their time.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::shape::{Counts, Direction, Shaper, UNDER_WAY_BYTES_MAX};
use crate::wait::Stopwatch;

/// A datagram on its way.
#[derive(Debug)]
struct Parcel {
    at: Duration,
    number: u64,
    from: Arc<UdpSocket>,
    to: SocketAddr,
    /// The pipe that it goes through next.
    then: Option<Arc<Pipe>>,
    bytes: Vec<u8>,
}

// The heap's greatest is the one that arrives first.
impl Ord for Parcel {
    fn cmp(&self, other: &Self) -> Order {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Parcel {}

#[derive(Debug)]
struct State {
    shaper: Shaper,
    /// Bounded in bytes by [`UNDER_WAY_BYTES_MAX`].
    parcels: BinaryHeap<Parcel>,
    under_way_bytes: u64,
    number: u64,
}

#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
    clock: Stopwatch,
    ended: Arc<AtomicBool>,
}

impl Pipe {
    pub(super) fn start(direction: Direction, seed: u64, ended: &Arc<AtomicBool>) -> io::Result<Arc<Self>> {
        let state =
            State { shaper: Shaper::new(direction, seed), parcels: BinaryHeap::new(), under_way_bytes: 0, number: 0 };
        let pipe = Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            clock: Stopwatch::start(),
            ended: Arc::clone(ended),
        });
        let theirs = Arc::clone(&pipe);
        thread::Builder::new().name("link".to_owned()).spawn(move || theirs.deliver())?;
        Ok(pipe)
    }

    /// Sends `bytes` through the pipe and then from `from` to `to`.
    pub(super) fn carry(&self, bytes: &[u8], from: &Arc<UdpSocket>, to: SocketAddr) {
        self.take(bytes, None, from, to);
    }

    /// Sends `bytes` through the pipe, through the next one, and then from `from` to `to`.
    pub(super) fn carry_on(&self, bytes: &[u8], next: &Arc<Self>, from: &Arc<UdpSocket>, to: SocketAddr) {
        self.take(bytes, Some(next), from, to);
    }

    fn take(&self, bytes: &[u8], then: Option<&Arc<Self>>, from: &Arc<UdpSocket>, to: SocketAddr) {
        let now = self.clock.elapsed();
        let mut state = self.state();
        let Some(at) = state.shaper.offer(now, bytes.len()) else { return };
        let total = state.under_way_bytes + bytes.len() as u64;
        if total > UNDER_WAY_BYTES_MAX {
            return;
        }
        state.under_way_bytes = total;
        state.number += 1;
        let number = state.number;
        let first = state.parcels.peek().is_none_or(|first| at < first.at);
        state.parcels.push(Parcel {
            at,
            number,
            from: Arc::clone(from),
            to,
            then: then.cloned(),
            bytes: bytes.to_vec(),
        });
        drop(state);
        if first {
            self.changed.notify_one();
        }
    }

    pub(super) fn change(&self, direction: Direction) {
        self.state().shaper.direction = direction;
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().shaper.counts
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn wake(&self) {
        // Held, so that the other thread is either before its look at the flag or waiting.
        let state = self.state();
        self.changed.notify_all();
        drop(state);
    }

    fn deliver(&self) {
        let mut due = Vec::new();
        let mut state = self.state();
        while !self.has_ended() {
            let now = self.clock.elapsed();
            while state.parcels.peek().is_some_and(|parcel| parcel.at <= now)
                && let Some(parcel) = state.parcels.pop()
            {
                state.under_way_bytes -= parcel.bytes.len() as u64;
                due.push(parcel);
            }
            if !due.is_empty() {
                drop(state);
                for parcel in due.drain(..) {
                    match parcel.then {
                        Some(next) => next.carry(&parcel.bytes, &parcel.from, parcel.to),
                        // A datagram that cannot be sent is one that is lost.
                        None => drop(parcel.from.send_to(&parcel.bytes, parcel.to)),
                    }
                }
                state = self.state();
                continue;
            }
            state = match state.parcels.peek().map(|parcel| parcel.at - now) {
                Some(wait) => self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds it can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
