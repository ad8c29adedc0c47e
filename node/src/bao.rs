//! stub until merge
use fathom_protocol::ids::ChunkId;
/// x
pub fn decode(_c: ChunkId, _l: u32, _o: u32, _n: u32, _e: &[u8]) -> Result<Vec<u8>, String> {
    Err(String::new())
}
