//! Finding the network: the descriptor's peers first, then whoever they name. Once mirrors are known, neither the bootstrap node nor
//! the descriptor is needed any more.

use std::time::Duration;

use fathom_protocol::ids::NodeId;
use fathom_protocol::wire::{Request, Response};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::net::Net;

/// Pause between rounds while no mirror is known, and the longest one afterwards.
const SEARCHING: Duration = Duration::from_millis(250);
const SETTLED: Duration = Duration::from_secs(30);
/// Rounds in quick succession after a start, so that nodes which start together find each other.
const EAGER_ROUNDS: u32 = 8;
/// Peers asked in one round.
const ASKED_MAX: usize = 8;
const ANSWER: Duration = Duration::from_secs(3);

/// Announces this node and learns others, until cancelled.
pub(super) async fn run(net: Net, entry: Vec<String>, cancel: CancellationToken) {
    let mut round = 0;
    loop {
        let work = search(&net, &entry);
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = work => {}
        }
        round += 1;
        let others = net.book().mirrors().iter().any(|mirror| *mirror != net.me());
        let pause = match (others, round) {
            (false, 0..=120) => SEARCHING,
            (false, _) => SEARCHING * 20,
            (true, 0..=EAGER_ROUNDS) => SEARCHING * 2,
            (true, _) => SETTLED,
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn search(net: &Net, entry: &[String]) {
    let Some(announcement) = net.announcement().await else { return };
    net.book().learn(announcement.clone());
    let mut asked: Vec<NodeId> = net.book().mirrors();
    asked.extend(net.book().with_role(|roles| roles.bootstrap));
    asked.retain(|node| *node != net.me());
    asked.truncate(ASKED_MAX);
    for address in entry {
        if asked.len() >= ASKED_MAX {
            break;
        }
        match net.overlay().connect_address(address, crate::net::DIAL).await {
            Ok(node) if node != net.me() && !asked.contains(&node) => {
                net.book().learn_addresses(node, [address.clone()]);
                asked.push(node);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(address, %error, "an entry point of the network did not answer"),
        }
    }
    let request = Request::Announce(announcement.into_carried());
    let request = &request;
    futures::stream::iter(asked)
        .for_each_concurrent(ASKED_MAX, |node| async move {
            match net.call(node, request, ANSWER).await {
                Ok(Response::Peers(records)) => {
                    for record in records {
                        if let Ok(record) = record.verify()
                            && record.node != net.me()
                        {
                            net.book().learn(record);
                        }
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(node = %node.short(), %error, "announcing failed"),
            }
        })
        .await;
    net.book().save();
}
