//! Erasure coding, on a network of its own: it needs six vendors, and six processes more would be in the way of the other works.

use super::{Bed, BenchError, Cost, Meter, Net, Sample, Work, bulk, text};

/// What is asked for.
const CODE: &str = "4+2";
/// Shards of a stripe, each at a vendor of its own.
const SHARDS: usize = 6;
const NAME: &str = "coded";

impl Bed<'_> {
    pub(super) fn put_coded(&mut self) -> Result<Sample, BenchError> {
        let cost = self.store_coded()?;
        Ok(bulk(cost, self.options.size))
    }

    pub(super) fn get_coded(&mut self) -> Result<Sample, BenchError> {
        if !self.stored.contains(&Work::PutErasure) {
            self.store_coded()?;
        }
        let (target, size) = (self.fetched(NAME), self.options.size);
        let net = self.coded_net()?;
        let meter = meter(net);
        self.cli_on(net, &["get", NAME, "-o", text(&target)?], b"", size, |_| {})?.ok()?;
        let cost = meter.stop();
        self.check(NAME, &self.large()?)?;
        Ok(bulk(cost, size))
    }

    fn store_coded(&mut self) -> Result<Cost, BenchError> {
        if self.coded.is_none() {
            let vendors = self.options.vendors.max(SHARDS);
            self.coded = Some(self.network("net-coded", vendors)?);
        }
        let (source, size) = (self.large()?, self.options.size);
        let net = self.coded_net()?;
        let meter = meter(net);
        self.cli_on(net, &["put", text(&source)?, "--as", NAME, "--erasure", CODE], b"", size, |_| {})?.ok()?;
        let cost = meter.stop();
        self.stored.insert(Work::PutErasure);
        Ok(cost)
    }

    fn coded_net(&self) -> Result<&Net, BenchError> {
        self.coded.as_ref().ok_or_else(|| BenchError::Usage("the network with six vendors was not started".to_owned()))
    }
}

fn meter(net: &Net) -> Meter {
    rustix::fs::sync();
    Meter::start(&super::pids_of(net))
}
