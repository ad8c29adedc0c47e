//! `fathom fat`: the table of all storage, and this node's own databases.

mod args;
mod check;
mod export;
mod lease;
mod select;
mod table;
mod watch;

use std::time::Duration;

use fathom_protocol::ids::{LeaseId, NodeId};

use super::Context;
use super::files;
use super::output::Answer;
use super::session::{Alone, Following, execute, follow};
use crate::control::results::FatDigestResult;
use crate::control::{CommandError, ControlRequest, ErrorKind};
use args::FatCommand;
pub(super) use args::{FatOptions, VERSIONS_MAX};
use watch::Watch;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Every so many looks it reads the table although its digest is the same: ages and latencies are not in it.
const WATCH_FULL: u32 = 10;

pub(super) fn fat(context: &Context, mut options: FatOptions) -> Result<Answer, CommandError> {
    match options.command.take() {
        Some(FatCommand::Check { what }) => return check::check(context, &what),
        Some(FatCommand::Export(export)) => return export::export(context, &export),
        Some(FatCommand::Resolve { name, keep }) => return files::resolve(context, name, keep),
        None => {}
    }
    if let Some(mirror) = &options.mirror {
        mirror.parse::<NodeId>().map_err(|error| {
            CommandError::new(ErrorKind::Usage, format!("`{mirror}` is no node: {error}"))
                .hint("`fathom status` shows the mirrors")
        })?;
    }
    let FatOptions { digest, leases, watch, selection, mirror, lease, .. } = options;
    if let Some(lease) = lease {
        check_prefix(&lease)?;
        let result = execute(
            context,
            ControlRequest::Lease { lease, vendor: selection.one_vendor()?, mirror },
            Alone::AsAnybody,
            "asking",
        )?;
        return Ok(Answer::of(result, |story| lease::render(&story)));
    }
    let request = ControlRequest::Fat { digest, mirror: mirror.clone() };
    if watch {
        let mut watch = Watch::new(selection, context.output.json, leases);
        let changed = ControlRequest::Fat { digest: true, mirror };
        let following = Following { request, changed, full: WATCH_FULL, every: WATCH_EVERY };
        follow(context, &following, Alone::AsAnybody, |outcome| watch.show(outcome))?;
        return Ok(Answer::nothing());
    }
    let mut result = execute(context, request, Alone::AsAnybody, "asking")?;
    if digest {
        return Ok(Answer::of(result, |result: FatDigestResult| result.digest));
    }
    selection.apply(&mut result);
    Ok(Answer::of(result, |result| table::render(&result, terminal_width(), leases)))
}

/// Whether `lease` can be the beginning of an identifier.
fn check_prefix(lease: &str) -> Result<(), CommandError> {
    let digits =
        !lease.is_empty() && lease.len() <= 2 * LeaseId::LEN && lease.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits {
        return Ok(());
    }
    Err(CommandError::new(ErrorKind::Usage, format!("`{lease}` is no lease: it is up to 32 hexadecimal digits"))
        .hint("`fathom fat --leases` shows them"))
}

/// Columns of the terminal; `None` if stdout is none.
fn terminal_width() -> Option<usize> {
    let (_, columns) = console::Term::stdout().size_checked()?;
    Some(usize::from(columns))
}
