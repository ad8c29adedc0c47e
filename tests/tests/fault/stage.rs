//! The vendors that the tests with crafted messages share: each test has one of them for itself.

use std::sync::{Condvar, Mutex, PoisonError};

use fathom_testnet::NodeHandle;
use fathom_tests::{Shared, shared, wait_until};

use crate::crafted::{Client, Slot};
use crate::world::{check, figure, parts_held, temporary};

/// Vendors of the shared network that no test has.
static FREE: Mutex<Option<Vec<String>>> = Mutex::new(None);
static RETURNED: Condvar = Condvar::new();

/// A vendor, and a crafted peer to speak to it.
pub(crate) struct Stage {
    pub(crate) net: Shared,
    pub(crate) vendor: NodeHandle,
    pub(crate) client: Client,
}

/// What a vendor holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    used: u64,
    chunks: u64,
    parts: usize,
}

impl Stage {
    /// Takes a vendor that no other test has, for the test `name`.
    pub(crate) fn set(name: &str) -> Self {
        let net = shared();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let all = || net.with_role("vendor").map(|node| node.name.clone()).collect();
        let vendor = loop {
            match free.get_or_insert_with(all).pop() {
                Some(vendor) => break vendor,
                None => free = RETURNED.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        let vendor = net.node(&vendor).unwrap().clone();
        let client = Client::new(&net, name);
        Self { net, vendor, client }
    }

    /// Locks exactly `bytes` at the vendor.
    #[track_caller]
    pub(crate) fn lock(&self, bytes: u64) -> Slot {
        self.client.lock(&self.net, &self.vendor, bytes)
    }

    /// What the vendor holds now.
    #[track_caller]
    pub(crate) fn held(&self) -> Held {
        let figure = |key| figure(&self.net, &self.vendor.name, key);
        Held { used: figure("used"), chunks: figure("chunks"), parts: parts_held(&self.vendor) }
    }

    /// Nothing came and nothing went since `before`, and nothing is half written.
    #[track_caller]
    pub(crate) fn untouched(&self, before: &Held) {
        assert_eq!(&self.held(), before);
        wait_until("no temporary file is left", || temporary(&self.vendor).is_empty());
    }

    /// What holds after every fault.
    #[track_caller]
    pub(crate) fn check(&self) {
        check(&self.net);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = free.as_mut() {
            free.push(self.vendor.name.clone());
        }
        RETURNED.notify_one();
    }
}
