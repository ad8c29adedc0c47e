//! One message on a stream: its length as four bytes, big-endian, then its bytes.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | length `n`, unsigned, big-endian, 1 to the reader's limit |
//! | 4..4+n | the message |
//!
//! The length is checked before anything is allocated for it, and the announced length is never allocated at once:
//! a peer has to send the bytes to make the reader hold them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;
/// Most bytes that are allocated on a peer's word, and most that are copied to join the prefix in one write.
const TRUSTED_BYTES: usize = 64 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ended where a frame would begin.
    #[error("the other side closed the stream")]
    Closed,
    /// The frame has no bytes.
    #[error("a frame without content")]
    Empty,
    /// The frame exceeds the limit.
    #[error("a frame of {length} bytes exceeds {max}")]
    TooLong {
        /// The announced length, in bytes.
        length: u64,
        /// The limit, in bytes.
        max: usize,
    },
    /// The stream ended inside the frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The deadline passed.
    #[error("nothing came within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The stream failed.
    #[error("the stream failed: {message}")]
    Io {
        /// The kind of failure.
        kind: io::ErrorKind,
        /// What it said.
        message: String,
    },
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string() }
    }
}

/// Writes `message` as one frame and flushes it.
///
/// # Errors
/// [`FrameError::Empty`] without bytes, [`FrameError::TooLong`] above 2^32 - 1 bytes, [`FrameError::Io`].
pub async fn write_frame<S>(stream: &mut S, message: &[u8]) -> Result<(), FrameError>
where
    S: AsyncWrite + Unpin + ?Sized,
{
    if message.is_empty() {
        return Err(FrameError::Empty);
    }
    let length = u32::try_from(message.len())
        .map_err(|_| FrameError::TooLong { length: message.len() as u64, max: u32::MAX as usize })?;
    if message.len() <= TRUSTED_BYTES {
        // One write, one packet: a prefix that travels alone costs a wake-up at the other end.
        let mut joined = Vec::with_capacity(PREFIX_BYTES + message.len());
        joined.extend_from_slice(&length.to_be_bytes());
        joined.extend_from_slice(message);
        stream.write_all(&joined).await?;
    } else {
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(message).await?;
    }
    stream.flush().await?;
    Ok(())
}

/// Reads one frame of 1 to `max` bytes.
///
/// # Errors
/// [`FrameError::Closed`] if the stream ends before the first byte, [`FrameError::Truncated`] if it ends later,
/// [`FrameError::Empty`], [`FrameError::TooLong`] (nothing of the body is read), [`FrameError::Io`].
pub async fn read_frame<S>(stream: &mut S, max: usize) -> Result<Vec<u8>, FrameError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let length = read_length(stream, max).await?;
    read_body(stream, length).await
}

/// Reads the length of a frame, 1 to `max` bytes; [`read_body`] then reads the rest. For a reader that wants to know what is
/// coming before it takes it.
///
/// # Errors
/// As [`read_frame`].
pub async fn read_length<S>(stream: &mut S, max: usize) -> Result<usize, FrameError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let announced = read_prefix(stream).await?;
    if announced == 0 {
        return Err(FrameError::Empty);
    }
    let too_long = FrameError::TooLong { length: u64::from(announced), max };
    let length = usize::try_from(announced).map_err(|_| too_long.clone())?;
    if length > max { Err(too_long) } else { Ok(length) }
}

/// Reads the `length` bytes that [`read_length`] announced.
///
/// # Errors
/// [`FrameError::Truncated`], [`FrameError::Io`].
pub async fn read_body<S>(stream: &mut S, length: usize) -> Result<Vec<u8>, FrameError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let mut message = Vec::new();
    while message.len() < length {
        if message.len() == message.capacity() {
            // Doubling: at any time no more is allocated than twice what has arrived, or the trusted first step.
            let step = message.len().max(TRUSTED_BYTES).min(length - message.len());
            message.reserve_exact(step);
        }
        let room = message.capacity().min(length) - message.len();
        if (&mut *stream).take(room as u64).read_buf(&mut message).await? == 0 {
            return Err(FrameError::Truncated);
        }
    }
    Ok(message)
}

/// The announced length.
async fn read_prefix<S>(stream: &mut S) -> Result<u32, FrameError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        match stream.read(&mut prefix[filled..]).await? {
            0 if filled == 0 => return Err(FrameError::Closed),
            0 => return Err(FrameError::Truncated),
            more => filled += more,
        }
    }
    Ok(u32::from_be_bytes(prefix))
}

/// [`write_frame`] that gives up after `deadline`.
///
/// # Errors
/// As [`write_frame`], and [`FrameError::TimedOut`]: the stream is then in the middle of a frame and only good to drop.
pub async fn write_frame_within<S>(stream: &mut S, message: &[u8], deadline: Duration) -> Result<(), FrameError>
where
    S: AsyncWrite + Unpin + ?Sized,
{
    let written = tokio::time::timeout(deadline, write_frame(stream, message)).await;
    written.unwrap_or(Err(FrameError::TimedOut(deadline)))
}

/// [`read_frame`] that gives up after `deadline`.
///
/// # Errors
/// As [`read_frame`], and [`FrameError::TimedOut`]: the stream may then be in the middle of a frame and is only good to drop.
pub async fn read_frame_within<S>(stream: &mut S, max: usize, deadline: Duration) -> Result<Vec<u8>, FrameError>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let read = tokio::time::timeout(deadline, read_frame(stream, max)).await;
    read.unwrap_or(Err(FrameError::TimedOut(deadline)))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
