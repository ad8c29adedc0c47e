//! A chunk's bytes while they arrive: one task fills, another takes what is there and sends it on.
//!
//! The taker never holds up the filler: it reads at its own pace from what has arrived, and when it falls away nothing
//! is lost here. Memory is the chunk's own length, whatever the speeds.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::lock;

/// Bytes that are worth a wake-up of the next hop.
const BATCH_BYTES: usize = 256 * 1024;
/// Most bytes taken at once.
const TAKE_BYTES_MAX: usize = 1024 * 1024;
/// How long fewer bytes than a batch wait for more.
const BATCH_WAIT: Duration = Duration::from_millis(10);

#[derive(Debug)]
enum Store {
    Filling(Vec<u8>),
    Whole(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Whole,
    Broken,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    bytes: usize,
    end: End,
}

/// A chunk's bytes as far as they are there.
#[derive(Debug)]
pub(super) struct Body {
    store: Mutex<Store>,
    progress: watch::Sender<Progress>,
}

/// What there is to send on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// All was taken.
    End,
    /// The chunk will not become whole.
    Broken,
}

impl Body {
    /// An empty body that will have `length` bytes, at most a chunk's.
    pub(super) fn expecting(length: u32) -> Self {
        let store = Mutex::new(Store::Filling(Vec::with_capacity(length as usize)));
        Self { store, progress: watch::Sender::new(Progress { bytes: 0, end: End::Open }) }
    }

    /// A body that is whole.
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        let progress = watch::Sender::new(Progress { bytes: bytes.len(), end: End::Whole });
        Self { store: Mutex::new(Store::Whole(bytes.into())), progress }
    }

    /// Appends bytes that may be sent on.
    pub(super) fn append(&self, bytes: &[u8]) {
        let mut length = 0;
        if let Store::Filling(filling) = &mut *lock(&self.store) {
            filling.extend_from_slice(bytes);
            length = filling.len();
        }
        self.progress.send_modify(|progress| progress.bytes = length.max(progress.bytes));
    }

    /// Appends the last bytes. Returns all of them.
    pub(super) fn finish(&self, last: &[u8]) -> Bytes {
        let mut store = lock(&self.store);
        let whole = match &mut *store {
            Store::Filling(filling) => {
                filling.extend_from_slice(last);
                Bytes::from(std::mem::take(filling))
            }
            Store::Whole(whole) => whole.clone(),
        };
        *store = Store::Whole(whole.clone());
        drop(store);
        self.progress.send_replace(Progress { bytes: whole.len(), end: End::Whole });
        whole
    }

    /// The rest will not come.
    pub(super) fn fail(&self) {
        self.progress.send_modify(|progress| progress.end = End::Broken);
    }

    /// What follows the first `taken` bytes: a batch, or less when there is no more within a moment. Waits as long as
    /// nothing comes; whoever fills has its own deadline.
    pub(super) async fn next(&self, taken: usize) -> Piece {
        let mut watching = self.progress.subscribe();
        let enough = |progress: &Progress| progress.end != End::Open || progress.bytes >= taken + BATCH_BYTES;
        // The sender lives as long as `self`, so waiting fails never; a timeout only means that less than a batch is there.
        let _ = watching.wait_for(|progress| progress.end != End::Open || progress.bytes > taken).await;
        let _ = tokio::time::timeout(BATCH_WAIT, watching.wait_for(enough)).await;
        let progress = *watching.borrow_and_update();
        match progress.end {
            End::Broken => Piece::Broken,
            End::Whole if progress.bytes <= taken => Piece::End,
            _ => Piece::Bytes(self.slice(taken, progress.bytes.min(taken + TAKE_BYTES_MAX))),
        }
    }

    fn slice(&self, from: usize, to: usize) -> Bytes {
        match &*lock(&self.store) {
            Store::Filling(filling) => Bytes::copy_from_slice(filling.get(from..to).unwrap_or_default()),
            Store::Whole(whole) => whole.slice(from.min(whole.len())..to.min(whole.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_taker_sees_all_bytes_in_batches() {
        let body = Arc::new(Body::expecting(1_000_000));
        let filler = Arc::clone(&body);
        let filling = tokio::spawn(async move {
            let piece = vec![7; 10_000];
            for _ in 0..99 {
                filler.append(&piece);
                tokio::task::yield_now().await;
            }
            filler.finish(&piece)
        });
        let (mut taken, mut pieces) = (0, 0);
        loop {
            match body.next(taken).await {
                Piece::Bytes(bytes) => {
                    assert!(!bytes.is_empty());
                    taken += bytes.len();
                    pieces += 1;
                }
                Piece::End => break,
                Piece::Broken => panic!("broken"),
            }
        }
        assert_eq!((taken, filling.await.unwrap().len()), (1_000_000, 1_000_000));
        assert!(pieces <= 20, "{pieces} pieces");
    }

    #[tokio::test]
    async fn a_taker_learns_of_a_break() {
        let body = Body::expecting(100);
        body.append(&[1; 50]);
        assert_eq!(body.next(0).await, Piece::Bytes(Bytes::from(vec![1; 50])));
        body.fail();
        assert_eq!(body.next(50).await, Piece::Broken);
    }
}
