//! The events that `put --json --progress` and `get --json --progress` print while they run.

use serde::Deserialize;
use serde_json::Value;

/// A line of a command's progress.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// How much is done.
    Progress {
        /// Plain bytes acknowledged so far.
        bytes: u64,
        /// Plain bytes in all.
        total: u64,
        /// Chunks done so far.
        #[serde(default)]
        chunks_done: u64,
    },
    /// The mirror's answer to the request for storage.
    Provisional {
        /// The locked storage.
        locations: Vec<Location>,
    },
    /// The order of vendors that was chosen, the best first.
    Path {
        /// The vendors along the way.
        order: Vec<Hop>,
    },
    /// A copy had to be sent elsewhere.
    Replaced {
        /// The chunk's id.
        #[serde(default)]
        chunk: String,
        /// The node id of the vendor that failed.
        vendor: String,
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// Vendors have signed that they hold a chunk (a sample of all).
    Receipt {
        /// The chunk's id.
        chunk: String,
        /// The node ids of the vendors.
        vendors: Vec<String>,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Storage that was locked for the user.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Location {
    pub(crate) vendor: String,
    #[serde(default)]
    pub(crate) zone: String,
    #[serde(default)]
    pub(crate) lease: String,
    #[serde(default)]
    pub(crate) bytes: u64,
}

/// A vendor on the chosen path.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Hop {
    pub(crate) vendor: String,
    #[serde(default)]
    pub(crate) zone: String,
    #[serde(default)]
    pub(crate) rtt_ms: Option<f64>,
    #[serde(default)]
    pub(crate) score: Option<f64>,
}

impl Event {
    /// The event in `line`; one that is not understood is [`Event::Unknown`], since what is told
    /// on the way is not what the demonstration judges by.
    pub(crate) fn parse(line: &Value) -> Self {
        serde_json::from_value(line.clone()).unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_event_is_understood() {
        let line = json!({"event":"progress","bytes":5,"total":9,"chunks_done":1});
        let progress = Event::Progress { bytes: 5, total: 9, chunks_done: 1 };
        assert_eq!(Event::parse(&line), progress);
        let line = json!({"event":"provisional",
            "locations":[{"vendor":"ab","zone":"z","lease":"l","bytes":7}]});
        let location = Location { vendor: "ab".into(), zone: "z".into(), lease: "l".into(), bytes: 7 };
        assert_eq!(Event::parse(&line), Event::Provisional { locations: vec![location] });
        let line = json!({"event":"path",
            "order":[{"vendor":"ab","zone":"z","rtt_ms":0.4,"score":null}]});
        let hop = Hop { vendor: "ab".into(), zone: "z".into(), rtt_ms: Some(0.4), score: None };
        assert_eq!(Event::parse(&line), Event::Path { order: vec![hop] });
        let line = json!({"event":"replaced","chunk":"c","vendor":"ab","reason":"silent"});
        assert!(matches!(Event::parse(&line), Event::Replaced { .. }));
        let line = json!({"event":"receipt","chunk":"c","vendors":["ab","cd"]});
        assert!(matches!(Event::parse(&line), Event::Receipt { vendors, .. } if vendors.len() == 2));
    }

    #[test]
    fn what_is_not_known_is_skipped() {
        assert_eq!(Event::parse(&json!({"event":"weather","wind":3})), Event::Unknown);
        assert_eq!(Event::parse(&json!({"event":"progress"})), Event::Unknown);
        assert_eq!(Event::parse(&json!(7)), Event::Unknown);
    }
}
