#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::*;

const MAX: usize = 300 * 1024;

fn framed(length: u32, body: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), body].concat()
}

#[tokio::test]
async fn every_length_up_to_the_limit_round_trips() {
    for length in [1, 2, TRUSTED_BYTES - 1, TRUSTED_BYTES, TRUSTED_BYTES + 1, MAX - 1, MAX] {
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut wire = Vec::new();
        write_frame(&mut wire, &message).await.unwrap();
        assert_eq!(wire.len(), PREFIX_BYTES + length);
        assert_eq!(read_frame(&mut wire.as_slice(), MAX).await.unwrap(), message);
    }
}

#[tokio::test]
async fn frames_follow_one_another_without_reading_ahead() {
    let mut wire = Vec::new();
    write_frame(&mut wire, b"one").await.unwrap();
    write_frame(&mut wire, &vec![7; TRUSTED_BYTES * 3]).await.unwrap();
    write_frame(&mut wire, b"three").await.unwrap();
    let mut stream = wire.as_slice();
    assert_eq!(read_frame(&mut stream, MAX).await.unwrap(), b"one");
    assert_eq!(read_frame(&mut stream, MAX).await.unwrap(), vec![7; TRUSTED_BYTES * 3]);
    assert_eq!(read_frame(&mut stream, MAX).await.unwrap(), b"three");
    assert_eq!(read_frame(&mut stream, MAX).await, Err(FrameError::Closed));
}

#[tokio::test]
async fn empty_frames_are_refused_on_both_sides() {
    assert_eq!(read_frame(&mut framed(0, b"").as_slice(), MAX).await, Err(FrameError::Empty));
    let mut wire = Vec::new();
    assert_eq!(write_frame(&mut wire, b"").await, Err(FrameError::Empty));
    assert!(wire.is_empty());
}

#[tokio::test]
async fn a_length_above_the_limit_is_refused_before_its_body() {
    for (length, max) in [(MAX as u32 + 1, MAX), (u32::MAX, MAX), (1, 0)] {
        let wire = framed(length, &[1; 8]);
        let mut stream = wire.as_slice();
        let refused = FrameError::TooLong { length: u64::from(length), max };
        assert_eq!(read_frame(&mut stream, max).await, Err(refused));
        assert_eq!(stream.len(), 8, "the body was not touched");
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_truncated() {
    let whole = framed(10, &[1; 10]);
    assert_eq!(read_frame(&mut &whole[..0], MAX).await, Err(FrameError::Closed));
    for kept in 1..whole.len() {
        assert_eq!(read_frame(&mut &whole[..kept], MAX).await, Err(FrameError::Truncated), "{kept} bytes");
    }
}

/// Announces 2^32 - 1 bytes, sends some, and records the largest buffer that it was ever offered.
struct Liar {
    sent: usize,
    sends: usize,
    offered_max: usize,
}

impl AsyncRead for Liar {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        if self.sent >= PREFIX_BYTES {
            self.offered_max = self.offered_max.max(room);
        }
        let count = room.min(self.sends - self.sent).min(9000);
        buf.put_slice(&vec![0xff; count]);
        self.sent += count;
        Poll::Ready(Ok(()))
    }
}

/// Keeps away: a length read from the wire and allocated before its bytes came.
#[tokio::test]
async fn the_announced_length_is_not_allocated_at_once() {
    for body in [0, 1, TRUSTED_BYTES, 1_000_000] {
        let mut liar = Liar { sent: 0, sends: PREFIX_BYTES + body, offered_max: 0 };
        assert_eq!(read_frame(&mut liar, u32::MAX as usize).await, Err(FrameError::Truncated));
        let most = body.max(TRUSTED_BYTES);
        assert!(liar.offered_max <= most, "{} offered for {body} sent", liar.offered_max);
    }
}

#[tokio::test]
async fn a_silent_stream_ends_at_the_deadline() {
    let (mut near, _far) = tokio::io::duplex(16);
    let deadline = Duration::from_millis(30);
    assert_eq!(read_frame_within(&mut near, MAX, deadline).await, Err(FrameError::TimedOut(deadline)));
    assert_eq!(write_frame_within(&mut near, &[1; 64], deadline).await, Err(FrameError::TimedOut(deadline)));
}
