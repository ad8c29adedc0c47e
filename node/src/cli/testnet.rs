//! `fathom testnet`, `fathom demo` and `fathom bench`.

use std::path::PathBuf;

use fathom_testnet::commands::{self, NetOptions, UpOptions};
use fathom_testnet::{Cancel, Spec};

use super::args::{BenchOptions, DemoOptions, TestnetCommand, TestnetUpOptions};
use super::output::Output;
use super::session::{Interrupts, runtime};
use crate::control::{CommandError, ErrorKind};

/// `dir` is the network's directory.
pub(super) fn testnet(command: TestnetCommand, dir: Option<PathBuf>, output: Output) -> u8 {
    let json = output.json;
    let net = NetOptions { dir: dir.clone(), json };
    match command {
        TestnetCommand::Up(options) => cancellable(output, |cancel, binary| {
            let spec = spec(&options, cancel);
            Ok(commands::up(&UpOptions { binary, dir, spec, json }))
        }),
        TestnetCommand::Status => commands::status(&net),
        TestnetCommand::Kill(node) => commands::kill(&net, &node.name),
        TestnetCommand::Stop(node) => commands::stop(&net, &node.name),
        TestnetCommand::Cont(node) => commands::cont(&net, &node.name),
        TestnetCommand::Start(node) => commands::start(&net, &node.name),
        TestnetCommand::Down { remove } => commands::down(&net, remove),
    }
}

/// `dir` is where the demonstration makes its directory.
pub(super) fn demo(options: DemoOptions, dir: Option<PathBuf>, output: Output) -> u8 {
    cancellable(output, |cancel, binary| {
        let DemoOptions { path, keep } = options;
        let options = fathom_testnet::demo::DemoOptions { binary, path, dir, keep, json: output.json, cancel };
        fathom_testnet::demo::run(options).map(|()| 0).map_err(|error| {
            let kind = ErrorKind::from_exit_code(error.exit_code());
            CommandError::new(kind, error.to_string())
        })
    })
}

/// `dir` is where the benchmark makes its directory.
pub(super) fn bench(options: BenchOptions, dir: Option<PathBuf>, output: Output) -> u8 {
    cancellable(output, |cancel, binary| {
        let BenchOptions {
            json_file,
            runs,
            work,
            size,
            files,
            operations,
            vendors,
            devices,
            out,
            compare,
            history,
            beside,
            keep,
        } = options;
        let json = output.json;
        let options = fathom_testnet::bench::BenchOptions {
            binary,
            dir,
            work,
            runs,
            size,
            files,
            operations,
            vendors,
            devices,
            json,
            json_file,
            out,
            compare,
            history,
            beside_garage: beside.is_some(),
            keep,
            cancel,
        };
        fathom_testnet::bench::run(&options).map(|()| 0).map_err(|error| {
            let kind = ErrorKind::from_exit_code(error.exit_code());
            CommandError::new(kind, error.to_string())
        })
    })
}

fn spec(options: &TestnetUpOptions, cancel: Cancel) -> Spec {
    Spec {
        mirrors: options.mirrors,
        vendors: options.vendors,
        devices: options.devices,
        zones: options.zones,
        users: options.users,
        device_quota: options.quota,
        cancel,
        ..Spec::default()
    }
}

/// Runs `work` with this program's path and a flag that Ctrl-C or SIGTERM sets, so that it ends what it started.
fn cancellable(output: Output, work: impl FnOnce(Cancel, PathBuf) -> Result<u8, CommandError>) -> u8 {
    let outcome = (|| {
        let binary = std::env::current_exe().map_err(|error| {
            CommandError::new(ErrorKind::Other, format!("failed to find this program's own file: {error}"))
        })?;
        let cancel = Cancel::default();
        let runtime = runtime()?;
        let mut interrupts = runtime.block_on(async { Interrupts::new() })?;
        let flag = cancel.clone();
        runtime.spawn(async move {
            interrupts.next().await;
            flag.cancel();
        });
        let outcome = work(cancel, binary);
        runtime.shutdown_background();
        outcome
    })();
    outcome.unwrap_or_else(|error| output.finish(Err(error)))
}
