//! Who gets room in the window of a connection first.
//!
//! A connection keeps what the other side has not acknowledged, up to a bound that all its streams share. Behind a slow
//! link bulk fills it at once, and whoever comes then competes with every bulk stream for each packet's worth of room that
//! becomes free: a request waited for up to 7 s (5 Mbit/s, eight streams). So bulk streams stand back while a short message
//! waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What the streams of one connection share.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Short messages that wait for room.
    waiting: AtomicUsize,
    /// Bulk streams that stand back, each once: as many as a connection has streams, at most.
    behind: Mutex<Vec<Waker>>,
}

/// While it is held, bulk stands back.
#[derive(Debug)]
pub(super) struct Precedence(Arc<Window>);

impl Window {
    /// For a short message that found no room.
    pub(super) fn precedence(window: &Arc<Self>) -> Precedence {
        window.waiting.fetch_add(1, Ordering::SeqCst);
        Precedence(Arc::clone(window))
    }

    /// Waits until no short message waits.
    pub(super) fn poll_yield(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(());
        }
        let mut behind = self.behind();
        // Under the lock, which whoever is the last to wait takes afterwards.
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(());
        }
        if !behind.iter().any(|waker| waker.will_wake(cx.waker())) {
            behind.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn behind(&self) -> MutexGuard<'_, Vec<Waker>> {
        // No code that holds it can panic half way through a change.
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            let behind = std::mem::take(&mut *self.0.behind());
            behind.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Told(AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn bulk_stands_back_until_the_last_short_message_has_room() {
        let window = Arc::new(Window::default());
        let told = Arc::new(Told::default());
        let waker = Waker::from(Arc::clone(&told));
        let mut cx = Context::from_waker(&waker);
        assert!(window.poll_yield(&mut cx).is_ready());
        let (one, other) = (Window::precedence(&window), Window::precedence(&window));
        assert!(window.poll_yield(&mut cx).is_pending() && window.poll_yield(&mut cx).is_pending());
        assert_eq!(window.behind().len(), 1);
        drop(one);
        assert!(!told.0.load(Ordering::SeqCst) && window.poll_yield(&mut cx).is_pending());
        drop(other);
        assert!(told.0.load(Ordering::SeqCst) && window.poll_yield(&mut cx).is_ready());
    }
}
