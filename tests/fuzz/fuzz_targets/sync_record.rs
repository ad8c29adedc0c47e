//! Any bytes as a record of the FAT, verified and merged into an empty table.
#![no_main]

use fathom_fuzz::stable;
use fathom_protocol::limits::FRAME_BYTES_MAX;
use fathom_protocol::table::{Merged, Table, verify};
use fathom_protocol::wire::SyncRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(record) = stable::<SyncRecord>(bytes, FRAME_BYTES_MAX) else { return };
    let Ok(verified) = verify(record.clone()) else { return };
    assert!(verified.to_record() == record);
    let mut table = Table::default();
    assert!(matches!(table.merge(&verified), Ok(Merged::New { .. })));
    assert!(matches!(table.merge(&verified), Ok(Merged::Known)));
});
