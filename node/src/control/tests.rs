#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::results::PathVendor;
use super::*;
use crate::home::Home;

const SOON: Duration = Duration::from_secs(20);

/// Tells when one of its commands starts and when it is dropped; answers by the request.
struct Fake {
    told: mpsc::Sender<&'static str>,
}

struct TellDrop(mpsc::Sender<&'static str>);

impl Drop for TellDrop {
    fn drop(&mut self) {
        self.0.try_send("dropped").unwrap();
    }
}

impl Commands for Fake {
    fn run(
        self: Arc<Self>,
        request: ControlRequest,
        events: EventSink,
    ) -> BoxFuture<'static, Result<Value, CommandError>> {
        Box::pin(async move {
            self.told.send("started").await.unwrap();
            let guard = TellDrop(self.told.clone());
            match request {
                ControlRequest::Status => {
                    for number in 0..2 * EVENTS_QUEUED_MAX {
                        events.progress(number as u64, 0, 0);
                        events.note(number.to_string()).await;
                    }
                    std::mem::forget(guard);
                    Ok(json!({ "fine": true }))
                }
                ControlRequest::Ls { .. } => {
                    std::mem::forget(guard);
                    Err(CommandError::new(ErrorKind::NoSpace, "full").hint("buy a disk"))
                }
                _ => std::future::pending().await,
            }
        })
    }
}

struct Setup {
    _temp: tempfile::TempDir,
    home: Home,
    server: ControlServer,
    told: mpsc::Receiver<&'static str>,
}

fn setup_in(temp: tempfile::TempDir, sub: &str) -> Setup {
    let home = Home::create(&temp.path().join(sub)).unwrap();
    let (sender, told) = mpsc::channel(16);
    let server = serve(&home, Arc::new(Fake { told: sender })).unwrap();
    Setup { _temp: temp, home, server, told }
}

fn setup() -> Setup {
    setup_in(tempfile::tempdir().unwrap(), "home")
}

async fn next(told: &mut mpsc::Receiver<&'static str>) -> &'static str {
    tokio::time::timeout(SOON, told.recv()).await.unwrap().unwrap()
}

async fn call(home: &Home, request: ControlRequest) -> (Result<Value, CommandError>, Vec<ControlEvent>) {
    let client = ControlClient::connect(home).await.unwrap().unwrap();
    let mut events = Vec::new();
    let outcome = tokio::time::timeout(SOON, client.call(&request, |event| events.push(event))).await.unwrap();
    (outcome, events)
}

/// Sends raw bytes and returns what comes back until the server closes.
async fn raw(home: &Home, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(home.control_socket()).await.unwrap();
    // The server may refuse before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn an_answer_comes_with_all_events_but_progress_in_order() {
    let setup = setup();
    let (outcome, events) = call(&setup.home, ControlRequest::Status).await;
    assert_eq!(outcome.unwrap(), json!({ "fine": true }));
    let number = |event| match event {
        ControlEvent::Note { text } => Some(text.parse::<usize>().unwrap()),
        _ => None,
    };
    let notes: Vec<_> = events.into_iter().filter_map(number).collect();
    assert_eq!(notes, (0..2 * EVENTS_QUEUED_MAX).collect::<Vec<_>>());
    setup.server.shutdown().await;
}

#[tokio::test]
async fn an_error_keeps_its_kind_and_hint() {
    let setup = setup();
    let (outcome, _) = call(&setup.home, ControlRequest::Ls { prefix: None }).await;
    assert_eq!(outcome.unwrap_err(), CommandError::new(ErrorKind::NoSpace, "full").hint("buy a disk"));
    setup.server.shutdown().await;
}

/// Keeps away: Ctrl-C at the command line leaves the put running in the node.
#[tokio::test]
async fn a_client_that_goes_away_cancels_its_command() {
    let mut setup = setup();
    let client = ControlClient::connect(&setup.home).await.unwrap().unwrap();
    let call = tokio::spawn(async move { client.call(&ControlRequest::Recover, |_| {}).await });
    assert_eq!(next(&mut setup.told).await, "started");
    assert!(setup.told.try_recv().is_err());
    call.abort();
    assert_eq!(next(&mut setup.told).await, "dropped");
    setup.server.shutdown().await;
}

#[tokio::test]
async fn shutdown_cancels_commands_and_tells_their_clients() {
    let mut setup = setup();
    let client = ControlClient::connect(&setup.home).await.unwrap().unwrap();
    let call = tokio::spawn(async move { client.call(&ControlRequest::Recover, |_| {}).await });
    assert_eq!(next(&mut setup.told).await, "started");
    setup.server.shutdown().await;
    assert_eq!(next(&mut setup.told).await, "dropped");
    let error = tokio::time::timeout(SOON, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Interrupted);
    assert!(!setup.home.control_socket().exists());
    assert!(ControlClient::connect(&setup.home).await.unwrap().is_none());
}

#[tokio::test]
async fn request_lines_are_bounded() {
    let mut setup = setup();
    let mut line = vec![b' '; REQUEST_BYTES_MAX + 1];
    let refused = raw(&setup.home, &line).await;
    assert!(refused.contains("usage") && refused.contains("1048576"), "{refused}");
    let request = br#"{"command":"ls"}"#;
    line.truncate(REQUEST_BYTES_MAX - request.len());
    line.extend_from_slice(request);
    line.push(b'\n');
    let answer = raw(&setup.home, &line).await;
    assert!(answer.contains("no_space"), "{answer}");
    assert_eq!(next(&mut setup.told).await, "started");
    setup.server.shutdown().await;
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_runs() {
    let mut setup = setup();
    for bytes in [
        b"\n".as_slice(),
        b"hello\n",
        b"{}\n",
        br#"{"command":"format"}"#,
        br#"{"command":"ls","surprise":1}"#,
        br#"{"command":"put"}"#,
        b"\xff\xfe\n",
    ] {
        let line = [bytes, b"\n"].concat();
        let answer: Value = serde_json::from_str(&raw(&setup.home, &line).await).unwrap();
        assert_eq!(answer["error"]["kind"], "usage", "{}", String::from_utf8_lossy(bytes));
    }
    assert!(setup.told.try_recv().is_err());
    setup.server.shutdown().await;
}

#[tokio::test]
async fn the_socket_is_the_owners_alone() {
    let setup = setup();
    let mode = std::fs::metadata(setup.home.control_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    setup.server.shutdown().await;
}

/// Keeps away: a node that was killed leaves its socket's file, and the next one cannot start.
#[tokio::test]
async fn a_left_socket_is_no_node_and_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::create(temp.path()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(home.control_socket()).unwrap());
    assert!(home.control_socket().exists());
    assert!(ControlClient::connect(&home).await.unwrap().is_none());
    let setup = setup_in(temp, "");
    assert!(call(&setup.home, ControlRequest::Status).await.0.is_ok());
    setup.server.shutdown().await;
}

/// Keeps away: a directory whose path is longer than a socket's address has no control socket.
#[tokio::test]
async fn long_directories_work() {
    let sub = format!("{}/{}", "a".repeat(120), "b".repeat(120));
    let setup = setup_in(tempfile::tempdir().unwrap(), &sub);
    assert!(call(&setup.home, ControlRequest::Status).await.0.is_ok());
    setup.server.shutdown().await;
}

/// The lines are the contract with scripts: these texts only change with the CLI's documentation.
#[test]
fn golden_lines() {
    fn text(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    let put = ControlRequest::Put {
        path: "/a".into(),
        name: "a".to_owned(),
        copies: Some(2),
        erasure: None,
        wanted: Wanted::default(),
    };
    assert_eq!(text(&put), r#"{"command":"put","path":"/a","name":"a","copies":2}"#);
    assert_eq!(text(&ControlRequest::Status), r#"{"command":"status"}"#);
    assert_eq!(text(&ControlRequest::DeviceList), r#"{"command":"device_list"}"#);
    let progress = ControlEvent::Progress { bytes: 1, total: 2, chunks_done: 3 };
    assert_eq!(text(&progress), r#"{"event":"progress","bytes":1,"total":2,"chunks_done":3}"#);
    let location =
        ProvisionalLocation { vendor: "v".to_owned(), zone: "z".to_owned(), lease: "l".to_owned(), bytes: 4 };
    assert_eq!(
        text(&ControlEvent::Provisional { locations: vec![location] }),
        r#"{"event":"provisional","locations":[{"vendor":"v","zone":"z","lease":"l","bytes":4}]}"#
    );
    let entry = PathVendor { vendor: "v".to_owned(), place: Some(1), ..PathVendor::default() };
    assert_eq!(
        text(&ControlEvent::Path { order: vec![entry] }),
        concat!(
            r#"{"event":"path","order":[{"vendor":"v","zone":"","rtt_ms":null,"variation_ms":0.0,"loss":0.0,"#,
            r#""up_bytes_per_s":null,"down_bytes_per_s":null,"from_bytes_per_s":null,"hops":0,"uptime":0.0,"#,
            r#""load":0.0,"seconds":0.0,"score":0.0,"chosen":false,"place":1}]}"#
        )
    );
    let receipt = ControlEvent::Receipt { chunk: "c".to_owned(), vendors: vec!["v".to_owned()] };
    assert_eq!(text(&receipt), r#"{"event":"receipt","chunk":"c","vendors":["v"]}"#);
    let error = Final::Error(CommandError::new(ErrorKind::NotFound, "m").hint("h"));
    assert_eq!(text(&error), r#"{"error":{"kind":"not_found","message":"m","hint":"h"}}"#);
    assert_eq!(text(&Final::Result(json!({"a": 1}))), r#"{"result":{"a":1}}"#);
}
