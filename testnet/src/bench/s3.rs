//! As much of an S3 client as a benchmark needs: signed PUT and GET of whole objects over one kept connection.
//!
//! Signature version 4 without a hash of the payload (`UNSIGNED-PAYLOAD`), so that hashing in the client is not measured.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::wait::unix_seconds;

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
/// Longest wait for a byte.
const STALL: Duration = Duration::from_secs(120);
/// Longest line of an answer's head, and most lines.
const LINE_MAX: u64 = 16 << 10;
const LINES_MAX: usize = 100;
/// What is kept of a refusal's body.
const REFUSAL_MAX: u64 = 2048;
const PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";

/// Where objects are and with which key.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) address: SocketAddr,
    pub(super) region: String,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) secret: String,
}

/// One connection to a bucket; it is opened when it is first needed.
pub(super) struct Client<'a> {
    bucket: &'a Bucket,
    stream: Option<BufReader<TcpStream>>,
}

/// The head of an answer.
struct Head {
    status: u16,
    length: Option<u64>,
    closes: bool,
}

impl<'a> Client<'a> {
    pub(super) fn new(bucket: &'a Bucket) -> Self {
        Self { bucket, stream: None }
    }

    /// Stores the file at `path` as `name`.
    pub(super) fn put(&mut self, name: &str, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        self.send("PUT", name, length)?;
        let stream = self.stream()?;
        copy(&mut file, stream.get_mut(), length)?;
        let head = self.head()?;
        self.finish(&head, &mut io::sink())
    }

    /// Fetches `name` to the file at `path`.
    pub(super) fn get(&mut self, name: &str, path: &Path) -> io::Result<()> {
        self.send("GET", name, 0)?;
        let head = self.head()?;
        self.finish(&head, &mut File::create(path)?)
    }

    fn stream(&mut self) -> io::Result<&mut BufReader<TcpStream>> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.bucket.address, STALL)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STALL))?;
            stream.set_write_timeout(Some(STALL))?;
            self.stream = Some(BufReader::with_capacity(PIECE, stream));
        }
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn send(&mut self, method: &str, name: &str, length: u64) -> io::Result<()> {
        let request = self.bucket.request(method, name, length, &timestamp(unix_seconds()));
        self.stream()?.get_mut().write_all(request.as_bytes())
    }

    fn head(&mut self) -> io::Result<Head> {
        let stream = self.stream()?;
        let status = line(stream)?;
        let status = status.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
        let mut head = Head { status: status.ok_or_else(|| wrong("no status"))?, length: None, closes: false };
        for _ in 0..LINES_MAX {
            let line = line(stream)?;
            let Some((name, value)) = line.split_once(':') else { return Ok(head) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.trim().parse().ok(),
                "connection" => head.closes = value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        Err(wrong("too many headers"))
    }

    /// Takes the body, which must be as long as was said.
    fn finish(&mut self, head: &Head, to: &mut impl Write) -> io::Result<()> {
        let refused = !(200..300).contains(&head.status);
        let stream = self.stream()?;
        if refused {
            let mut said = Vec::new();
            // Of a body without a length the rest of the connection would be read: a refusal ends it anyway.
            let _ = stream.take(head.length.unwrap_or(0).min(REFUSAL_MAX)).read_to_end(&mut said);
            self.stream = None;
            return Err(wrong(&format!("it answered {}: {}", head.status, String::from_utf8_lossy(&said))));
        }
        let length = head.length.ok_or_else(|| wrong("an answer without a length"))?;
        copy(stream, to, length)?;
        if head.closes {
            self.stream = None;
        }
        Ok(())
    }
}

impl Bucket {
    /// The head of a signed request at the instant `at`, `20261122T231500Z`.
    fn request(&self, method: &str, name: &str, length: u64, at: &str) -> String {
        let Self { address, bucket, .. } = self;
        let path = format!("/{bucket}/{name}");
        let authorization = self.authorization(method, &path, at);
        let length = if method == "PUT" { format!("Content-Length: {length}\r\n") } else { String::new() };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nx-amz-content-sha256: {PAYLOAD}\r\nx-amz-date: {at}\r\n\
             Authorization: {authorization}\r\n{length}\r\n"
        )
    }

    /// Names are letters, digits, `-`, `_` and `/` only, which need no encoding in the canonical request.
    fn authorization(&self, method: &str, path: &str, at: &str) -> String {
        let Self { address, region, key, secret, .. } = self;
        let day = at.get(..8).unwrap_or(at);
        let canonical = format!(
            "{method}\n{path}\n\nhost:{address}\nx-amz-content-sha256:{PAYLOAD}\nx-amz-date:{at}\n\n{SIGNED}\n{PAYLOAD}"
        );
        let scope = format!("{day}/{region}/s3/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
        let mut signing = format!("AWS4{secret}").into_bytes();
        for part in [day, region, "s3", "aws4_request", &text] {
            signing = mac(&signing, part.as_bytes());
        }
        format!("AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={SIGNED}, Signature={}", hex(&signing))
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // A key of any length is taken; the error type is that of other constructions.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20261122T231500Z`.
fn timestamp(unix_seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(at).to_string().replace(['-', ':'], "")
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_MAX).read_line(&mut line)?;
    if line.ends_with('\n') { Ok(line.trim_end().to_owned()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Exactly `length` bytes.
fn copy(from: &mut impl Read, to: &mut impl Write, length: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    let mut left = length;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
        let read = from.read(&mut piece[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&piece[..read])?;
        left -= read as u64;
    }
    Ok(())
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::net::TcpListener;

    fn bucket(address: SocketAddr) -> Bucket {
        let [region, bucket, key, secret] = ["garage", "bench", "GK01", "s3cr3t"].map(str::to_owned);
        Bucket { address, region, bucket, key, secret }
    }

    /// The signature was computed by another implementation, in Python.
    #[test]
    fn requests_are_signed_as_others_sign_them() {
        let request =
            bucket("127.0.0.1:3900".parse().unwrap()).request("PUT", "small/000001", 65536, "20261122T231500Z");
        assert!(
            request.contains("Signature=eccae2c286e51bc261d1e153b2cac5fae62d3885133221e4283daf9b013544d3\r\n"),
            "{request}"
        );
        assert!(request.starts_with("PUT /bench/small/000001 HTTP/1.1\r\nHost: 127.0.0.1:3900\r\n"), "{request}");
        assert!(request.ends_with("Content-Length: 65536\r\n\r\n"), "{request}");
        assert_eq!(timestamp(1_795_389_300), "20261122T231500Z");
    }

    /// Answers of `answers`, one after each request, on one connection.
    fn server(answers: &'static [&'static str]) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut requests = Vec::new();
            for answer in answers {
                let (mut first, mut length) = (line(&mut stream).unwrap(), 0);
                loop {
                    let header = line(&mut stream).unwrap();
                    if header.is_empty() {
                        break;
                    }
                    if let Some(value) = header.strip_prefix("Content-Length: ") {
                        length = value.parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                first.push_str(&format!(" {}", String::from_utf8(body).unwrap()));
                requests.push(first);
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (address, served)
    }

    #[test]
    fn objects_go_and_come_over_one_connection() {
        let (address, served) = server(&[
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
        ]);
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&source, "data").unwrap();
        let bucket = bucket(address);
        let mut client = Client::new(&bucket);
        client.put("a", &source).unwrap();
        client.get("b", &target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "hello");
        assert!(client.get("c", &target).unwrap_err().to_string().contains("404: none"));
        let requests = served.join().unwrap();
        assert_eq!(requests[0], "PUT /bench/a HTTP/1.1 data");
        assert_eq!(requests[1], "GET /bench/b HTTP/1.1 ");
    }

    #[test]
    fn an_object_that_ends_early_is_an_error() {
        let (address, served) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"]);
        let dir = tempfile::tempdir().unwrap();
        let bucket = bucket(address);
        let error = Client::new(&bucket).get("b", &dir.path().join("b")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        served.join().unwrap();
    }
}
