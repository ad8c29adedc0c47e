//! What processes cost: CPU time and memory, from `/proc`.

use std::fs;
use std::time::Duration;

use crate::Stopwatch;

const MIB: f64 = 1024.0 * 1024.0;

/// Measures a set of processes over one piece of work.
#[derive(Debug)]
pub(super) struct Meter {
    /// Process ids, each with the CPU ticks that it had used.
    processes: Vec<(u32, u64)>,
    /// Ticks of the children that this process has collected: the commands that ran and ended.
    collected: u64,
    watch: Stopwatch,
}

/// What a piece of work cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    pub(super) time: Duration,
    /// Seconds of CPU over all processes and the commands that ran meanwhile, in user and system mode.
    pub(super) cpu_s: f64,
    /// Most resident memory of the process that had most.
    pub(super) rss_peak_mib: f64,
}

impl Meter {
    /// Starts now. The kernel's note of each process's peak is set back, where it lets us.
    pub(super) fn start(processes: &[u32]) -> Self {
        let processes = processes.iter().map(|pid| {
            // "5" sets VmHWM back (proc(5)). A kernel without it shows the peak since the process began, which is no less.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
            (*pid, ticks(&stat(*pid)).unwrap_or(0))
        });
        let processes = processes.collect();
        Self { processes, collected: collected(), watch: Stopwatch::start() }
    }

    /// What it came to. Processes that have ended count with nothing, so measure before they do.
    pub(super) fn stop(self) -> Cost {
        let time = self.watch.elapsed();
        let used = |(pid, before): &(u32, u64)| ticks(&stat(*pid)).map_or(0, |now| now.saturating_sub(*before));
        let ticks = self.processes.iter().map(used).sum::<u64>() + collected().saturating_sub(self.collected);
        let peak = self.processes.iter().filter_map(|(pid, _)| memory(*pid, "VmHWM")).fold(0.0, f64::max);
        Cost { time, cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64, rss_peak_mib: peak }
    }
}

/// Resident memory of a process now, MiB; `None` once it has ended.
pub(super) fn rss_mib(pid: u32) -> Option<f64> {
    memory(pid, "VmRSS")
}

fn memory(pid: u32, key: &str) -> Option<f64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, key).map(|kib| kib * 1024.0 / MIB)
}

/// The value of a line like `VmHWM:     1234 kB`.
fn kib(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn stat(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
}

/// utime and stime, fields 14 and 15 of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    fields(stat, 14)
}

/// cutime and cstime, fields 16 and 17, of this process.
fn collected() -> u64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|stat| fields(&stat, 16)).unwrap_or(0)
}

/// The sum of field `first` and the one after it. The name in field 2 may hold anything, so counting starts after it.
fn fields(stat: &str, first: usize) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(first - 3);
    let one: u64 = fields.next()?.parse().ok()?;
    let other: u64 = fields.next()?.parse().ok()?;
    Some(one + other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let line = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 1400 15 160 17 18";
        assert_eq!((fields(line, 14), fields(line, 16)), (Some(1415), Some(177)));
        assert_eq!(fields("", 14), None);
        assert_eq!(kib("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 10 kB\n", "VmHWM"), Some(2048.0));
        assert_eq!(kib("Name:\tx\n", "VmHWM"), None);
    }

    #[test]
    fn work_of_this_process_is_seen() {
        let me = std::process::id();
        let meter = Meter::start(&[me]);
        let watch = Stopwatch::start();
        let mut memory = vec![1_u8; 32 << 20];
        // Until the kernel has charged a few ticks of it.
        while watch.elapsed() < Duration::from_millis(200) {
            memory.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        let cost = meter.stop();
        assert!(cost.time >= Duration::from_millis(200));
        assert!(cost.cpu_s > 0.0, "{cost:?}");
        assert!(cost.rss_peak_mib > 32.0 && rss_mib(me).unwrap() > 32.0, "{cost:?} {}", memory[0]);
        assert_eq!(rss_mib(u32::MAX), None);
    }
}
