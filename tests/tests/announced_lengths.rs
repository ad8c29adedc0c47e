//! A peer that announces 2^64 elements, and sends none, costs nothing. Alone in its process, because it watches how much
//! address space the process ever had: memory that is reserved and not touched counts too.
#![allow(clippy::unwrap_used)]

use fathom_protocol::codec::{Blob, Bounded, Text, decode};
use fathom_protocol::fat::FinalFat;
use fathom_protocol::head::VendorRecord;
use fathom_protocol::header::{Header, Headers};
use fathom_protocol::wire::{
    ChunkAnswer, ChunkAnswers, FetchAnswer, FetchRequests, Gossip, Request, Response, SyncRecord,
};

/// Largest size of this process's address space so far, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `major` type with an announced length of eight bytes.
fn announce(major: u8, length: u64) -> Vec<u8> {
    [&[major << 5 | 27][..], &length.to_be_bytes()].concat()
}

fn try_all(bytes: &[u8]) {
    const MAX: usize = 1 << 16;
    assert!(decode::<Bounded<u64, { 1 << 20 }>>(bytes, MAX).is_err());
    assert!(decode::<Text<{ 1 << 40 }>>(bytes, MAX).is_err());
    assert!(decode::<Blob<{ 1 << 40 }>>(bytes, MAX).is_err());
    assert!(decode::<Header>(bytes, MAX).is_err());
    assert!(decode::<Headers>(bytes, MAX).is_err());
    assert!(decode::<ChunkAnswers>(bytes, MAX).is_err());
    assert!(decode::<FetchRequests>(bytes, MAX).is_err());
    assert!(decode::<VendorRecord>(bytes, MAX).is_err());
    assert!(decode::<FinalFat>(bytes, MAX).is_err());
    assert!(decode::<Request>(bytes, MAX).is_err());
    assert!(decode::<Response>(bytes, MAX).is_err());
    assert!(decode::<ChunkAnswer>(bytes, MAX).is_err());
    assert!(decode::<FetchAnswer>(bytes, MAX).is_err());
    assert!(decode::<Gossip>(bytes, MAX).is_err());
    assert!(decode::<SyncRecord>(bytes, MAX).is_err());
}

#[test]
fn fault_36_announced_lengths_reserve_nothing() {
    let before = peak_kib();
    for length in [1 << 30, 1 << 34, u64::from(u32::MAX), 1 << 62, u64::MAX - 1, u64::MAX] {
        // Bytes, text, list, map.
        for major in 2..=5 {
            let alone = announce(major, length);
            try_all(&alone);
            // Inside a variant's payload, inside the first field of a record, inside pieces of unknown length.
            try_all(&[&[0xa1, 0x66][..], b"Report", &[0xa1, 0x64], b"head", &alone].concat());
            try_all(&[&[0xa1, 0x64][..], b"Page", &[0xa1, 0x67], b"records", &alone].concat());
            try_all(&[&[0xa1, 0x64][..], b"body", &alone].concat());
            try_all(&[&[0x5f][..], &alone].concat());
            try_all(&[&[0xa1, 0x67][..], b"unknown", &alone].concat());
        }
    }
    let grown = peak_kib() - before;
    // Error texts and the allocator's own steps; the smallest announcement was 1 GiB.
    assert!(grown < 16 * 1024, "the process grew by {grown} KiB");
}
