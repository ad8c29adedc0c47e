//! The table of every configuration key.

use fathom_protocol::erasure::Code;
use fathom_protocol::limits::{ADDRESSES_MAX, CHUNK_BYTES_MAX, COPIES_MAX, LABEL_BYTES_MAX, PARTS_MAX, SHARDS_MAX};

use super::{Config, Role};

/// One key: its name, what it means, and where its value lives.
pub(super) struct Key {
    /// Section, as in `[vendor]`.
    pub(super) section: &'static str,
    /// Name within the section.
    pub(super) name: &'static str,
    /// What a person needs to know to choose a value; lines of the commented file.
    pub(super) meaning: &'static [&'static str],
    /// What values are allowed.
    pub(super) rule: Rule,
    /// Where the value lives.
    pub(super) slot: fn(&mut Config) -> Slot<'_>,
}

/// What values a key allows.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// A whole number from the first to the second, both included.
    Number(u64, u64),
    /// A size in bytes from the first to the second, both included; text like "1 MiB" is read too.
    Size(u64, u64),
    /// At most [`LABEL_BYTES_MAX`] bytes without control characters.
    Label,
    /// At most [`ADDRESSES_MAX`] QUIC multiaddresses.
    Addresses,
    /// One role or more.
    Roles,
    /// How many shards, as in "4+2"; or nothing.
    Code,
    /// Bytes per second, as in "5 Mbit/s"; or nothing.
    Rate,
    /// True or false.
    Flag,
}

/// A borrowed value of a [`Config`].
pub(super) enum Slot<'a> {
    Text(&'a mut String),
    Texts(&'a mut Vec<String>),
    Roles(&'a mut Vec<Role>),
    Code(&'a mut Option<Code>),
    Rate(&'a mut Option<u64>),
    Flag(&'a mut bool),
    U8(&'a mut u8),
    U32(&'a mut u32),
    U64(&'a mut u64),
    Usize(&'a mut usize),
}

/// Sections in the order of the file, each with what it is about.
pub(super) const SECTIONS: [(&str, &str); 5] = [
    ("node", "What concerns every role."),
    ("vendor", "For a node with the role vendor: what it offers."),
    ("lease", "For a node with the role vendor: how long space is kept for a user. Most people leave these."),
    ("mirror", "For a node with the role mirror."),
    ("user", "For a node with the role user: how files are stored."),
];

/// The section of devices, which is a list of tables and not one of [`KEYS`].
pub(super) const DEVICE_SECTION: &str = "vendor.device";
/// Keys of a device.
pub(super) const DEVICE_KEYS: [&str; 3] = ["path", "quota", "reserve"];

/// The section of the schedule of caps, another list of tables.
pub(super) const SCHEDULE_SECTION: &str = "node.schedule";
/// Keys of its entries.
pub(super) const SCHEDULE_KEYS: [&str; 5] = ["days", "from", "to", "upload", "download"];

const DAY: u64 = 86_400;
const TEN_YEARS: u64 = 3_660 * DAY;
/// Smallest part: a whole chunk then just fits into the parts that a vendor may make of it.
const PART_BYTES_MIN: u64 = CHUNK_BYTES_MAX.div_ceil(PARTS_MAX) as u64;

/// Every key, in the order of the file.
pub(super) const KEYS: &[Key] = &[
    Key {
        section: "node",
        name: "roles",
        meaning: &["What this node does: any of \"user\", \"vendor\", \"mirror\", \"bootstrap\"."],
        rule: Rule::Roles,
        slot: |c| Slot::Roles(&mut c.node.roles),
    },
    Key {
        section: "node",
        name: "listen",
        meaning: &[
            "Where to listen. Other nodes need to reach this UDP port, so forward it on your router.",
            "Port 0 lets the system choose one.",
        ],
        rule: Rule::Addresses,
        slot: |c| Slot::Texts(&mut c.node.listen),
    },
    Key {
        section: "node",
        name: "external",
        meaning: &[
            "Addresses under which others reach this node, if they differ from its own, for example",
            "[\"/ip4/203.0.113.7/udp/4600/quic-v1\"] or [\"/dns4/home.example.org/udp/4600/quic-v1\"].",
        ],
        rule: Rule::Addresses,
        slot: |c| Slot::Texts(&mut c.node.external),
    },
    Key {
        section: "node",
        name: "upload",
        meaning: &[
            "How much this node sends at most, such as \"5 Mbit/s\" or \"600 KiB/s\". Empty: as much as there is.",
            "A little less than what the line has keeps it usable for others.",
        ],
        rule: Rule::Rate,
        slot: |c| Slot::Rate(&mut c.node.caps.upload),
    },
    Key {
        section: "node",
        name: "download",
        meaning: &["How much it receives at most."],
        rule: Rule::Rate,
        slot: |c| Slot::Rate(&mut c.node.caps.download),
    },
    Key {
        section: "node",
        name: "background_percent",
        meaning: &[
            "Share of each cap that work in the background (data that moves, repairs) may have at most. It has less",
            "while files are stored and fetched.",
        ],
        rule: Rule::Number(1, 90),
        slot: |c| Slot::U8(&mut c.node.background_percent),
    },
    Key {
        section: "node",
        name: "cap_local",
        meaning: &[
            "Whether the caps are about the local network (private, link-local and loopback addresses) as well.",
        ],
        rule: Rule::Flag,
        slot: |c| Slot::Flag(&mut c.node.cap_local),
    },
    Key {
        section: "node",
        name: "announce_own",
        meaning: &[
            "Whether others are told the addresses of this node's own interfaces, too: 1, or 0 if only the external",
            "ones lead here.",
        ],
        rule: Rule::Number(0, 1),
        slot: |c| Slot::U8(&mut c.node.announce_own),
    },
    Key {
        section: "vendor",
        name: "zone",
        meaning: &[
            "Where this storage stands: a building or a town. Copies of one chunk go to different zones,",
            "so that a fire or a power cut takes one of them only.",
        ],
        rule: Rule::Label,
        slot: |c| Slot::Text(&mut c.vendor.zone),
    },
    Key {
        section: "vendor",
        name: "operator",
        meaning: &["Who runs it. Copies of one chunk go to different operators."],
        rule: Rule::Label,
        slot: |c| Slot::Text(&mut c.vendor.operator),
    },
    Key {
        section: "vendor",
        name: "report_seconds",
        meaning: &["Seconds between two reports of capacity and health to the mirrors."],
        rule: Rule::Number(1, 3_600),
        slot: |c| Slot::U64(&mut c.vendor.report_seconds),
    },
    Key {
        section: "vendor",
        name: "hold_seconds",
        meaning: &["Seconds for which this node keeps its copy of data that it has moved to another vendor."],
        rule: Rule::Number(0, 30 * DAY),
        slot: |c| Slot::U64(&mut c.vendor.hold_seconds),
    },
    Key {
        section: "vendor",
        name: "overload_percent",
        meaning: &["When this share of the capacity is in use, data is moved to other vendors ..."],
        rule: Rule::Number(1, 100),
        slot: |c| Slot::U8(&mut c.vendor.overload_percent),
    },
    Key {
        section: "vendor",
        name: "relief_percent",
        meaning: &["... until no more than this share is. Must be below overload_percent."],
        rule: Rule::Number(0, 99),
        slot: |c| Slot::U8(&mut c.vendor.relief_percent),
    },
    Key {
        section: "vendor",
        name: "bandwidth_mb_per_s",
        meaning: &["Sustained traffic in MB/s above which data is moved to other vendors; 0: no threshold."],
        rule: Rule::Number(0, 1_000_000),
        slot: |c| Slot::U64(&mut c.vendor.bandwidth_mb_per_s),
    },
    Key {
        section: "vendor",
        name: "unsealed_percent",
        meaning: &[
            "Share of the capacity that one user may lock ahead of filling it. Who wants more stores in several rounds.",
        ],
        rule: Rule::Number(1, 100),
        slot: |c| Slot::U8(&mut c.vendor.unsealed_percent),
    },
    Key {
        section: "lease",
        name: "offer_seconds",
        meaning: &["Seconds for which an offer waits to be taken."],
        rule: Rule::Number(1, DAY),
        slot: |c| Slot::U64(&mut c.lease.offer_seconds),
    },
    Key {
        section: "lease",
        name: "lock_seconds",
        meaning: &["Seconds for which space that a user has taken waits for the end of the upload."],
        rule: Rule::Number(1, 366 * DAY),
        slot: |c| Slot::U64(&mut c.lease.lock_seconds),
    },
    Key {
        section: "lease",
        name: "commit_seconds",
        meaning: &["Seconds for which stored data is kept before the user must renew it (nodes do so weekly)."],
        rule: Rule::Number(1, TEN_YEARS),
        slot: |c| Slot::U64(&mut c.lease.commit_seconds),
    },
    Key {
        section: "lease",
        name: "grace_seconds",
        meaning: &["Seconds for which data stays readable and renewable after that time is over."],
        rule: Rule::Number(0, TEN_YEARS),
        slot: |c| Slot::U64(&mut c.lease.grace_seconds),
    },
    Key {
        section: "mirror",
        name: "poll_seconds",
        meaning: &["Seconds between two requests to the other mirrors for what is missing here."],
        rule: Rule::Number(1, 3_600),
        slot: |c| Slot::U64(&mut c.mirror.poll_seconds),
    },
    Key {
        section: "mirror",
        name: "reconcile_seconds",
        meaning: &[
            "Seconds between two comparisons of the whole table with another mirror's; one costs about 100 bytes.",
        ],
        rule: Rule::Number(1, DAY),
        slot: |c| Slot::U64(&mut c.mirror.reconcile_seconds),
    },
    Key {
        section: "user",
        name: "copies",
        meaning: &["Copies of every chunk, each at another vendor. More copies survive more losses."],
        rule: Rule::Number(1, COPIES_MAX as u64),
        slot: |c| Slot::Usize(&mut c.user.copies),
    },
    Key {
        section: "user",
        name: "erasure",
        meaning: &[
            "Erasure coding instead of whole copies, such as \"4+2\": any 4 of 6 vendors give a file back, at 1.5 times its size.",
            "It needs as many vendors with room as there are shards. Empty: whole copies.",
        ],
        rule: Rule::Code,
        slot: |c| Slot::Code(&mut c.user.erasure),
    },
    Key {
        section: "user",
        name: "in_flight",
        meaning: &["Chunks in transfer at a time. Each takes about 4 MiB of memory."],
        rule: Rule::Number(1, 64),
        slot: |c| Slot::Usize(&mut c.user.in_flight),
    },
    Key {
        section: "user",
        name: "part_bytes",
        meaning: &[
            "Vendors split a chunk into parts of at most this size and spread them over their devices; what sealing adds (0.03 %) does not count.",
        ],
        rule: Rule::Size(PART_BYTES_MIN, CHUNK_BYTES_MAX as u64),
        slot: |c| Slot::U32(&mut c.user.part_bytes),
    },
    Key {
        section: "user",
        name: "check_seconds",
        meaning: &["Seconds between two looks for vendors that lost copies; what they lost is copied to others."],
        rule: Rule::Number(1, DAY),
        slot: |c| Slot::U64(&mut c.user.check_seconds),
    },
];

impl Key {
    /// The key with its section, as in `vendor.hold_seconds`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

impl Rule {
    /// What a right value looks like, to follow "must be".
    pub(super) fn expectation(self) -> String {
        match self {
            Self::Number(min, max) => format!("a whole number from {min} to {max}"),
            Self::Size(min, max) => format!(
                "a size from {} to {}, such as \"1 MiB\" or a number of bytes",
                super::format_size(min),
                super::format_size(max)
            ),
            Self::Label => {
                format!("a text of at most {LABEL_BYTES_MAX} bytes without control characters")
            }
            Self::Addresses => {
                format!("a list of at most {ADDRESSES_MAX} QUIC addresses such as \"/ip4/0.0.0.0/udp/4600/quic-v1\"")
            }
            Self::Code => format!(
                "k+m such as \"4+2\", with k from 2 and together at most {SHARDS_MAX}, or empty for whole copies"
            ),
            Self::Rate => super::schedule::expectation(""),
            Self::Flag => "true or false".to_owned(),
            Self::Roles => "a list with one or more of user, vendor, mirror and bootstrap".to_owned(),
        }
    }
}
