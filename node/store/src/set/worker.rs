//! The threads of one device, and the bounded queue before them. Whatever blocks in the device blocks here, and
//! nobody else: callers wait on channels, with deadlines.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::device::{Device, DeviceReport, DeviceState};
use crate::meter::now;

/// Jobs that wait in one lane of one device.
pub(crate) const LANE_JOBS_MAX: usize = 256;
/// How old a cached report may be before a fresh one is asked for.
const REPORT_AGE: Duration = Duration::from_secs(1);

/// Reads and writes queue apart and are served in turn, so that neither starves the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Read = 0,
    Write = 1,
}

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;
const ABANDONED: u8 = 3;

/// What a caller and the worker agree on about one job: exactly one of "answered" and "given up" happens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ticket(Arc<AtomicU8>);

impl Ticket {
    /// The caller waits no longer. False if the answer is on its way already.
    pub(crate) fn abandon(&self) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state != DONE).then_some(ABANDONED)).is_ok()
    }

    /// Keeps the job from starting. False if it has started, or is done.
    pub(crate) fn cancel(&self) -> bool {
        match self.0.compare_exchange(QUEUED, ABANDONED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(state) => state == ABANDONED,
        }
    }

    /// The worker has a result. False if nobody wants it any more.
    pub(crate) fn finish(&self) -> bool {
        self.0.compare_exchange(RUNNING, DONE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn start(&self) -> bool {
        self.0.compare_exchange(QUEUED, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

pub(crate) type Work = Box<dyn FnOnce(&dyn Device) + Send>;

struct Job {
    ticket: Ticket,
    work: Work,
}

/// A device with its threads.
pub(crate) struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    device: Arc<dyn Device>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    taken: Condvar,
    cached: Mutex<Cached>,
}

struct Queue {
    lanes: [VecDeque<Job>; 2],
    next_lane: usize,
    /// When the jobs that run now were started, by thread.
    running: Vec<Option<Instant>>,
    /// Part bytes of writes that are queued or running.
    promised: u64,
    closed: bool,
}

struct Cached {
    report: DeviceReport,
    taken: Instant,
    refreshing: bool,
}

impl Worker {
    pub(crate) fn start(device: Arc<dyn Device>, threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let report = device.report();
        let shared = Arc::new(Shared {
            device,
            queue: Mutex::new(Queue {
                lanes: Default::default(),
                next_lane: 0,
                running: vec![None; threads],
                promised: 0,
                closed: false,
            }),
            arrived: Condvar::new(),
            taken: Condvar::new(),
            cached: Mutex::new(Cached { report, taken: now(), refreshing: false }),
        });
        let worker = Self { shared };
        for thread in 0..threads {
            let shared = Arc::clone(&worker.shared);
            thread::Builder::new().name(format!("device-{thread}")).spawn(move || shared.run(thread))?;
        }
        Ok(worker)
    }

    /// Queues `work`; waits for room until `deadline`. False if there was none.
    pub(crate) fn push(&self, lane: Lane, ticket: Ticket, work: Work, deadline: Instant) -> bool {
        let mut queue = self.shared.lock();
        while queue.lanes[lane as usize].len() >= LANE_JOBS_MAX {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() || queue.closed {
                return false;
            }
            queue = self.shared.taken.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.lanes[lane as usize].push_back(Job { ticket, work });
        drop(queue);
        self.shared.arrived.notify_one();
        true
    }

    /// A job has been running for at least `limit`, or every lane place is taken.
    pub(crate) fn stalled(&self, limit: Duration) -> bool {
        let now = now();
        let queue = self.shared.lock();
        queue.running.iter().flatten().any(|started| now.saturating_duration_since(*started) >= limit)
            || queue.lanes[Lane::Write as usize].len() >= LANE_JOBS_MAX
    }

    /// Takes `bytes` off what the device has free, until the promise is dropped.
    pub(crate) fn promise(&self, bytes: u64) -> Promise {
        self.shared.lock().promised += bytes;
        Promise { shared: Arc::clone(&self.shared), bytes }
    }

    /// The last report that the device gave, less what is promised; asks for a fresh one when it is old, without waiting.
    pub(crate) fn report(&self, stall_limit: Duration) -> DeviceReport {
        let stalled = self.stalled(stall_limit);
        let mut report = {
            let mut cached = self.shared.cached();
            let old = now().saturating_duration_since(cached.taken) > REPORT_AGE;
            let refresh = old && !cached.refreshing;
            cached.refreshing |= refresh;
            let report = cached.report.clone();
            drop(cached);
            if refresh {
                let shared = Arc::clone(&self.shared);
                if !self.push(Lane::Read, Ticket::default(), Box::new(move |_| shared.refresh()), now()) {
                    self.shared.cached().refreshing = false;
                }
            }
            report
        };
        report.free = report.free.saturating_sub(self.shared.lock().promised);
        if stalled && report.state == DeviceState::Healthy {
            report.state = DeviceState::Suspended;
            report.free = 0;
        }
        report
    }

    /// A handle that takes a fresh report, to be called in a job.
    pub(crate) fn refresher(&self) -> impl Fn() + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.refresh()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A hung thread is not waited for: it holds nothing but the device.
        self.shared.lock().closed = true;
        self.shared.arrived.notify_all();
        self.shared.taken.notify_all();
    }
}

/// Bytes taken off a device's free space while a write is under way.
pub(crate) struct Promise {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.promised = queue.promised.saturating_sub(self.bytes);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) {
        let report = self.device.report();
        *self.cached() = Cached { report, taken: now(), refreshing: false };
    }

    fn run(&self, thread: usize) {
        while let Some(job) = self.next(thread) {
            if job.ticket.start() {
                (job.work)(&*self.device);
            }
            self.lock().running[thread] = None;
        }
    }

    fn next(&self, thread: usize) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            let first = queue.next_lane;
            for lane in [first, 1 - first] {
                if let Some(job) = queue.lanes[lane].pop_front() {
                    queue.next_lane = 1 - lane;
                    queue.running[thread] = Some(now());
                    drop(queue);
                    self.taken.notify_all();
                    return Some(job);
                }
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
