//! Syncing directories: gets that end in one directory at the same time share a sync of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use super::store::lock;

/// Directories that are being synced.
#[derive(Default)]
pub(super) struct Dirs {
    syncing: Mutex<BTreeMap<PathBuf, Syncing>>,
    over: Condvar,
}

/// Who waits for one directory. It is forgotten when nobody does.
#[derive(Default)]
struct Syncing {
    /// Who asked so far, and up to whom it is done.
    asked: u64,
    done: u64,
    /// After whom and up to whom the last sync failed that did, and how.
    failed: Option<(u64, u64, io::ErrorKind)>,
    running: bool,
    waiting: u64,
}

impl Dirs {
    /// Returns once all that was done in `dir` before the call is on the disk. Blocks.
    pub(super) fn sync(&self, dir: &Path) -> io::Result<()> {
        self.sync_by(dir, &|| File::open(dir)?.sync_all())
    }

    fn sync_by(&self, dir: &Path, sync: &dyn Fn() -> io::Result<()>) -> io::Result<()> {
        let mut all = lock(&self.syncing);
        let syncing = all.entry(dir.to_owned()).or_default();
        syncing.asked += 1;
        syncing.waiting += 1;
        let mine = syncing.asked;
        let result = loop {
            // It is there as long as somebody waits.
            let Some(syncing) = all.get_mut(dir) else { break Ok(()) };
            if let Some((_, _, kind)) = syncing.failed.filter(|(after, to, _)| (after + 1..=*to).contains(&mine)) {
                break Err(kind.into());
            }
            if syncing.done >= mine {
                break Ok(());
            }
            if syncing.running {
                all = self.over.wait(all).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            syncing.running = true;
            // All who have asked by now had done their work before.
            let to = syncing.asked;
            drop(all);
            let synced = sync();
            all = lock(&self.syncing);
            if let Some(syncing) = all.get_mut(dir) {
                syncing.running = false;
                match synced {
                    Ok(()) => syncing.done = to,
                    Err(error) => {
                        syncing.failed = Some((syncing.done, to, error.kind()));
                        syncing.done = to;
                    }
                }
            }
            self.over.notify_all();
        };
        if let Some(syncing) = all.get_mut(dir) {
            syncing.waiting -= 1;
            if syncing.waiting == 0 {
                all.remove(dir);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn those_who_come_while_a_sync_runs_share_the_next() {
        let (dirs, syncs) = (Dirs::default(), AtomicU32::new(0));
        let dir = Path::new("/somewhere");
        let (begun, begin) = sync_channel(1);
        let (go, gate) = sync_channel::<()>(1);
        let gate = Mutex::new(gate);
        let held = || {
            syncs.fetch_add(1, Ordering::Relaxed);
            begun.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            Ok(())
        };
        let counted = || {
            syncs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| dirs.sync_by(dir, &held));
            begin.recv().unwrap();
            let rest: Vec<_> = (0..5).map(|_| scope.spawn(|| dirs.sync_by(dir, &counted))).collect();
            while lock(&dirs.syncing)[dir].waiting < 6 {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
            assert!(first.join().unwrap().is_ok());
            assert!(rest.into_iter().all(|thread| thread.join().unwrap().is_ok()));
        });
        assert_eq!(syncs.into_inner(), 2);
        assert!(lock(&dirs.syncing).is_empty(), "nothing is kept");
    }

    #[test]
    fn a_sync_that_fails_fails_for_those_who_waited_for_it_and_for_no_other() {
        let dirs = Dirs::default();
        let dir = Path::new("/somewhere");
        assert_eq!(
            dirs.sync_by(dir, &|| Err(io::ErrorKind::StorageFull.into())).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert!(dirs.sync_by(dir, &|| Ok(())).is_ok());
        assert!(dirs.sync(Path::new("/nowhere/at/all")).is_err());
    }
}
