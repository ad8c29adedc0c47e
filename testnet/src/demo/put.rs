//! Watching a put: the provisional FAT while it is open, the path, the receipts, and the kill.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use serde_json::Value;

use super::DemoError;
use super::events::{Event, Hop, Location};
use super::tables;
use crate::stage::{Progress, Stage, percent};
use crate::units::{bytes, short};
use crate::{Net, TestnetError};

/// The vendor is killed when this much of the put is acknowledged.
const KILL_AT_PERCENT: u64 = 40;
/// How long a mirror is asked for the locks of a put that has begun.
const LOCKS_SOUGHT: Duration = Duration::from_secs(30);
/// The user who puts.
pub(super) const USER: &str = "user-1";
/// Receipts that are shown one by one.
const RECEIPTS_SHOWN: usize = 2;

/// What was seen of a running put. Nothing here waits: while it did, the events of the put would
/// wait too, and the vendor would be killed when everything is long stored.
pub(crate) struct Watch<'a> {
    net: &'a Net,
    progress: Progress<'a>,
    /// What `fathom path` said before the put.
    path: &'a Value,
    /// The FAT of a mirror that shows locks; it comes while the put runs.
    locks: Receiver<Value>,
    locks_shown: bool,
    /// The zone in which a vendor is killed, and those of its vendors.
    kill_zone: &'a str,
    provisional_shown: bool,
    path_shown: bool,
    receipts: usize,
    /// Node id -> (receipts seen, bytes locked): who takes part in this put.
    part: BTreeMap<String, (u64, u64)>,
    /// The vendor that was killed.
    pub(crate) killed: Option<String>,
    /// Copies that were sent elsewhere, by vendor name and reason.
    pub(crate) replaced: BTreeMap<(String, String), u64>,
    /// The first error of something that was done on the way.
    pub(crate) error: Option<TestnetError>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        net: &'a Net,
        stage: &'a Stage,
        kill_zone: &'a str,
        path: &'a Value,
        locks: Receiver<Value>,
        total: u64,
    ) -> Self {
        Self {
            net,
            progress: stage.progress("stored", total),
            path,
            locks,
            locks_shown: false,
            kill_zone,
            provisional_shown: false,
            path_shown: false,
            receipts: 0,
            part: BTreeMap::new(),
            killed: None,
            replaced: BTreeMap::new(),
            error: None,
        }
    }

    /// Looks at one line of progress.
    pub(crate) fn see(&mut self, line: &Value) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = self.try_see(Event::parse(line)) {
            self.error = Some(error);
        }
        self.locks();
    }

    /// Ends the progress bar.
    pub(crate) fn finish(mut self) -> Result<Outcome, DemoError> {
        self.locks();
        self.progress.finish();
        if let Some(error) = self.error {
            return Err(error.into());
        }
        if !self.provisional_shown && !self.locks_shown {
            let text = "neither the put nor a mirror showed a provisional FAT";
            return Err(DemoError::NotShown(text.to_owned()));
        }
        let killed = self.killed.ok_or_else(|| {
            let text = "the put was over before a vendor could be killed in the middle of it";
            DemoError::NotShown(text.to_owned())
        })?;
        Ok(Outcome { killed, replaced: self.replaced })
    }

    fn try_see(&mut self, event: Event) -> Result<(), TestnetError> {
        match event {
            Event::Provisional { locations } => self.provisional(&locations),
            Event::Path { order } => self.path(&order),
            Event::Progress { bytes, total, .. } => {
                if bytes > 0 {
                    self.path(&[]);
                }
                self.progress.set(bytes, total);
                if self.killed.is_none() && percent(bytes, total) >= KILL_AT_PERCENT {
                    self.kill(bytes)?;
                }
            }
            Event::Receipt { chunk, vendors } => self.receipt(&chunk, vendors),
            Event::Replaced { vendor, reason, .. } => {
                *self.replaced.entry((self.net.name_of(&vendor), reason)).or_default() += 1;
            }
            Event::Unknown => {}
        }
        Ok(())
    }

    fn provisional(&mut self, locations: &[Location]) {
        for location in locations {
            self.part.entry(location.vendor.clone()).or_default().1 += location.bytes;
        }
        if std::mem::replace(&mut self.provisional_shown, true) {
            return;
        }
        let net = self.net;
        self.progress.aside(|stage| {
            let why = "The user asked a mirror for storage. The mirror chose vendors in different \
                       zones, had each of them sign for the space that it locks, and answered with \
                       this provisional FAT. Nobody else can have these bytes until they are \
                       released or the lock expires.";
            stage.step("Figures 5-6", "The provisional FAT", why);
            location_table(stage, net, locations);
        });
    }

    /// Shows the locks in a mirror's own table, once that has been fetched.
    fn locks(&mut self) {
        // They may be there before the put has told what it asked for; that comes first.
        if !self.path_shown {
            return;
        }
        let Ok(fat) = self.locks.try_recv() else {
            return;
        };
        let net = self.net;
        self.locks_shown = true;
        self.progress.aside(|stage| {
            stage.print("  Meanwhile a mirror's table marks these records as locked:");
            let leases = tables::provisional_leases(&fat);
            tables::leases(stage, net, &leases, &tables::zones(&fat));
        });
    }

    fn path(&mut self, order: &[Hop]) {
        if std::mem::replace(&mut self.path_shown, true) {
            return;
        }
        let mut chain = vec![USER.to_owned()];
        chain.extend(order.iter().map(|hop| {
            let rtt = hop.rtt_ms.map(|ms| format!(", {ms:.2} ms")).unwrap_or_default();
            let score = hop.score.map(|score| format!(", score {score:.2}")).unwrap_or_default();
            format!("{} ({}{rtt}{score})", self.net.name_of(&hop.vendor), hop.zone)
        }));
        let (net, path) = (self.net, self.path);
        self.progress.aside(|stage| {
            let why = "The user measured the way to each vendor. Near, idle and reliable ones score \
                       best, and copies go to different zones, so that one fire or one thief does \
                       not get them all.";
            stage.step("Figures 7-8", "The best path", why);
            tables::path(stage, net, path);
            let why = "Every chunk is encrypted, then gets a header with one signed entry per hop. \
                       Each vendor checks its entry, takes itself off the list and sends the chunk \
                       on while it is still receiving it. It splits the chunk over its devices, and \
                       answers with a signed receipt once the bytes are durable.";
            stage.step("Figures 9-13", "Chunks travel from vendor to vendor", why);
            if chain.len() > 1 {
                stage.print(&format!("  {}", chain.join("\n    → ")));
            }
        });
    }

    fn receipt(&mut self, chunk: &str, vendors: Vec<String>) {
        self.receipts += 1;
        if self.receipts <= RECEIPTS_SHOWN {
            let names: Vec<_> = vendors.iter().map(|vendor| self.net.name_of(vendor)).collect();
            let line = format!("  receipt: chunk {} is held by {}", short(chunk), names.join(", "));
            self.progress.aside(|stage| stage.print(&line));
        }
        for vendor in vendors {
            self.part.entry(vendor).or_default().0 += 1;
        }
    }

    /// Kills the vendor of the zone that takes the greatest part in this put.
    fn kill(&mut self, done: u64) -> Result<(), TestnetError> {
        let zone = Some(self.kill_zone);
        let vendors = self.net.with_role("vendor").filter(|node| node.zone.as_deref() == zone);
        let part = |id: &str| self.part.get(id).copied().unwrap_or_default();
        let Some(victim) = vendors.max_by_key(|node| part(&node.node)) else {
            return Err(TestnetError::Usage(format!("there is no vendor in {}", self.kill_zone)));
        };
        self.net.kill(&victim.name)?;
        self.progress.aside(|stage| {
            stage.print(&format!(
                "  ✗ {} in {} is killed (SIGKILL) after {}; the put does not know",
                victim.name,
                self.kill_zone,
                bytes(done)
            ));
        });
        self.killed = Some(victim.name.clone());
        Ok(())
    }
}

/// What a put that was watched to its end showed.
pub(crate) struct Outcome {
    pub(crate) killed: String,
    pub(crate) replaced: BTreeMap<(String, String), u64>,
}

/// Asks `mirror` for its FAT until it shows locks or the put is `over`, and sends that one. Runs
/// beside the put. It is there for the audience only: a mirror that fails to answer here is seen to
/// fail elsewhere.
pub(crate) fn seek_locks(net: &Net, mirror: &str, over: &AtomicBool, locks: &SyncSender<Value>) {
    let found = net.wait_for(LOCKS_SOUGHT, "a mirror shows locks", || {
        if over.load(Ordering::SeqCst) {
            return Ok(Some(None));
        }
        let fat = net.cli(mirror, &["fat"])?.json;
        Ok((!tables::provisional_leases(&fat).is_empty()).then_some(Some(fat)))
    });
    if let Ok(Some(fat)) = found {
        let _ = locks.try_send(fat);
    }
}

fn location_table(stage: &Stage, net: &Net, locations: &[Location]) {
    let row = |location: &Location| {
        vec![
            net.name_of(&location.vendor),
            location.zone.clone(),
            short(&location.lease).to_owned(),
            bytes(location.bytes),
        ]
    };
    let rows: Vec<_> = locations.iter().map(row).collect();
    stage.table(&["vendor", "zone", "lease", "locked"], &rows, &[3]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::{ProcessState, Spec};
    use serde_json::json;
    use std::path::Path;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn the_vendor_of_the_zone_that_takes_part_is_killed_once_at_forty_percent() {
        let dir = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/node.sh");
        let spec = Spec { mirrors: 0, users: 0, ..Spec::default() };
        let net = Net::up(&binary, dir.path(), spec).unwrap();
        let stage = Stage::new(true);
        let (_sender, locks) = sync_channel(1);
        let mut watch = Watch::new(&net, &stage, "zone-2", &Value::Null, locks, 100);
        let progress = |bytes| json!({"event":"progress","bytes":bytes,"total":100});
        watch.see(&json!({"event":"provisional","locations":[{"vendor":"id-vendor-2","bytes":9}]}));
        watch.see(&json!({"event":"receipt","chunk":"c","vendors":["id-vendor-5","id-vendor-3"]}));
        watch.see(&progress(39));
        assert_eq!(watch.killed, None);
        watch.see(&progress(40));
        watch.see(&json!({"event":"replaced","vendor":"id-vendor-5","reason":"silent"}));
        watch.see(&progress(100));
        let outcome = watch.finish().unwrap();
        assert_eq!(outcome.killed, "vendor-5");
        let key = ("vendor-5".to_owned(), "silent".to_owned());
        assert_eq!(outcome.replaced, BTreeMap::from([(key, 1)]));
        let dead = net.status().into_iter().filter(|line| line.state == ProcessState::Dead);
        assert_eq!(dead.map(|line| line.name).collect::<Vec<_>>(), ["vendor-5"]);
    }

    #[test]
    fn a_put_that_was_over_too_soon_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/node.sh");
        let spec = Spec { mirrors: 0, users: 0, vendors: 0, ..Spec::default() };
        let net = Net::up(&binary, dir.path(), spec).unwrap();
        let stage = Stage::new(true);
        let (_sender, locks) = sync_channel(1);
        let mut watch = Watch::new(&net, &stage, "zone-2", &Value::Null, locks, 100);
        watch.see(&json!({"event":"provisional","locations":[]}));
        assert!(matches!(watch.finish(), Err(DemoError::NotShown(_))));
    }
}
