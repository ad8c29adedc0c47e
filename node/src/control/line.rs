//! Lines of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// Longer than allowed.
    #[error("a line of more than {max} bytes")]
    TooLong {
        /// Longest line, in bytes.
        max: usize,
    },
    /// The stream ended within a line, or failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one line into `line`, without its line feed, and never holds more than `max` bytes of it. `line` keeps what
/// was read if the future is dropped, so a call in a `select!` loses nothing; the caller clears it after each line.
/// Returns whether there was a line: not at a clean end of the stream.
///
/// # Errors
/// [`LineError`].
pub(crate) async fn read_line<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
    max: usize,
) -> Result<bool, LineError> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return if line.is_empty() { Ok(false) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(available.len());
        if line.len() + taken > max {
            return Err(LineError::TooLong { max });
        }
        line.extend_from_slice(&available[..taken]);
        reader.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}
