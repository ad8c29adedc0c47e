//! What can be measured, and the names by which it is known.

use super::BenchError;

/// One thing that is measured. The order is that in which it is done within a run: each floor stands beside what it is the floor of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    Idle,
    FloorChain,
    PutLarge,
    FloorSingle,
    GetLarge,
    FloorDisk,
    PutSmall,
    GetSmall,
    PutTree,
    GetTree,
    LatencyPut,
    LatencyGet,
    Resume,
    PutErasure,
    GetErasure,
    PutStopped,
    GetStopped,
    Remove,
}

impl Work {
    pub(super) const ALL: [Self; 18] = [
        Self::Idle,
        Self::FloorChain,
        Self::PutLarge,
        Self::FloorSingle,
        Self::GetLarge,
        Self::FloorDisk,
        Self::PutSmall,
        Self::GetSmall,
        Self::PutTree,
        Self::GetTree,
        Self::LatencyPut,
        Self::LatencyGet,
        Self::Resume,
        Self::PutErasure,
        Self::GetErasure,
        Self::PutStopped,
        Self::GetStopped,
        Self::Remove,
    ];

    /// Its name in options, JSON and tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::FloorChain => "floor_chain",
            Self::PutLarge => "put_large",
            Self::FloorSingle => "floor_single",
            Self::GetLarge => "get_large",
            Self::FloorDisk => "floor_disk",
            Self::PutSmall => "put_small",
            Self::GetSmall => "get_small",
            Self::PutTree => "put_tree",
            Self::GetTree => "get_tree",
            Self::LatencyPut => "latency_put",
            Self::LatencyGet => "latency_get",
            Self::Resume => "resume",
            Self::PutErasure => "put_erasure",
            Self::GetErasure => "get_erasure",
            Self::PutStopped => "put_stopped",
            Self::GetStopped => "get_stopped",
            Self::Remove => "remove",
        }
    }

    /// Whether it needs the network of nodes on which whole copies are stored.
    pub(super) fn needs_nodes(self) -> bool {
        let floor = matches!(self, Self::FloorChain | Self::FloorSingle | Self::FloorDisk);
        // The last works have a network of their own.
        !floor && self < Self::PutErasure
    }

    /// The works of these names in the order in which they are done, each once; all of them if none is named.
    ///
    /// # Errors
    /// [`BenchError::Usage`] naming what there is.
    pub(super) fn select(names: &[String]) -> Result<Vec<Self>, BenchError> {
        if names.is_empty() {
            return Ok(Self::ALL.to_vec());
        }
        let mut selected = Vec::new();
        for name in names {
            let known = Self::ALL.into_iter().find(|work| work.name() == name);
            let all = || Self::ALL.map(Self::name).join(", ");
            selected
                .push(known.ok_or_else(|| BenchError::Usage(format!("there is no work {name}; there are {}", all())))?);
        }
        selected.sort_unstable();
        selected.dedup();
        Ok(selected)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn select(names: &[&str]) -> Result<Vec<Work>, BenchError> {
        Work::select(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn works_are_done_once_and_in_their_order() {
        assert_eq!(select(&["get_large", "floor_chain", "get_large"]).unwrap(), [Work::FloorChain, Work::GetLarge]);
        let all = select(&[]).unwrap();
        assert!(all.is_sorted() && all.len() == Work::ALL.len());
    }

    #[test]
    fn a_work_that_there_is_not_is_answered_with_those_that_there_are() {
        assert!(select(&["put"]).unwrap_err().to_string().contains("floor_disk"));
    }
}
