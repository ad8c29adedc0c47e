//! `fathom fat`: the table of all storage, and this node's own databases.

mod args;
mod check;
mod export;
mod select;
mod table;
mod watch;

use std::time::Duration;

use fathom_protocol::ids::NodeId;

use super::Context;
use super::output::Answer;
use super::session::{Alone, execute, follow};
use crate::control::results::FatDigestResult;
use crate::control::{CommandError, ControlRequest, ErrorKind};
use args::FatCommand;
pub(super) use args::FatOptions;
use watch::Watch;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub(super) fn fat(context: &Context, options: FatOptions) -> Result<Answer, CommandError> {
    match &options.command {
        Some(FatCommand::Check { what }) => return check::check(context, what),
        Some(FatCommand::Export(export)) => return export::export(context, export),
        None => {}
    }
    if let Some(mirror) = &options.mirror {
        mirror.parse::<NodeId>().map_err(|error| {
            CommandError::new(ErrorKind::Usage, format!("`{mirror}` is no node: {error}"))
                .hint("`fathom status` shows the mirrors")
        })?;
    }
    let FatOptions { digest, leases, watch, selection, mirror, .. } = options;
    let request = ControlRequest::Fat { digest, mirror };
    if watch {
        let mut watch = Watch::new(selection, context.output.json, leases);
        follow(context, &request, Alone::AsAnybody, WATCH_EVERY, |outcome| watch.show(outcome))?;
        return Ok(Answer::nothing());
    }
    let mut result = execute(context, request, Alone::AsAnybody, "asking")?;
    if digest {
        return Ok(Answer::of(result, |result: FatDigestResult| result.digest));
    }
    selection.apply(&mut result);
    Ok(Answer::of(result, |result| table::render(&result, terminal_width(), leases)))
}

/// Columns of the terminal; `None` if stdout is none.
fn terminal_width() -> Option<usize> {
    let (_, columns) = console::Term::stdout().size_checked()?;
    Some(usize::from(columns))
}
