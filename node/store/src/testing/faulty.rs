//! A device that does what it is told to do wrong.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fathom_protocol::ids::{DeviceId, Hash};

use crate::device::{Device, DeviceError, DeviceReport, DeviceState, PartEntry, PartValidation};
use crate::part::Part;

/// An operation of a [`Device`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Device::put`].
    Put,
    /// [`Device::get`] and [`Device::verify`].
    Get,
    /// [`Device::remove`].
    Remove,
    /// [`Device::list`].
    List,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The medium answers with EIO.
    Eio,
    /// The medium answers with ENOSPC.
    NoSpace,
    /// The operation takes this much longer.
    Delay(Duration),
    /// A get finds one bit flipped on the way from the medium.
    FlippedBit,
    /// A put validates a part that it did not store.
    LostWrite,
}

/// Wraps a device and fails on demand.
#[derive(Debug)]
pub struct FaultyDevice<D> {
    inner: D,
    plan: Mutex<Plan>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    /// The operation, how many of them pass before the fault, and the fault.
    planned: VecDeque<(Operation, u32, Fault)>,
    always: Vec<(Operation, Fault)>,
    hung: bool,
    unplugged: bool,
    /// Plugged in again or not, it is out of use until it is reopened.
    suspended: bool,
}

impl<D: Device> FaultyDevice<D> {
    /// `inner`, without a fault yet.
    pub fn new(inner: D) -> Self {
        Self { inner, plan: Mutex::default(), released: Condvar::new() }
    }

    /// The device inside.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// The `nth` (from 1) `operation` from now meets `fault`, once.
    pub fn fail_nth(&self, operation: Operation, nth: u32, fault: Fault) {
        self.lock().planned.push_back((operation, nth.max(1), fault));
    }

    /// Every `operation` from now meets `fault`, until [`Self::clear`].
    pub fn fail_always(&self, operation: Operation, fault: Fault) {
        self.lock().always.push((operation, fault));
    }

    /// Every operation blocks until [`Self::release`].
    pub fn hang(&self) {
        self.lock().hung = true;
    }

    /// Lets blocked operations go on.
    pub fn release(&self) {
        self.lock().hung = false;
        self.released.notify_all();
    }

    /// Every operation finds the device gone, until [`Self::clear`] and then [`Device::reopen`].
    pub fn unplug(&self) {
        let mut plan = self.lock();
        (plan.unplugged, plan.suspended) = (true, true);
    }

    /// No more faults; lets blocked operations go on.
    pub fn clear(&self) {
        let mut plan = self.lock();
        *plan = Plan { suspended: plan.suspended, ..Plan::default() };
        drop(plan);
        self.released.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that this `operation` meets; sleeps and hangs are served here.
    fn meet(&self, operation: Operation) -> Result<Option<Fault>, DeviceError> {
        let mut plan = self.lock();
        while plan.hung {
            plan = self.released.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
        if plan.suspended {
            return Err(unplugged());
        }
        let mut met = plan.always.iter().find(|(at, _)| *at == operation).map(|(_, fault)| *fault);
        for planned in &mut plan.planned {
            if planned.0 == operation {
                planned.1 -= 1;
                if planned.1 == 0 {
                    met = Some(planned.2);
                }
            }
        }
        plan.planned.retain(|planned| planned.1 > 0);
        drop(plan);
        match met {
            Some(Fault::Eio) => Err(DeviceError::Io {
                operation: "reach",
                path: PathBuf::from("faulty"),
                source: io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
            }),
            Some(Fault::NoSpace) => Err(DeviceError::NoSpace { needed: 1, free: 0 }),
            Some(Fault::Delay(time)) => {
                thread::sleep(time);
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

impl<D: Device> Device for FaultyDevice<D> {
    fn id(&self) -> DeviceId {
        self.inner.id()
    }

    fn report(&self) -> DeviceReport {
        let mut report = self.inner.report();
        if self.lock().suspended {
            report.state = DeviceState::Suspended;
            report.free = 0;
        }
        report
    }

    fn put(&self, part: &Part) -> Result<PartValidation, DeviceError> {
        if self.meet(Operation::Put)? == Some(Fault::LostWrite) {
            let length = u32::try_from(part.bytes().len()).unwrap_or(u32::MAX);
            return Ok(PartValidation { device: self.id(), part: part.name(), length });
        }
        self.inner.put(part)
    }

    fn get(&self, part: Hash) -> Result<Bytes, DeviceError> {
        let met = self.meet(Operation::Get)?;
        let bytes = self.inner.get(part)?;
        if met != Some(Fault::FlippedBit) {
            return Ok(bytes);
        }
        let mut rotten = bytes.to_vec();
        if let Some(last) = rotten.last_mut() {
            *last ^= 1;
        }
        Err(DeviceError::Corrupt { part, found: Hash::of(&rotten) })
    }

    fn remove(&self, part: Hash) -> Result<(), DeviceError> {
        self.meet(Operation::Remove)?;
        self.inner.remove(part)
    }

    fn list(&self) -> Result<Vec<PartEntry>, DeviceError> {
        self.meet(Operation::List)?;
        self.inner.list()
    }

    fn reopen(&self) -> Result<(), DeviceError> {
        if self.lock().unplugged {
            return Err(unplugged());
        }
        self.inner.reopen()?;
        self.lock().suspended = false;
        Ok(())
    }
}

fn unplugged() -> DeviceError {
    DeviceError::Suspended { reason: "unplugged by a test".to_owned() }
}
