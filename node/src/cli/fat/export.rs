//! `fathom fat export`: a node's databases as JSON lines.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{ExportOptions, parts};
use crate::cli::Context;
use crate::cli::output::Answer;
use crate::control::{CommandError, ErrorKind};
use crate::home::{Home, MODE_SECRET};
use crate::identity::NodeKey;
use crate::offline::Seen;

pub(super) fn export(context: &Context, options: &ExportOptions) -> Result<Answer, CommandError> {
    let home = Home::open(&context.dir)?;
    // Nobody writes while it is read.
    let _lock = home.lock()?;
    let me = NodeKey::load(&home).ok().map(|key| key.node_id());
    let mut sink = Sink::open(options.output.as_deref())?;
    let mut lines = Lines { written: 0, wrong: 0, failed: None };
    for part in parts(&options.what) {
        if !part.path(&home).exists() {
            continue;
        }
        part.inspect(&home, me, &mut |seen| lines.take(part.name(), seen, &mut sink.writer))?;
        if lines.failed.is_some() {
            break;
        }
    }
    let Lines { written, wrong, failed } = lines;
    match failed.map_or_else(|| sink.finish(), Err) {
        Ok(()) => {}
        // A reader that went away (`| head`) is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(io_error(options.output.as_deref(), &error)),
    }
    let path = options.output.as_ref().map(|path| path.display().to_string());
    let text = path.as_ref().map(|path| format!("Wrote {written} records to {path}.")).unwrap_or_default();
    // On stdout there are the records and nothing else, also with --json.
    let json = path.map(|path| json!({ "records": written, "path": path }));
    let answer = json.map_or_else(Answer::nothing, |json| Answer::new(json, text));
    if wrong == 0 {
        return Ok(answer);
    }
    let error = CommandError::new(ErrorKind::Integrity, format!("{wrong} things are wrong in what was exported"))
        .hint("`fathom fat check` lists them and says what to do");
    Ok(answer.failed(error))
}

fn io_error(path: Option<&Path>, error: &io::Error) -> CommandError {
    let place = path.map_or_else(|| "stdout".to_owned(), |path| path.display().to_string());
    let kind = if fathom_store::storage::is_full(error) { ErrorKind::NoSpace } else { ErrorKind::Other };
    CommandError::new(kind, format!("failed to write {place}: {error}"))
}

struct Lines {
    written: u64,
    wrong: u64,
    failed: Option<io::Error>,
}

impl Lines {
    fn take(&mut self, part: &str, seen: Seen, out: &mut impl Write) {
        match seen {
            Seen::Record(mut record) if self.failed.is_none() => {
                record["part"] = part.into();
                match writeln!(out, "{record}") {
                    Ok(()) => self.written += 1,
                    Err(error) => self.failed = Some(error),
                }
            }
            Seen::Record(_) => {}
            Seen::Wrong { .. } => self.wrong += 1,
        }
    }
}

/// Where the lines go. A file gets its name only when it is whole.
struct Sink {
    writer: BufWriter<Box<dyn Write>>,
    file: Option<(File, PathBuf, PathBuf)>,
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path else {
            return Ok(Self { writer: BufWriter::new(Box::new(io::stdout())), file: None });
        };
        let failed = |error: io::Error| io_error(Some(path), &error);
        let mut name = path.as_os_str().to_owned();
        name.push(".fathom-part");
        let part = PathBuf::from(name);
        // It says who stored how much where: not for everybody on the machine.
        let file =
            File::options().write(true).create(true).truncate(true).mode(MODE_SECRET).open(&part).map_err(failed)?;
        let copy = file.try_clone().map_err(failed)?;
        Ok(Self { writer: BufWriter::new(Box::new(copy)), file: Some((file, part, path.to_owned())) })
    }

    fn finish(mut self) -> io::Result<()> {
        self.writer.flush()?;
        let Some((file, part, path)) = self.file else { return Ok(()) };
        file.sync_all()?;
        std::fs::rename(part, path)
    }
}
