//! `fathom status`, `path` and `device list`.

use super::Context;
use super::output::Answer;
use super::render;
use super::session::{Alone, execute};
use crate::control::{CommandError, ControlRequest};

pub(super) fn status(context: &Context) -> Result<Answer, CommandError> {
    let result = execute(context, ControlRequest::Status, Alone::No, "asking")?;
    Ok(Answer::of(result, |result| render::status(&result)))
}

pub(super) fn path(context: &Context, name: Option<String>) -> Result<Answer, CommandError> {
    let alone = if name.is_some() { Alone::AsUser } else { Alone::AsAnybody };
    let result = execute(context, ControlRequest::Path { name }, alone, "measuring")?;
    Ok(Answer::of(result, |result| super::path::path(&result)))
}

pub(super) fn devices(context: &Context) -> Result<Answer, CommandError> {
    let result = execute(context, ControlRequest::DeviceList, Alone::No, "asking")?;
    Ok(Answer::of(result, |result: crate::control::results::DevicesResult| render::devices(&result.devices)))
}
