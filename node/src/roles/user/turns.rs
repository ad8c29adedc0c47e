//! Whose turn it is to write a file, among the commands and the repair of one node.
//!
//! Commands take no notice of each other: a person who runs two on one file is told of the two versions. A repair, which nobody
//! asked for, must not make a version of its own beside a command's: it gives way, and is waited for only while it hands in.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use fathom_protocol::ids::FileId;

use super::store::lock;

/// How often a command looks whether a repair has handed in.
const LOOK: Duration = Duration::from_millis(20);

/// Who writes a file now.
enum Writer {
    /// So many commands.
    Commands(usize),
    /// A repair that hands in.
    Repair,
}

/// The files that are written now.
#[derive(Default)]
pub(super) struct Turns(Mutex<BTreeMap<FileId, Writer>>);

/// A turn, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    files: Vec<FileId>,
}

impl Turns {
    /// A command's turn at `files`, as soon as no repair hands in for one of them.
    pub(super) async fn of_command(&self, files: impl IntoIterator<Item = FileId>) -> Turn<'_> {
        let files: Vec<FileId> = files.into_iter().collect();
        while !self.begin(&files) {
            tokio::time::sleep(LOOK).await;
        }
        Turn { turns: self, files }
    }

    fn begin(&self, files: &[FileId]) -> bool {
        let mut writers = lock(&self.0);
        let free = !files.iter().any(|file| matches!(writers.get(file), Some(Writer::Repair)));
        for file in files.iter().filter(|_| free) {
            match writers.entry(*file).or_insert(Writer::Commands(0)) {
                Writer::Commands(running) => *running += 1,
                Writer::Repair => {}
            }
        }
        free
    }

    /// A repair's turn at `file`; none while a command writes it.
    pub(super) fn of_repair(&self, file: FileId) -> Option<Turn<'_>> {
        let mut writers = lock(&self.0);
        if writers.contains_key(&file) {
            return None;
        }
        writers.insert(file, Writer::Repair);
        Some(Turn { turns: self, files: vec![file] })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut writers = lock(&self.turns.0);
        for file in &self.files {
            match writers.get_mut(file) {
                Some(Writer::Commands(running)) if *running > 1 => *running -= 1,
                _ => drop(writers.remove(file)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_repair_gives_way_to_commands_and_commands_wait_for_it() {
        let (turns, a, b) = (Turns::default(), FileId([1; 16]), FileId([2; 16]));
        let (first, second) = (turns.of_command([a]).await, turns.of_command([a, b]).await);
        assert!(turns.of_repair(a).is_none());
        drop(first);
        assert!(turns.of_repair(a).is_none(), "one is left");
        drop(second);
        let repair = turns.of_repair(a);
        assert!(repair.is_some());
        let waiting = turns.of_command([b, a]);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(turns.of_repair(b).is_some(), "it holds nothing while it waits");
        drop(repair);
        waiting.await;
        assert!(turns.of_repair(a).is_some());
    }
}
