//! Which nodes a network has, and the command line that makes each of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::link::LinkSpec;
use crate::{Cancel, TestnetError};

/// A network to be made by [`crate::Net::up`].
#[derive(Clone, Debug)]
pub struct Spec {
    /// The network's name, given to the node that founds it.
    pub network: String,
    /// Number of mirrors, `mirror-1` to `mirror-N`.
    pub mirrors: usize,
    /// Number of vendors, `vendor-1` to `vendor-N`.
    pub vendors: usize,
    /// Directory devices per vendor, `disk-1` to `disk-N`.
    pub devices: usize,
    /// Number of zones; vendor `i` is in zone `(i - 1) % zones + 1`, called `zone-K`.
    pub zones: usize,
    /// Number of users, `user-1` to `user-N`.
    pub users: usize,
    /// Whether a node `bootstrap` founds the network; without it, `mirror-1` does.
    pub bootstrap: bool,
    /// Quota of each device in bytes.
    pub device_quota: u64,
    /// Space in bytes that each device leaves free on its disk; `None` is the node's default.
    pub device_reserve: Option<u64>,
    /// `--set KEY=VALUE` of every vendor.
    pub vendor_set: Vec<(String, String)>,
    /// `--set KEY=VALUE` of every mirror.
    pub mirror_set: Vec<(String, String)>,
    /// `--set KEY=VALUE` of every user.
    pub user_set: Vec<(String, String)>,
    /// What differs for single vendors, by their number (from 1).
    pub overrides: BTreeMap<usize, VendorOverride>,
    /// Links of nodes by their names, each towards the node (`forth`) and from it (`back`). If there are any, all nodes reach each other
    /// over links only, and those that are not named have one that neither delays nor loses anything.
    pub links: BTreeMap<String, LinkSpec>,
    /// Tell the nodes to end when this process ends (`FATHOM_PARENT_PID`).
    pub exit_with_parent: bool,
    /// How long [`crate::Net::up`] waits for all nodes to be ready, and again for the mirrors to
    /// list every vendor.
    pub ready_timeout: Duration,
    /// Ends all waits of the network when it is set.
    pub cancel: Cancel,
}

impl Default for Spec {
    /// A bootstrap node, 3 mirrors, 6 vendors in 3 zones with 3 devices of 1 GiB each, 1 user.
    fn default() -> Self {
        Self {
            network: "testnet".to_owned(),
            mirrors: 3,
            vendors: 6,
            devices: 3,
            zones: 3,
            users: 1,
            bootstrap: true,
            device_quota: 1 << 30,
            device_reserve: Some(0),
            vendor_set: Vec::new(),
            mirror_set: Vec::new(),
            user_set: Vec::new(),
            overrides: BTreeMap::new(),
            links: BTreeMap::new(),
            exit_with_parent: false,
            ready_timeout: Duration::from_secs(60),
            cancel: Cancel::default(),
        }
    }
}

/// What differs for one vendor of a [`Spec`].
#[derive(Clone, Debug, Default)]
pub struct VendorOverride {
    /// Another zone.
    pub zone: Option<String>,
    /// Another operator.
    pub operator: Option<String>,
    /// Another number of devices.
    pub devices: Option<usize>,
    /// Another quota per device, in bytes.
    pub device_quota: Option<u64>,
    /// Further `--set KEY=VALUE`, after those of all vendors.
    pub set: Vec<(String, String)>,
}

/// One vendor, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorSpec {
    /// The zone it says it is in.
    pub zone: String,
    /// Who runs it.
    pub operator: String,
    /// Number of directory devices.
    pub devices: usize,
    /// Quota of each device in bytes.
    pub device_quota: u64,
    /// Space in bytes that each device leaves free on its disk; `None` is the node's default.
    pub device_reserve: Option<u64>,
    /// `--set KEY=VALUE`.
    pub set: Vec<(String, String)>,
}

impl Spec {
    /// The vendor with `number` (from 1), overrides applied. Each vendor has an operator of its
    /// own, so that copies can be spread.
    #[must_use]
    pub fn vendor(&self, number: usize) -> VendorSpec {
        let other = self.overrides.get(&number).cloned().unwrap_or_default();
        let zone = number.saturating_sub(1) % self.zones.max(1) + 1;
        let mut set = self.vendor_set.clone();
        set.extend(other.set);
        VendorSpec {
            zone: other.zone.unwrap_or_else(|| format!("zone-{zone}")),
            operator: other.operator.unwrap_or_else(|| format!("operator-{number}")),
            devices: other.devices.unwrap_or(self.devices),
            device_quota: other.device_quota.unwrap_or(self.device_quota),
            device_reserve: self.device_reserve,
            set,
        }
    }

    /// # Errors
    /// [`TestnetError::Usage`] when no network can be made from it.
    pub(crate) fn check(&self) -> Result<(), TestnetError> {
        let usage = |text: &str| Err(TestnetError::Usage(text.to_owned()));
        if !self.bootstrap && self.mirrors == 0 {
            return usage("a network needs a bootstrap node or at least one mirror to join through");
        }
        if self.vendors > 0 && self.zones == 0 {
            return usage("vendors need at least one zone");
        }
        if let Some(number) = self.overrides.keys().find(|n| **n == 0 || **n > self.vendors) {
            return Err(TestnetError::Usage(format!("there is no vendor-{number} to override")));
        }
        Ok(())
    }
}

/// How a new node comes into a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It founds one of this name.
    Found(String),
    /// It joins through this invite.
    Join(String),
}

/// A node to be made: everything that `fathom init` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) entry: Entry,
    pub(crate) vendor: Option<VendorSpec>,
    pub(crate) set: Vec<(String, String)>,
    /// A user that gets its keys by `recover` instead of new ones.
    pub(crate) no_phrase: bool,
}

impl NodePlan {
    pub(crate) fn new(name: &str, role: &'static str, entry: Entry) -> Self {
        Self { name: name.to_owned(), role, entry, vendor: None, set: Vec::new(), no_phrase: false }
    }

    /// The vendor's device directories below the node's directory `dir`.
    pub(crate) fn devices(&self, dir: &Path) -> Vec<PathBuf> {
        let count = self.vendor.as_ref().map_or(0, |vendor| vendor.devices);
        (1..=count).map(|n| dir.join("devices").join(format!("disk-{n}"))).collect()
    }

    /// The arguments of `fathom` that make this node in `dir`, listening on UDP `port`.
    pub(crate) fn init_args(&self, dir: &Path, port: u16) -> Vec<OsString> {
        let mut args = Arguments(Vec::new());
        args.word("init").pair("--role", self.role);
        match &self.entry {
            Entry::Found(name) => args.pair("--new-network", name),
            Entry::Join(invite) => args.pair("--network", invite),
        };
        args.pair("--listen", &format!("/ip4/127.0.0.1/udp/{port}/quic-v1"));
        if let Some(vendor) = &self.vendor {
            args.pair("--zone", &vendor.zone).pair("--operator", &vendor.operator);
            for device in self.devices(dir) {
                let mut value = device.into_os_string();
                value.push(format!(":{}", vendor.device_quota));
                if let Some(reserve) = vendor.device_reserve {
                    value.push(format!(":{reserve}"));
                }
                args.word("--device").word(value);
            }
        }
        if self.no_phrase {
            args.word("--no-phrase");
        }
        let vendor_set = self.vendor.iter().flat_map(|vendor| &vendor.set);
        for (key, value) in vendor_set.chain(&self.set) {
            args.pair("--set", &format!("{key}={value}"));
        }
        args.0
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn word(&mut self, word: impl Into<OsString>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn pair(&mut self, option: &str, value: &str) -> &mut Self {
        self.word(option).word(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(plan: &NodePlan) -> String {
        let args = plan.init_args(Path::new("/n/vendor-6"), 20_001);
        args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn golden_vendor() {
        let mut spec = Spec { vendor_set: vec![pair("vendor.hold_seconds", "1")], ..Spec::default() };
        let other = VendorOverride {
            devices: Some(2),
            device_quota: Some(1000),
            set: vec![pair("vendor.overload_percent", "15")],
            ..VendorOverride::default()
        };
        spec.overrides.insert(6, other);
        let mut plan = NodePlan::new("vendor-6", "vendor", Entry::Join("fathom:abc".to_owned()));
        plan.vendor = Some(spec.vendor(6));
        assert_eq!(
            line(&plan),
            "init --role vendor --network fathom:abc --listen /ip4/127.0.0.1/udp/20001/quic-v1 \
             --zone zone-3 --operator operator-6 --device /n/vendor-6/devices/disk-1:1000:0 \
             --device /n/vendor-6/devices/disk-2:1000:0 --set vendor.hold_seconds=1 \
             --set vendor.overload_percent=15"
        );
    }

    #[test]
    fn golden_founder_and_recovering_user() {
        let founder = NodePlan::new("bootstrap", "bootstrap", Entry::Found("testnet".to_owned()));
        assert_eq!(
            line(&founder),
            "init --role bootstrap --new-network testnet --listen /ip4/127.0.0.1/udp/20001/quic-v1"
        );
        let mut user = NodePlan::new("user-2", "user", Entry::Join("fathom:abc".to_owned()));
        user.no_phrase = true;
        user.set.push(pair("user.copies", "2"));
        assert_eq!(
            line(&user),
            "init --role user --network fathom:abc --listen /ip4/127.0.0.1/udp/20001/quic-v1 \
             --no-phrase --set user.copies=2"
        );
    }

    #[test]
    fn six_vendors_fall_into_three_zones() {
        let spec = Spec::default();
        let zones: Vec<_> = (1..=6).map(|n| spec.vendor(n).zone).collect();
        assert_eq!(zones, ["zone-1", "zone-2", "zone-3", "zone-1", "zone-2", "zone-3"]);
    }

    #[test]
    fn networks_that_cannot_be_are_refused() {
        let none = Spec { bootstrap: false, mirrors: 0, ..Spec::default() };
        assert!(none.check().is_err());
        let no_zone = Spec { zones: 0, ..Spec::default() };
        assert!(no_zone.check().is_err());
        let mut stray = Spec::default();
        stray.overrides.insert(7, VendorOverride::default());
        assert!(stray.check().is_err());
        assert!(Spec::default().check().is_ok());
    }
}
