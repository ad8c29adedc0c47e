//! `fathom status`, `fat`, `path` and `device list`.

use fathom_protocol::ids::NodeId;

use super::Context;
use super::args::FatOptions;
use super::output::Answer;
use super::render;
use super::session::{Alone, execute};
use crate::control::results::FatDigestResult;
use crate::control::{CommandError, ControlRequest, ErrorKind};

pub(super) fn status(context: &Context) -> Result<Answer, CommandError> {
    let result = execute(context, ControlRequest::Status, Alone::No, "asking")?;
    Ok(Answer::of(result, |result| render::status(&result)))
}

pub(super) fn fat(context: &Context, options: FatOptions) -> Result<Answer, CommandError> {
    if let Some(mirror) = &options.mirror {
        mirror.parse::<NodeId>().map_err(|error| {
            CommandError::new(ErrorKind::Usage, format!("`{mirror}` is no node: {error}"))
                .hint("`fathom status` shows the mirrors")
        })?;
    }
    let digest = options.digest;
    let request = ControlRequest::Fat { digest, mirror: options.mirror };
    let result = execute(context, request, Alone::AsAnybody, "asking")?;
    Ok(match digest {
        true => Answer::of(result, |result: FatDigestResult| result.digest),
        false => Answer::of(result, |result| render::fat(&result)),
    })
}

pub(super) fn path(context: &Context, name: Option<String>) -> Result<Answer, CommandError> {
    let alone = if name.is_some() { Alone::AsUser } else { Alone::AsAnybody };
    let result = execute(context, ControlRequest::Path { name }, alone, "measuring")?;
    Ok(Answer::of(result, |result| render::path(&result)))
}

pub(super) fn devices(context: &Context) -> Result<Answer, CommandError> {
    let result = execute(context, ControlRequest::DeviceList, Alone::No, "asking")?;
    Ok(Answer::of(result, |result: crate::control::results::DevicesResult| render::devices(&result.devices)))
}
