//! Results as people read them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use fathom_protocol::time::UnixMs;

use crate::clock;
use crate::config::format_rate;
use crate::control::results::{
    DeviceEntry, GetResult, LsResult, MirrorStatus, PutResult, RangeResult, RecoverResult, RepairResult, ResolveResult,
    RmResult, StatusResult, TrafficStatus, UserStatus, VendorStatus, WayStatus,
};
use crate::progress::{human_bytes, short_id};

/// Replaced vendors that are told one by one.
const REPLACED_SHOWN_MAX: usize = 10;

pub(super) fn put(result: PutResult) -> String {
    let mut text = format!(
        "Stored {} ({}) as {}, {}, in {:.1} s.",
        count(result.files, "file", "files"),
        human_bytes(result.bytes),
        count(result.chunks, "chunk", "chunks"),
        match &result.erasure {
            Some(code) => format!("erasure-coded {code}"),
            None => format!("{} of each", count(result.copies, "copy", "copies")),
        },
        result.seconds
    );
    let kind = if result.erasure.is_some() { ("shard", "shards") } else { ("copy", "copies") };
    // Writing to a String cannot fail.
    if result.resumed_chunks > 0 {
        let _ = write!(text, "\n{} were there from an earlier run.", count(result.resumed_chunks, kind.0, kind.1));
    }
    let _ = write!(text, "\nThe final FAT is at {}.", count(result.mirrors_acked, "mirror", "mirrors"));
    for replaced in result.replaced.iter().take(REPLACED_SHOWN_MAX) {
        let _ = write!(text, "\nreplaced: vendor {} ({})", short_id(&replaced.vendor), replaced.reason);
    }
    if let Some(more) = result.replaced.len().checked_sub(REPLACED_SHOWN_MAX).filter(|more| *more > 0) {
        let _ = write!(text, "\nreplaced: {more} more");
    }
    for warning in &result.warnings {
        let _ = write!(text, "\nwarning: {warning}");
    }
    text
}

pub(super) fn get(result: &GetResult, output: &Path) -> String {
    let mut text = format!(
        "Fetched {} ({}) from {} to {} in {:.1} s; every byte was checked.",
        count(result.files, "file", "files"),
        human_bytes(result.bytes),
        count(result.by_vendor.len() as u64, "vendor", "vendors"),
        output.display(),
        result.seconds
    );
    for warning in &result.warnings {
        let _ = write!(text, "\nwarning: {warning}");
    }
    for failed in &result.failed_sources {
        let _ = write!(text, "\nnot from vendor {}: {}", short_id(&failed.vendor), failed.reason);
    }
    if result.released {
        text.push_str("\nThe stored copies were given up.");
    }
    text
}

pub(super) fn rm(result: &RmResult) -> String {
    format!(
        "Gave up {} ({}) and told {}.",
        count(result.files, "file", "files"),
        human_bytes(result.bytes),
        count(result.mirrors_acked, "mirror", "mirrors")
    )
}

pub(super) fn recover(result: &RecoverResult) -> String {
    format!(
        "Recovered user {} with {} ({}). `fathom ls` lists them.",
        short_id(&result.owner),
        count(result.files, "file", "files"),
        human_bytes(result.bytes)
    )
}

pub(super) fn ls(result: &LsResult) -> String {
    if result.files.is_empty() {
        return "No files.".to_owned();
    }
    let mut table = table(&["name", "size", "chunks", "copies", "modified"]);
    for file in &result.files {
        table.add_row(vec![
            match file.versions {
                2.. => format!("{} ({} versions)", printable(&file.name), file.versions),
                _ => printable(&file.name),
            },
            human_bytes(file.bytes),
            file.chunks.to_string(),
            file.erasure.clone().unwrap_or_else(|| file.copies.to_string()),
            instant(file.modified),
        ]);
    }
    align_right(&mut table, &[1, 2, 3]);
    let total = result.files.iter().map(|file| file.bytes).sum();
    let mut text =
        format!("{}\n{}, {}", table.trim_fmt(), count(result.files.len() as u64, "file", "files"), human_bytes(total));
    if let Some(file) = result.files.iter().find(|file| file.versions > 1) {
        let forked = result.files.iter().filter(|file| file.versions > 1).count() as u64;
        let _ = write!(
            text,
            "\n{} stored by two devices at the same time; nothing is lost. See `fathom fat resolve {}`.",
            count(forked, "file was", "files were"),
            printable(&file.name)
        );
    }
    if let Some(age) = result.age_seconds {
        let age = humantime::format_duration(Duration::from_secs(age as u64));
        let _ = write!(text, "\nNo mirror answers: this is the list as it was {age} ago.");
    }
    text
}

pub(super) fn resolve(result: &ResolveResult) -> String {
    if let Some(kept) = result.kept {
        return match result.versions.len() {
            1 => format!("{} has one version; there is nothing to choose.", printable(&result.name)),
            _ => format!(
                "Kept version {kept} of {} and told {}; the other versions are freed.",
                printable(&result.name),
                count(result.mirrors_acked, "mirror", "mirrors")
            ),
        };
    }
    let mut table = table(&["version", "size", "chunks", "copies", "modified", "stored"]);
    for version in &result.versions {
        let mut row = vec![version.version.to_string()];
        match version.removed {
            true => row.extend(["removed", "-", "-", "-"].map(str::to_owned)),
            false => row.extend([
                human_bytes(version.bytes),
                version.chunks.to_string(),
                version.erasure.clone().unwrap_or_else(|| version.copies.to_string()),
                instant(version.modified),
            ]),
        }
        row.push(instant(version.stored));
        table.add_row(row);
    }
    align_right(&mut table, &[0, 1, 2, 3]);
    let hint = match result.versions.len() {
        1 => "There is one version: nothing to choose.".to_owned(),
        _ => format!("`fathom fat resolve {} --keep N` keeps one and frees the others.", printable(&result.name)),
    };
    format!("{}\n{hint}", table.trim_fmt())
}

pub(super) fn repair(result: &RepairResult) -> String {
    let mut text = match (result.lost_copies, result.made_copies) {
        (0, _) => format!("{} looked at: no copy is known to be gone.", count(result.files, "file", "files")),
        (lost, made) => format!(
            "{} of chunks were gone; {} made again, in {}.",
            count(lost, "copy", "copies"),
            count(made, "copy was", "copies were"),
            count(result.repaired, "file", "files")
        ),
    };
    if result.made_by_vendors > 0 {
        let made =
            count(result.made_by_vendors, "shard was made by its new vendor", "shards were made by their new vendors");
        let _ = write!(text, "\n{made} from other shards.");
    }
    if result.unanswered > 0 {
        let _ = write!(
            text,
            "\n{} of {} at vendors that did not answer. If one will not come back, give it up: `fathom repair --without VENDOR`.",
            result.unanswered,
            count(result.leases, "lease is", "leases are")
        );
    }
    for file in &result.failed {
        let _ = write!(text, "\nNot repaired: {}: {}", printable(&file.name), file.reason);
    }
    text
}

pub(super) fn get_range(result: &RangeResult, output: &Path) -> String {
    format!(
        "Fetched {} from byte {} of {} from {} to {} in {:.1} s; every byte was checked.",
        human_bytes(result.bytes),
        result.first,
        human_bytes(result.size),
        count(result.by_vendor.len() as u64, "vendor", "vendors"),
        output.display(),
        result.seconds
    )
}

pub(super) fn status(result: &StatusResult) -> String {
    let mut text =
        format!("node    {}\nroles   {}\npeers   {} connected\n", result.node, result.roles.join(", "), result.peers);
    text.push_str(&traffic(&result.traffic));
    for mirror in &result.mirrors {
        let reach = match (mirror.reachable, mirror.rtt_ms) {
            (true, Some(rtt)) => format!("reachable, {rtt:.1} ms"),
            (true, None) => "reachable".to_owned(),
            (false, _) => "not reachable".to_owned(),
        };
        let _ = writeln!(text, "mirror  {}  {reach}", mirror.node);
    }
    if let Some(vendor) = &result.vendor {
        text.push_str(&vendor_status(vendor));
    }
    if let Some(MirrorStatus { heads, leases, files, moves, digest }) = &result.mirror {
        let digest = short_id(digest);
        let _ = write!(
            text,
            "\nMirror: {}, {}, {}, {}; digest {digest}\n",
            count(*heads, "vendor", "vendors"),
            count(*leases, "lease", "leases"),
            count(*files, "file", "files"),
            count(*moves, "move", "moves")
        );
    }
    if let Some(UserStatus { owner, files, redundancy, pending_puts }) = &result.user {
        let files = count(*files, "file", "files");
        let _ = write!(text, "\nUser {}: {files} stored; new ones as {redundancy}\n", short_id(owner));
        if *pending_puts > 0 {
            let puts = count(*pending_puts, "put was", "puts were");
            let _ = writeln!(text, "{puts} interrupted; repeat the command to go on");
        }
    }
    text
}

/// Two lines: what goes, and how much may.
fn traffic(traffic: &TrafficStatus) -> String {
    let until = traffic.until.map(|until| format!(" until {}", clock::local_text(UnixMs(until)))).unwrap_or_default();
    let way = |name: &str, way: &WayStatus| {
        let cap = way.cap.map_or_else(|| "no cap".to_owned(), |cap| format!("cap {}", format_rate(cap)));
        format!("{name:8}{}/s, {cap}{until}\n", human_bytes(way.rate))
    };
    way("up", &traffic.upload) + &way("down", &traffic.download)
}

fn vendor_status(vendor: &VendorStatus) -> String {
    let warning = vendor.warning.as_ref().map(|warning| format!("\nWARNING: {warning}.\n")).unwrap_or_default();
    format!(
        "\nVendor: {} on offer, {} locked, {} used, {} free; {}; {}\n{}\n{warning}",
        human_bytes(vendor.capacity),
        human_bytes(vendor.locked),
        human_bytes(vendor.used),
        human_bytes(vendor.free),
        count(vendor.chunks, "chunk", "chunks"),
        count(vendor.migrations, "chunk moved away so far", "chunks moved away so far"),
        devices(&vendor.devices)
    )
}

pub(super) fn devices(devices: &[DeviceEntry]) -> String {
    if devices.is_empty() {
        return "No devices. Name one in fathom.toml, [[vendor.device]], and restart the node.".to_owned();
    }
    let mut table = table(&["device", "path", "quota", "used", "free", "parts", "state"]);
    for device in devices {
        table.add_row(vec![
            short_id(&device.id).to_owned(),
            printable(&device.path),
            human_bytes(device.quota),
            human_bytes(device.used),
            human_bytes(device.free),
            device.parts.to_string(),
            device.state.clone(),
        ]);
    }
    align_right(&mut table, &[2, 3, 4, 5]);
    table.trim_fmt()
}

/// A table without lines, for a terminal and for `grep` alike.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>());
    table
}

pub(super) fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Texts of others, without what would move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub(super) fn instant(unix_ms: u64) -> String {
    let time =
        UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).filter(|_| (1..253_402_300_800_000).contains(&unix_ms));
    time.map_or_else(|| "-".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::control::results::FileEntry;

    #[test]
    fn a_listing_lines_up() {
        let file = |name: &str, bytes| FileEntry {
            name: name.to_owned(),
            bytes,
            chunks: 1,
            copies: 3,
            erasure: if bytes == 5 { None } else { Some("4+2".to_owned()) },
            seq: 1,
            modified: 1_700_000_000_000,
            versions: if bytes == 5 { 2 } else { 1 },
        };
        let files = vec![file("a", 5), file("long/name\u{1b}[2J", 1 << 30)];
        let text = ls(&LsResult { files: files.clone(), age_seconds: Some(90.0) });
        assert!(text.contains("a (2 versions)") && text.contains("`fathom fat resolve a`"), "{text}");
        assert!(text.contains("1m 30s ago") && text.contains("4+2"), "{text}");
        let text = ls(&LsResult {
            files: vec![FileEntry { versions: 1, ..files[0].clone() }, files[1].clone()],
            age_seconds: None,
        });
        assert!(text.contains("NAME"), "{text}");
        assert!(text.contains("1.00 GiB"), "{text}");
        assert!(text.contains("2023-11-14T22:13:20Z"), "{text}");
        assert!(text.ends_with("2 files, 1.00 GiB"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn an_instant_out_of_range_is_a_dash() {
        assert_eq!(instant(0), "-");
        assert_eq!(instant(u64::MAX), "-");
    }

    #[test]
    fn tables_hold_what_they_are_about() {
        let traffic = TrafficStatus {
            upload: WayStatus { cap: Some(625_000), rate: 2048, bytes: 1 },
            until: Some(1_700_000_000_000),
            ..TrafficStatus::default()
        };
        let text = status(&StatusResult { traffic, ..StatusResult::default() });
        assert!(text.contains("up      2.00 KiB/s, cap 5 Mbit/s until Tue") || text.contains("until Wed"), "{text}");
        assert!(text.contains("down    0 B/s, no cap until"), "{text}");
        let text = status(&StatusResult { vendor: Some(VendorStatus::default()), ..StatusResult::default() });
        assert!(text.contains("No devices"), "{text}");
    }
}
