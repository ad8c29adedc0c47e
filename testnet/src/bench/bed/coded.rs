//! Erasure coding.

use super::{Bed, BenchError, Cost, Sample, Work, bulk, text};

/// What is asked for: a shard for each vendor of the network.
const CODE: &str = "4+2";
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
        let net = self.wide()?;
        let meter = super::meter(net);
        self.cli_on(net, &["get", NAME, "-o", text(&target)?], b"", size, |_| {})?.ok()?;
        let cost = meter.stop();
        self.check(NAME, &self.large()?)?;
        Ok(bulk(cost, size))
    }

    fn store_coded(&mut self) -> Result<Cost, BenchError> {
        self.start_wide()?;
        let (source, size) = (self.large()?, self.options.size);
        let net = self.wide()?;
        let meter = super::meter(net);
        self.cli_on(net, &["put", text(&source)?, "--as", NAME, "--erasure", CODE], b"", size, |_| {})?.ok()?;
        let cost = meter.stop();
        self.stored.insert(Work::PutErasure);
        Ok(cost)
    }
}
