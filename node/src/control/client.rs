//! The command line's side of the control socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::line::read_line;
use super::socket::ShortPath;
use super::{ANSWER_BYTES_MAX, CommandError, ControlEvent, ControlRequest, ErrorKind, Final, QUIET, REQUEST_BYTES_MAX};
use crate::home::Home;

/// How long a node may give no sign of life; it gives one every 2 s.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long connecting and sending may take.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// A connection to a running node. Dropping it cancels what it asked for.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
}

/// A line of an answer. The final line is told by its only key.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum AnswerLine {
    Event(ControlEvent),
    Final(Final),
}

impl ControlClient {
    /// Connects to the node that runs in `home`; `None` if none does.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`] if the socket is somebody else's; [`ErrorKind::Other`] if the node does not answer.
    pub async fn connect(home: &Home) -> Result<Option<Self>, CommandError> {
        let path = home.control_socket();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => CommandError::new(
                ErrorKind::Permission,
                format!("the node at {} belongs to another account of this machine", home.dir().display()),
            )
            .hint("run the command as the account that runs the node"),
            _ => CommandError::new(ErrorKind::Other, format!("failed to connect to {}: {error}", path.display())),
        };
        let short = ShortPath::of(&path).map_err(failed)?;
        match timeout(SEND_WITHIN, UnixStream::connect(short.path())).await {
            Ok(Ok(stream)) => Ok(Some(Self { stream })),
            // No file, or a file that a killed node left.
            Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(hung()),
        }
    }

    /// Sends `request` and gives each event to `on_event`, until the final line.
    ///
    /// # Errors
    /// What the node answers; [`ErrorKind::Interrupted`] if the node ended meanwhile; [`ErrorKind::Other`] if it is
    /// silent for 30 s or answers nonsense.
    pub async fn call(
        self,
        request: &ControlRequest,
        on_event: impl FnMut(ControlEvent),
    ) -> Result<serde_json::Value, CommandError> {
        self.send(b"", request, on_event).await
    }

    /// As [`Self::call`] without events, which a node that runs many small commands has not to send then.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub async fn call_quietly(self, request: &ControlRequest) -> Result<serde_json::Value, CommandError> {
        self.send(QUIET, request, drop).await
    }

    async fn send(
        mut self,
        prefix: &[u8],
        request: &ControlRequest,
        mut on_event: impl FnMut(ControlEvent),
    ) -> Result<serde_json::Value, CommandError> {
        let mut line = prefix.to_vec();
        serde_json::to_writer(&mut line, request)
            .map_err(|error| CommandError::new(ErrorKind::Usage, format!("failed to write the request: {error}")))?;
        if line.len() > REQUEST_BYTES_MAX {
            return Err(CommandError::new(ErrorKind::Usage, "the request is too long").hint("name fewer files"));
        }
        line.push(b'\n');
        let sent = timeout(SEND_WITHIN, self.stream.write_all(&line)).await.map_err(|_| hung())?;
        sent.map_err(|error| lost(&error))?;
        let mut reader = BufReader::new(&mut self.stream);
        loop {
            line.clear();
            let read = timeout(SILENCE_MAX, read_line(&mut reader, &mut line, ANSWER_BYTES_MAX));
            let more = read.await.map_err(|_| hung())?.map_err(|error| lost(&error))?;
            if !more {
                return Err(lost(&"it closed the connection"));
            }
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(AnswerLine::Event(event)) => on_event(event),
                Ok(AnswerLine::Final(Final::Result(value))) => return Ok(value),
                Ok(AnswerLine::Final(Final::Error(error))) => return Err(error),
                Err(error) => {
                    return Err(CommandError::new(
                        ErrorKind::Other,
                        format!("the node's answer is not understood: {error}"),
                    )
                    .hint("the node and the command line may be of different versions; restart the node"));
                }
            }
        }
    }
}

fn hung() -> CommandError {
    CommandError::new(ErrorKind::Other, "the node that runs here does not answer")
        .hint("it may be stopped or overloaded; see its log, and restart it if need be")
}

fn lost(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::new(ErrorKind::Interrupted, format!("the node ended before it answered ({error})"))
        .hint("start it again with `fathom run` and repeat the command; it goes on where it was")
}
