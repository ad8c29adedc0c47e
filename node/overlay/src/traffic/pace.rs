//! The pace of a stream in the background.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::{Traffic, Way};

/// Bytes that a background stream writes, or reads, at a time. Short, so that each of them has a turn often enough to be taken for
/// alive.
const STEP: usize = 4 * 1024;

/// Keeps one stream to the background's share of the caps: it waits before it writes, and after it has read.
#[derive(Debug)]
pub(crate) struct Pace {
    traffic: Arc<Traffic>,
    up: Wait,
    down: Wait,
}

#[derive(Debug, Default)]
struct Wait {
    /// Allocated once; `armed` says whether somebody waits for it.
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
    /// Bytes whose turn has come, not yet gone.
    granted: usize,
}

impl Wait {
    fn until(&mut self, turn: Instant, now: Instant) {
        if turn <= now {
            return;
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(turn.into()),
            none => *none = Some(Box::pin(tokio::time::sleep_until(turn.into()))),
        }
        self.armed = true;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = self.sleep.as_mut().filter(|_| self.armed) {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.armed = false;
        }
        Poll::Ready(())
    }
}

impl Pace {
    pub(crate) fn new(traffic: Arc<Traffic>) -> Self {
        Self { traffic, up: Wait::default(), down: Wait::default() }
    }

    /// How many of `bytes` may be written now. [`Pace::wrote`] is told how many were.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<usize> {
        if self.up.granted == 0 {
            let (step, now) = (bytes.min(STEP), Instant::now());
            if !self.up.armed && self.traffic.is_capped(Way::Up) {
                self.up.until(self.traffic.background_turn(Way::Up, now, step), now);
            }
            std::task::ready!(self.up.poll(cx));
            self.up.granted = step;
        }
        Poll::Ready(self.up.granted.min(bytes))
    }

    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.up.granted = self.up.granted.saturating_sub(bytes);
    }

    /// How many bytes may be read now at most. [`Pace::read`] is told how many were.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        std::task::ready!(self.down.poll(cx));
        Poll::Ready(STEP)
    }

    pub(crate) fn read(&mut self, bytes: usize) {
        if bytes > 0 && self.traffic.is_capped(Way::Down) {
            let now = Instant::now();
            self.down.until(self.traffic.background_turn(Way::Down, now, bytes), now);
        }
    }
}
