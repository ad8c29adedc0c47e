//! The command line: `fathom ...`.
//!
//! A command that needs the network speaks to the node that runs in the directory, over its control socket; without
//! one it starts a node for its own duration. What a command prints goes to stdout, what is said along the way to
//! stderr; `--json` puts exactly one object on stdout. This module decides nothing about data.

mod args;
mod batch;
mod fat;
mod files;
mod floor;
mod identity;
mod init;
mod network;
mod output;
pub(crate) mod path;
mod render;
mod run;
mod session;
mod show;
mod testnet;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::control::{CommandError, ErrorKind};
use args::{Cli, Command, DeviceCommand};
use output::Output;

/// What every command knows: where the node is and how to print.
struct Context {
    dir: PathBuf,
    output: Output,
    verbose: u8,
}

/// Runs the command line of this process and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&words) {
        Ok(cli) => ExitCode::from(execute(cli)),
        Err(error) => ExitCode::from(refuse(&error, words.iter().any(|word| word == "--json"))),
    }
}

/// Help and version are printed as they are; a usage error also as JSON if that was asked for.
fn refuse(error: &clap::Error, json: bool) -> u8 {
    if json && error.use_stderr() {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let error = CommandError::new(ErrorKind::Usage, message).hint("see `fathom --help`");
        return Output { json, progress: false, explain: false }.finish(Err(error));
    }
    // A reader that went away is no failure.
    let _ = error.print();
    if error.use_stderr() { ErrorKind::Usage.exit_code() } else { 0 }
}

fn execute(cli: Cli) -> u8 {
    let explain = match &cli.command {
        Command::Put(put) => put.explain,
        Command::Get(get) => get.explain,
        _ => false,
    };
    let output = Output { json: cli.json, progress: cli.progress, explain };
    // A testnet has a directory of its own: neither FATHOM_DIR nor ~/.fathom is meant for it.
    match cli.command {
        Command::Testnet(command) => return testnet::testnet(command, cli.dir, output),
        Command::Demo(options) => return testnet::demo(options, cli.dir, output),
        Command::Bench(options) => return testnet::bench(options, cli.dir, output),
        Command::Floor { next } => return floor::floor(next, output),
        Command::Completions { shell } => return completions(shell),
        _ => {}
    }
    let dir = match node_dir(cli.dir) {
        Ok(dir) => dir,
        Err(error) => return output.finish(Err(error)),
    };
    let context = Context { dir, output, verbose: cli.verbose };
    let outcome = match cli.command {
        Command::Init(options) => init::init(&context, &options),
        Command::Run(options) => run::run(&context, &options),
        Command::Join { network } => network::join(&context, &network),
        Command::Invite(options) => network::invite(&context, &options),
        Command::Put(options) => files::put(&context, options),
        Command::Get(options) => files::get(&context, options),
        Command::Ls { name } => files::ls(&context, name),
        Command::Rm { names } => files::rm(&context, names),
        Command::Repair { names, without } => files::repair(&context, names, without),
        Command::Status => show::status(&context),
        Command::Fat(options) => fat::fat(&context, options),
        Command::Path { name } => show::path(&context, name),
        Command::Device { command: DeviceCommand::List } => show::devices(&context),
        Command::Recover => identity::recover(&context),
        Command::Batch { jobs } => batch::batch(&context, jobs),
        Command::Testnet(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Floor { .. }
        | Command::Completions { .. } => return 0,
    };
    context.output.finish(outcome)
}

/// `--dir`, or the environment's `FATHOM_DIR`, or `~/.fathom`.
fn node_dir(option: Option<PathBuf>) -> Result<PathBuf, CommandError> {
    let from_environment = || std::env::var_os("FATHOM_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    option.or_else(from_environment).or_else(|| std::env::home_dir().map(|home| home.join(".fathom"))).ok_or_else(
        || {
            CommandError::new(ErrorKind::Usage, "there is no home directory on this machine")
                .hint("name the node's directory with --dir")
        },
    )
}

fn completions(shell: clap_complete::Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fathom", &mut script);
    // A reader that went away is no failure.
    let _ = std::io::stdout().write_all(&script);
    0
}

#[cfg(test)]
mod tests;
