//! temporary
use crate::net::Net;
use fathom_overlay::PeerStream;
use fathom_protocol::{ids::NodeId, ledger::Terms, wire::*};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;
/// x
#[allow(missing_docs)]
pub struct VendorSettings {
    pub zone: String,
    pub operator: String,
    pub report_seconds: u64,
    pub hold_seconds: u64,
    pub overload_percent: u8,
    pub relief_percent: u8,
    pub bandwidth_mb_per_s: u64,
    pub devices: Vec<(PathBuf, u64, u64)>,
    pub terms: Terms,
}
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct VendorError;
/// x
pub struct Vendor;
#[allow(missing_docs, clippy::unused_async)]
impl Vendor {
    pub fn open(_: &Path, _: Net, _: VendorSettings) -> Result<Arc<Self>, VendorError> {
        Err(VendorError)
    }
    pub async fn handle(self: &Arc<Self>, _: NodeId, _: Request) -> Response {
        Response::Done
    }
    pub async fn chunk(self: &Arc<Self>, _: PeerStream) {}
    pub async fn fetch(self: &Arc<Self>, _: PeerStream) {}
    pub async fn run(self: Arc<Self>, _: CancellationToken) {}
    pub fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
