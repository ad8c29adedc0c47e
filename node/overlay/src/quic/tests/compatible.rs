//! Connections and streams, between ours and libp2p's and between two of ours.

use std::io::ErrorKind;

use super::*;
use crate::config::{Cipher, Congestion, STREAM_WINDOW_BYTES};

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_bulk_data_both_ways() {
    for (address, makes) in [V4, V6].into_iter().flat_map(|address| PAIRS.map(|makes| (address, makes))) {
        let meeting = pair(makes, address).await;
        // Whoever dialed, both open streams.
        let (mut one, mut two) = (meeting.dialer.1, meeting.listener.1);
        for _ in 0..2 {
            let echo = tokio::spawn(echo(two, 8));
            let mut calls = tokio::task::JoinSet::new();
            for seed in 0..8 {
                let stream = open(&mut one).await;
                calls.spawn(call(stream, bytes(2_000_000 + seed as usize, seed)));
            }
            while let Some(call) = calls.join_next().await {
                call.unwrap();
            }
            two = within(echo).await.unwrap();
            std::mem::swap(&mut one, &mut two);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_controller_and_cipher_talks_to_libp2p() {
    for congestion in [Congestion::Sounding, Congestion::Cubic, Congestion::Bbr] {
        for cipher in [Cipher::Fastest, Cipher::ChaCha20] {
            let tuning = Tuning { congestion, cipher };
            let (mut ours, mut theirs) = (Side::tuned(Make::Ours, tuning), Side::new(Make::Libp2p));
            let address = theirs.listen(V4).await;
            let mut dialed = meet(&mut ours, &mut theirs, address, PortUse::Reuse).await;
            let echo = tokio::spawn(echo(dialed.listener.1, 1));
            call(open(&mut dialed.dialer.1).await, bytes(1_000_000, 1)).await;
            within(echo).await.unwrap();
        }
    }
}

/// More streams at once than the other side allows: those beyond wait, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_wait_their_turn() {
    const STREAMS: usize = 1000;
    for makes in PAIRS {
        let meeting = pair(makes, V4).await;
        let echo = tokio::spawn(echo(meeting.listener.1, STREAMS));
        let mut muxer = meeting.dialer.1;
        let mut calls = tokio::task::JoinSet::new();
        for seed in 0..STREAMS {
            let stream = open(&mut muxer).await;
            calls.spawn(call(stream, bytes(100 + seed, seed as u32)));
        }
        while let Some(call) = within(calls.join_next()).await {
            call.unwrap();
        }
        within(echo).await.unwrap();
    }
}

/// Who does not read is sent no more than a window, and then the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_writer_back() {
    // libp2p's window as its default has it; the send buffer of either is larger than one stream's window.
    for (makes, window) in
        [((Make::Ours, Make::Ours), STREAM_WINDOW_BYTES), ((Make::Libp2p, Make::Ours), STREAM_WINDOW_BYTES)]
            .into_iter()
            .chain([((Make::Ours, Make::Libp2p), 10_000_000)])
    {
        let meeting = pair(makes, V4).await;
        let (mut dialer, mut listener) = (meeting.dialer.1, meeting.listener.1);
        let mut writer = open(&mut dialer).await;
        let sent = bytes(window as usize, 1);
        within(writer.write_all(&sent)).await.unwrap();
        let mut reader = accept(&mut listener).await;
        let one = [1];
        assert!(is_pending(writer.write(&one)).await, "{makes:?}");
        let mut back = vec![0; sent.len()];
        within(reader.read_exact(&mut back)).await.unwrap();
        assert!(back == sent);
        assert_eq!(within(writer.write(&one)).await.unwrap(), 1);
        within(reader.read_exact(&mut back[..1])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_a_stream_was_dropped_arrives() {
    for makes in PAIRS {
        let meeting = pair(makes, V4).await;
        let (mut dialer, mut listener) = (meeting.dialer.1, meeting.listener.1);
        let mut writer = open(&mut dialer).await;
        writer.write_all(b"to the end").await.unwrap();
        drop(writer);
        let mut reader = accept(&mut listener).await;
        let mut back = Vec::new();
        within(reader.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"to the end");
        // Nobody is there to read what comes back.
        let error = loop {
            match within(reader.write(&[0; 1000])).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    }
}

/// Each side learns of a close at once, also in the middle of streams.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_ends_for_both() {
    for makes in PAIRS {
        for dialer_closes in [true, false] {
            let meeting = pair(makes, V4).await;
            let (mut one, mut other) = (meeting.dialer.1, meeting.listener.1);
            if !dialer_closes {
                std::mem::swap(&mut one, &mut other);
            }
            let mut stream = open(&mut one).await;
            stream.write_all(b"x").await.unwrap();
            let mut there = accept(&mut other).await;
            let begun = std::time::Instant::now();
            within(poll_fn(|cx| one.poll_close_unpin(cx))).await.unwrap();
            assert!(within(poll_fn(|cx| other.poll_inbound_unpin(cx))).await.is_err());
            assert!(within(poll_fn(|cx| other.poll_outbound_unpin(cx))).await.is_err());
            let mut buffer = Vec::new();
            assert!(within(there.read_to_end(&mut buffer)).await.is_err());
            assert!(within(stream.write(b"y")).await.is_err());
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        }
    }
}

/// A connection of which nobody has anything any more is closed, not left to time out.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_ends_for_the_other() {
    for makes in PAIRS {
        let meeting = pair(makes, V4).await;
        let begun = std::time::Instant::now();
        drop(meeting.dialer);
        let mut other = meeting.listener.1;
        assert!(within(poll_fn(|cx| other.poll_inbound_unpin(cx))).await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
