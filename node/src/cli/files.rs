//! `fathom put`, `get`, `ls`, `rm`, `repair` and `fat resolve`.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fathom_protocol::limits::NAME_BYTES_MAX;

use super::Context;
use super::args::{GetOptions, PutOptions};
use super::output::Answer;
use super::render;
use super::session::{Alone, execute};
use crate::control::{CommandError, ControlRequest, ErrorKind, Wanted};

pub(super) fn put(context: &Context, options: PutOptions) -> Result<Answer, CommandError> {
    let path = absolute(&options.path)?;
    if !path.exists() {
        return Err(CommandError::new(ErrorKind::NotFound, format!("there is no {}", path.display())));
    }
    let name = match options.name {
        Some(name) => name,
        None => last_part(&path)?,
    };
    check_name(&name)?;
    let wanted = Wanted {
        zones: options.zones,
        media: options.media,
        bandwidth_mb_per_s: options.min_bandwidth,
        latency_ms: options.max_latency,
        via: options.via,
    };
    let request = ControlRequest::Put {
        path,
        name,
        copies: options.copies.map(usize::from),
        erasure: options.erasure.map(|code| code.to_string()),
        wanted,
    };
    let result = execute(context, request, Alone::AsUser, "storing")?;
    Ok(Answer::of(result, render::put))
}

pub(super) fn get(context: &Context, options: GetOptions) -> Result<Answer, CommandError> {
    check_name(&options.name)?;
    if let Some(range) = options.range {
        return get_range(context, options, range);
    }
    let output = match options.output {
        Some(output) => output,
        // A checked name has a last part.
        None => PathBuf::from(options.name.rsplit('/').next().unwrap_or(&options.name)),
    };
    let output = absolute(&output)?;
    let shown = output.clone();
    let request = ControlRequest::Get {
        name: options.name,
        output,
        release: options.release,
        version: options.version.map(usize::from),
    };
    let result = execute(context, request, Alone::AsUser, "fetching")?;
    Ok(Answer::of(result, |result| render::get(&result, &shown)))
}

/// What stands for stdout.
const STDOUT: &str = "-";

/// A range of a file goes to a file, or by way of a temporary one to stdout: a node that runs has another stdout.
fn get_range(
    context: &Context,
    options: GetOptions,
    (first, last): (u64, Option<u64>),
) -> Result<Answer, CommandError> {
    let to_stdout = options.output.as_deref() == Some(Path::new(STDOUT));
    if to_stdout && context.output.json {
        return Err(CommandError::new(ErrorKind::Usage, "--json and -o - would write to stdout both"));
    }
    let temporary = if to_stdout { Some(Temporary::new()?) } else { None };
    let output = match (&temporary, options.output) {
        (Some(temporary), _) => temporary.0.clone(),
        (None, Some(output)) => output,
        (None, None) => PathBuf::from(options.name.rsplit('/').next().unwrap_or(&options.name)),
    };
    let output = absolute(&output)?;
    let version = options.version.map(usize::from);
    let request = ControlRequest::GetRange { name: options.name, output: output.clone(), first, last, version };
    let result = execute(context, request, Alone::AsUser, "fetching")?;
    match temporary {
        None => Ok(Answer::of(result, |result| render::get_range(&result, &output))),
        Some(temporary) => {
            let failed =
                |error: std::io::Error| CommandError::new(ErrorKind::Other, format!("failed to write: {error}"));
            let mut bytes = std::fs::File::open(&temporary.0).map_err(failed)?;
            std::io::copy(&mut bytes, &mut std::io::stdout().lock()).map_err(failed)?;
            Ok(Answer::nothing())
        }
    }
}

/// A file that nobody else may read, until it is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self, CommandError> {
        let failed = |error: std::io::Error| {
            CommandError::new(ErrorKind::Other, format!("failed to make a temporary file: {error}"))
        };
        let path =
            std::env::temp_dir().join(format!("fathom-range-{}-{:016x}", std::process::id(), rand::random::<u64>()));
        // It must be new: what somebody else put there is neither written to nor read.
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(%error, file = %self.0.display(), "a temporary file stays");
        }
    }
}

pub(super) fn ls(context: &Context, prefix: Option<String>) -> Result<Answer, CommandError> {
    prefix.as_deref().map_or(Ok(()), check_name)?;
    let result = execute(context, ControlRequest::Ls { prefix }, Alone::AsUser, "asking")?;
    Ok(Answer::of(result, |result| render::ls(&result)))
}

pub(super) fn rm(context: &Context, names: Vec<String>) -> Result<Answer, CommandError> {
    names.iter().try_for_each(|name| check_name(name))?;
    let result = execute(context, ControlRequest::Rm { names }, Alone::AsUser, "freeing")?;
    Ok(Answer::of(result, |result| render::rm(&result)))
}

pub(super) fn resolve(context: &Context, name: String, keep: Option<u8>) -> Result<Answer, CommandError> {
    check_name(&name)?;
    let request = ControlRequest::Resolve { name, keep: keep.map(usize::from) };
    let result = execute(context, request, Alone::AsUser, "asking")?;
    Ok(Answer::of(result, |result| render::resolve(&result)))
}

pub(super) fn repair(context: &Context, names: Vec<String>, without: Vec<String>) -> Result<Answer, CommandError> {
    names.iter().try_for_each(|name| check_name(name))?;
    let result = execute(context, ControlRequest::Repair { names, without }, Alone::AsUser, "looking")?;
    let failed = result["failed"].as_array().is_some_and(|failed| !failed.is_empty());
    let answer = Answer::of(result, |result| render::repair(&result));
    Ok(match failed {
        false => answer,
        true => {
            answer.failed(CommandError::new(ErrorKind::Other, "not every lost copy was made again").hint(
                "what could be repaired was; run the same command again when more vendors are there (`fathom fat`)",
            ))
        }
    })
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    let usage = |text: String| CommandError::new(ErrorKind::Usage, text);
    let path = std::path::absolute(path).map_err(|error| usage(format!("`{}`: {error}", path.display())))?;
    if path.to_str().is_none() {
        return Err(
            usage(format!("`{}` is not UTF-8, which names on the network are", path.display())).hint("rename the file")
        );
    }
    Ok(path)
}

/// The last part of a path that may end in `.` or `..`.
fn last_part(path: &Path) -> Result<String, CommandError> {
    let resolved = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().map_err(|error| {
            CommandError::new(ErrorKind::NotFound, format!("failed to find {}: {error}", path.display()))
        })?,
    };
    resolved.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| {
        CommandError::new(ErrorKind::Usage, format!("{} has no name to store it under", path.display()))
            .hint("give one with --as NAME")
    })
}

/// A name is a relative path that stays below where it is put: `get` writes to it.
pub(super) fn check_name(name: &str) -> Result<(), CommandError> {
    let stays_below = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if stays_below && name.len() <= NAME_BYTES_MAX && !name.contains('\0') {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(CommandError::new(ErrorKind::Usage, format!("`{shown}` cannot be a name"))
        .hint(format!("a name is like docs/letter.odt: at most {NAME_BYTES_MAX} bytes, no empty part, no . or ..")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names_stay_below_where_they_are_put() {
        for good in ["a", "a/b", "with space/ä.txt", "..a", "a..b/..."] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn the_default_name_is_the_last_part() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("photos");
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(last_part(&dir).unwrap(), "photos");
        assert_eq!(last_part(&dir.join("sub/..")).ok(), None);
        std::fs::create_dir(dir.join("sub")).unwrap();
        assert_eq!(last_part(&dir.join("sub/..")).unwrap(), "photos");
        assert!(last_part(Path::new("/")).is_err());
    }
}
