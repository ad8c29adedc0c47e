//! Networks of real processes for tests.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use fathom_testnet::{Net, NodeHandle, Spec};
use serde_json::Value;

use crate::{Scratch, User, binary, list, number, part_files, wait_for};

/// Quota of a device of the shared network and of [`small`] ones, in bytes.
const QUOTA: u64 = 256 << 20;

/// `KEY=VALUE` settings of a node.
#[must_use]
pub fn set(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A network of `mirrors` and `vendors`, each vendor in a zone of its own up to three zones, with
/// one user, quick reports, and without a bootstrap node.
#[must_use]
pub fn small(mirrors: usize, vendors: usize) -> Spec {
    Spec {
        network: "test".to_owned(),
        mirrors,
        vendors,
        users: 1,
        bootstrap: mirrors == 0,
        device_quota: QUOTA,
        vendor_set: set(&[("vendor.report_seconds", "1"), ("vendor.hold_seconds", "1")]),
        mirror_set: set(&[("mirror.poll_seconds", "1")]),
        exit_with_parent: true,
        ready_timeout: Duration::from_secs(120),
        ..Spec::default()
    }
}

/// A network of a test's own. It goes with the test; its files stay when the test fails.
#[derive(Debug)]
pub struct Network {
    net: Net,
    /// Removed after the processes are gone.
    scratch: Scratch,
}

impl Network {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    #[must_use]
    pub fn up(spec: Spec) -> Self {
        let scratch = Scratch::new();
        match Net::up(&binary(), &scratch.join("net"), spec) {
            Ok(net) => Self { net, scratch },
            Err(error) => panic!("the network did not come up: {error}"),
        }
    }

    /// Where the test may put files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The user called `name`.
    #[must_use]
    pub fn user(&self, name: &str) -> User {
        User::of(&self.net, name)
    }

    /// The FAT of the mirror called `name`, as it has it itself.
    #[track_caller]
    #[must_use]
    pub fn fat(&self, mirror: &str) -> Value {
        fat(&self.net, mirror)
    }

    /// All vendors.
    #[must_use]
    pub fn vendors(&self) -> Vec<&NodeHandle> {
        self.net.with_role("vendor").collect()
    }

    /// Waits until all of `mirrors` have the same FAT, and returns its digest. For networks in which
    /// nothing goes on any more.
    #[track_caller]
    pub fn agree(&self, mirrors: &[&str]) -> String {
        wait_for("all mirrors have the same FAT", || {
            let digests: Vec<Value> =
                mirrors.iter().map(|mirror| User::of(&self.net, mirror).ok(&["fat", "--digest"])).collect();
            let same = digests.iter().all(|digest| digest == &digests[0]);
            same.then(|| digests[0]["digest"].to_string()).ok_or(format!("{digests:?}"))
        })
    }

    /// Waits until no vendor uses or locks a byte, no device holds a file, and the mirrors agree.
    #[track_caller]
    pub fn await_empty(&self, mirrors: &[&str]) {
        wait_for("every device is empty and every lease is gone", || {
            for vendor in self.vendors() {
                let status = User::of(&self.net, &vendor.name).ok(&["status"]);
                let files: usize = vendor.devices.iter().map(|device| part_files(device).len()).sum();
                let held = number(&status, "/vendor/used") + number(&status, "/vendor/locked");
                let used: u64 = list(&status, "/vendor/devices").iter().map(|device| number(device, "/used")).sum();
                if held + used > 0 || files > 0 {
                    return Err(format!("{} holds {files} files: {status}", vendor.name));
                }
            }
            for mirror in mirrors {
                let fat = self.fat(mirror);
                let locked: u64 = list(&fat, "/vendors").iter().map(|vendor| number(vendor, "/locked")).sum();
                if locked > 0 || !list(&fat, "/leases").is_empty() {
                    return Err(format!("{mirror} lists leases: {fat}"));
                }
            }
            Ok(())
        });
        self.agree(mirrors);
    }
}

impl Deref for Network {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.net
    }
}

impl DerefMut for Network {
    fn deref_mut(&mut self) -> &mut Net {
        &mut self.net
    }
}

#[track_caller]
fn fat(net: &Net, mirror: &str) -> Value {
    User::of(net, mirror).ok(&["fat"])
}

/// The network that all quiet tests of this test binary share: 3 mirrors, 6 vendors in 3 zones with
/// 3 devices each, no users. Hold the value for as long as the test runs: when the test fails, the
/// network's files are kept.
///
/// It ends with this process: its nodes watch that, and a helper process takes the files away.
#[derive(Debug)]
pub struct Shared(&'static Net);

/// The shared network, started by the first test that asks.
///
/// # Panics
/// When it does not come up.
#[track_caller]
#[must_use]
pub fn shared() -> Shared {
    static NET: OnceLock<Net> = OnceLock::new();
    Shared(NET.get_or_init(|| {
        let mut scratch = Scratch::new();
        let dir = scratch.join("net");
        let spec = Spec { users: 0, bootstrap: true, ..small(3, 6) };
        let net = match Net::up(&binary(), &dir, spec) {
            Ok(net) => net,
            Err(error) => panic!("the shared network did not come up: {error}"),
        };
        // Statics are never dropped.
        clean_up_after_us(scratch.keep().to_owned());
        net
    }))
}

/// Leaves a process behind that ends the network and removes its files when this one is gone.
#[allow(clippy::zombie_processes, reason = "it outlives this process, by which it could only be waited for")]
fn clean_up_after_us(scratch: PathBuf) {
    use std::os::unix::process::CommandExt;
    let script = r#"
        while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
        "$2" testnet down --dir "$3/net"
        [ -e "$3/keep" ] || rm -rf -- "$3"
    "#;
    Command::new("sh")
        .args(["-c", script, "sh", &std::process::id().to_string()])
        .arg(binary())
        .arg(scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh starts");
}

impl Shared {
    /// A new user with a running node.
    #[track_caller]
    #[must_use]
    pub fn user(&self) -> User {
        User::running(self.invite(), &[])
    }

    /// What a node joins by.
    #[must_use]
    pub fn invite(&self) -> &str {
        self.0.invite().expect("the network is up")
    }

    /// The FAT of the mirror called `name`, as it has it itself.
    #[track_caller]
    #[must_use]
    pub fn fat(&self, mirror: &str) -> Value {
        fat(self.0, mirror)
    }

    /// Zone of the vendor with this node id.
    #[track_caller]
    #[must_use]
    pub fn zone(&self, id: &str) -> String {
        let vendor = self.0.nodes().iter().find(|node| node.node == id).expect("a vendor of this network");
        vendor.zone.clone().expect("its zone")
    }
}

impl Deref for Shared {
    type Target = Net;

    fn deref(&self) -> &Net {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(scratch) = self.0.dir().parent()
        {
            eprintln!("kept for a look: {}", scratch.display());
            // If that fails, the files go; the failure of the test is what matters.
            let _ = std::fs::write(scratch.join("keep"), "a test failed\n");
        }
    }
}
