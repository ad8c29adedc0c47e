//! The node's side of the control socket.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::line::{LineError, read_line};
use super::socket::ShortPath;
use super::{
    ANSWER_BYTES_MAX, CommandError, Commands, ControlEvent, ControlRequest, ErrorKind, EventSink, Final, QUIET,
    REQUEST_BYTES_MAX,
};
use crate::home::{Home, remove_if_there};

/// Commands that one node runs for the control socket at a time; more wait for their turn to connect.
const CLIENTS_MAX: usize = 64;
/// How long a client may take to send its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is sent to it.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// After this long without an event, an empty line is sent as a sign of life.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long the server waits for its clients' tasks when it ends.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Pause after a failed accept, for example because the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to open the control socket {}: {source}", path.display())]
pub struct ControlError {
    /// Where it should be.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// A control socket that is being served. Dropping it cancels all commands but leaves the
/// socket's file.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    stop: DropGuard,
    task: JoinHandle<()>,
}

/// Opens the socket of `home`, in place of one that an ended process left, and serves it until
/// [`ControlServer::shutdown`]. The caller holds the directory's lock. Must be called within a tokio runtime.
///
/// # Errors
/// [`ControlError`].
pub fn serve(home: &Home, commands: Arc<dyn Commands>) -> Result<ControlServer, ControlError> {
    let path = home.control_socket();
    let listener = bind(&path).map_err(|source| ControlError { path: path.clone(), source })?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(accept(listener, commands, stop.clone()));
    Ok(ControlServer { path, stop: stop.drop_guard(), task })
}

impl ControlServer {
    /// Cancels all commands, tells their clients, and takes the socket away.
    pub async fn shutdown(self) {
        drop(self.stop);
        let abort = self.task.abort_handle();
        if timeout(END_WITHIN, self.task).await.is_err() {
            // A client that takes nothing holds its task in a write; ending the task drops its command too.
            tracing::warn!("control clients did not end in time");
            abort.abort();
        }
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(%error, "the control socket's file stays");
        }
    }
}

/// Binds a socket that nobody else can connect to, not even before its mode is set: it is made inside a
/// directory of mode 0700 and then moved to its place.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let nursery = path.with_extension("sock.new");
    match std::fs::remove_dir_all(&nursery) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&nursery)?;
    let born = nursery.join("s");
    let short = ShortPath::of(&born)?;
    let listener = std::os::unix::net::UnixListener::bind(short.path())?;
    std::fs::set_permissions(&born, Permissions::from_mode(0o600))?;
    std::fs::rename(&born, path)?;
    std::fs::remove_dir(&nursery)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn accept(listener: UnixListener, commands: Arc<dyn Commands>, stopped: CancellationToken) {
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a control command failed unexpectedly");
                }
            }
            accepted = listener.accept(), if clients.available_permits() > 0 => match accepted {
                Ok((stream, _)) => {
                    let Ok(permit) = Arc::clone(&clients).try_acquire_owned() else { continue };
                    let (commands, stopped) = (Arc::clone(&commands), stopped.clone());
                    tasks.spawn(async move {
                        client(stream, commands, stopped).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a control client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Serves one connection from its request to its final line.
async fn client(stream: UnixStream, commands: Arc<dyn Commands>, stopped: CancellationToken) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    let request = tokio::select! {
        biased;
        () = stopped.cancelled() => Err(ended()),
        read = timeout(REQUEST_WITHIN, read_line(&mut reader, &mut line, REQUEST_BYTES_MAX)) => match read {
            Ok(Ok(true)) => parse(&line),
            Ok(Err(error @ LineError::TooLong { .. })) => Err(bad_request(&error)),
            // Gone, or silent: there is nobody to answer.
            _ => return,
        },
    };
    let outcome = match request {
        Err(error) => Err(error),
        Ok((request, quiet)) => {
            tracing::debug!(command = request.name(), "control command");
            match drive((request, quiet), commands, &mut reader, &mut writer, &stopped).await {
                Some(outcome) => outcome,
                None => {
                    tracing::debug!("the client went away; its command is cancelled");
                    return;
                }
            }
        }
    };
    // The client may be gone by now, which is its own decision.
    let _ = write_final(&mut writer, outcome).await;
}

/// The request, and whether its client wants no events.
fn parse(line: &[u8]) -> Result<(ControlRequest, bool), CommandError> {
    let (line, quiet) = line.strip_prefix(QUIET).map_or((line, false), |rest| (rest, true));
    serde_json::from_slice(line).map(|request| (request, quiet)).map_err(|error| bad_request(&error))
}

fn bad_request(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::new(ErrorKind::Usage, format!("the node does not understand the request: {error}"))
        .hint("the node and the command line may be of different versions; restart the node")
}

fn ended() -> CommandError {
    CommandError::new(ErrorKind::Interrupted, "the node is ending")
        .hint("start it again with `fathom run` and repeat the command; it goes on where it was")
}

/// Runs the command and passes its events on. `None` if the client went away, which drops the command.
async fn drive(
    (request, quiet): (ControlRequest, bool),
    commands: Arc<dyn Commands>,
    reader: &mut BufReader<tokio::net::unix::OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    stopped: &CancellationToken,
) -> Option<Result<serde_json::Value, CommandError>> {
    let (sink, mut events) = EventSink::channel();
    if quiet {
        events.close();
    }
    let mut command = commands.run(request, sink);
    let mut beyond = [0_u8; 64];
    let outcome = loop {
        tokio::select! {
            biased;
            () = stopped.cancelled() => return Some(Err(ended())),
            // Nothing is due from the client any more: its end of the stream, or a further byte, ends the command.
            _ = reader.read(&mut beyond) => return None,
            Some(event) = events.recv() => write_event(writer, &event).await.ok()?,
            outcome = &mut command => break outcome,
            () = tokio::time::sleep(ALIVE_EVERY) => write(writer, b"\n").await.ok()?,
        }
    };
    while let Ok(event) = events.try_recv() {
        write_event(writer, &event).await.ok()?;
    }
    Some(outcome)
}

async fn write_event(writer: &mut OwnedWriteHalf, event: &ControlEvent) -> io::Result<()> {
    let line = to_line(event)?;
    write(writer, &line).await
}

async fn write_final(writer: &mut OwnedWriteHalf, outcome: Result<serde_json::Value, CommandError>) -> io::Result<()> {
    let mut line = to_line(&Final::from(outcome))?;
    if line.len() > ANSWER_BYTES_MAX {
        let error = CommandError::new(ErrorKind::Other, "the answer is too long to be shown")
            .hint("ask for less, for example `fathom ls NAME`");
        line = to_line(&Final::Error(error))?;
    }
    write(writer, &line).await
}

fn to_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes all of `line`; each piece that the client takes renews its time.
async fn write(writer: &mut OwnedWriteHalf, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        let written = timeout(WRITE_WITHIN, writer.write(line)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        line = &line[written..];
    }
    Ok(())
}
