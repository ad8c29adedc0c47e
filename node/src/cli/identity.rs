//! `fathom recover`.

use std::io::{IsTerminal, Read, Write};

use zeroize::Zeroizing;

use super::Context;
use super::output::Answer;
use super::render;
use super::session::{Alone, execute};
use crate::control::{CommandError, ControlRequest, ErrorKind};
use crate::home::Home;
use crate::identity::UserSecret;

/// Most that is read from stdin, in bytes; 24 words have less than 250.
const PHRASE_BYTES_MAX: u64 = 4096;

pub(super) fn recover(context: &Context) -> Result<Answer, CommandError> {
    let home = Home::open(&context.dir)?;
    // Told before somebody types 24 words.
    crate::network::load(&home)?;
    let words = read_words()?;
    let user = UserSecret::from_words(&words)?;
    user.store(&home)?;
    let result = execute(context, ControlRequest::Recover, Alone::AsUser, "recovering").map_err(|error| {
        let hint = "the recovery phrase is stored; run `fathom ls` once the network can be reached";
        if error.kind == ErrorKind::Network { error.hint(hint) } else { error }
    })?;
    Ok(Answer::of(result, |result| render::recover(&result)))
}

/// From a terminal one line; from a file or a program everything.
fn read_words() -> Result<Zeroizing<String>, CommandError> {
    let stdin = std::io::stdin();
    let failed = |error: std::io::Error| {
        CommandError::new(ErrorKind::Usage, format!("failed to read the recovery phrase from stdin: {error}"))
    };
    let mut words = Zeroizing::new(String::with_capacity(PHRASE_BYTES_MAX as usize));
    if stdin.is_terminal() {
        let _ = write!(std::io::stderr(), "Recovery phrase (24 words): ");
        stdin.read_line(&mut words).map_err(failed)?;
    } else {
        stdin.lock().take(PHRASE_BYTES_MAX).read_to_string(&mut words).map_err(failed)?;
    }
    Ok(words)
}
