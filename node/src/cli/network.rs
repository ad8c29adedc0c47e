//! `fathom join` and `fathom invite`.

use fathom_bootstrap::PEERS_MAX;
use serde_json::json;

use super::Context;
use super::args::InviteOptions;
use super::output::Answer;
use crate::control::{CommandError, ErrorKind};
use crate::home::Home;
use crate::network;

pub(super) fn join(context: &Context, source: &str) -> Result<Answer, CommandError> {
    let home = Home::open(&context.dir)?;
    let descriptor = network::read(source)?;
    network::check_enterable(&descriptor)?;
    network::store(&home, &descriptor)?;
    let json = json!({
        "network": descriptor.id().to_string(),
        "name": descriptor.name(),
        "peers": descriptor.peers(),
    });
    let text = format!(
        "This node is now in the network \"{}\" ({}).\nStart it with `fathom run`; if it runs already, restart it.",
        descriptor.name(),
        descriptor.id()
    );
    Ok(Answer::new(json, text))
}

pub(super) fn invite(context: &Context, options: &InviteOptions) -> Result<Answer, CommandError> {
    let home = Home::open(&context.dir)?;
    let descriptor = network::load(&home)?;
    let own = home.read_ready()?.map(|ready| ready.addresses).unwrap_or_default();
    let peers = entry_peers(own, descriptor.peers());
    if peers.is_empty() {
        return Err(CommandError::new(ErrorKind::Network, "this node does not run, so its addresses are not known")
            .hint("start it with `fathom run`, then repeat the command"));
    }
    let descriptor = descriptor.with_peers(peers)?;
    let (invite, toml) = (descriptor.to_invite(), descriptor.to_toml());
    let text = if options.descriptor { toml.clone() } else { invite.clone() };
    Ok(Answer::new(json!({ "invite": invite, "descriptor": toml }), text))
}

/// This node's own addresses, then those by which it entered, as many as a descriptor takes. Addresses that only
/// this machine can reach are left out, unless there are no others.
fn entry_peers(own: Vec<String>, entered_by: &[String]) -> Vec<String> {
    let mut all = own;
    for peer in entered_by {
        if !all.contains(peer) {
            all.push(peer.clone());
        }
    }
    let reachable: Vec<String> = all.iter().filter(|peer| !is_loopback(peer)).cloned().collect();
    let mut chosen = if reachable.is_empty() { all } else { reachable };
    chosen.truncate(PEERS_MAX);
    chosen
}

fn is_loopback(address: &str) -> bool {
    ["/ip4/127.", "/ip6/::1/", "/dns/localhost/", "/dns4/localhost/", "/dns6/localhost/"]
        .iter()
        .any(|start| address.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn own_addresses_come_first_and_loopback_only_if_there_is_nothing_else() {
        let own = texts(&["/ip4/127.0.0.1/udp/1/a", "/ip4/192.0.2.1/udp/1/a"]);
        let by = texts(&["/ip4/192.0.2.9/udp/1/b", "/ip4/192.0.2.1/udp/1/a"]);
        assert_eq!(entry_peers(own, &by), texts(&["/ip4/192.0.2.1/udp/1/a", "/ip4/192.0.2.9/udp/1/b"]));
        let own = texts(&["/ip4/127.0.0.1/udp/1/a"]);
        assert_eq!(entry_peers(own.clone(), &[]), own);
        assert!(entry_peers(Vec::new(), &[]).is_empty());
    }

    #[test]
    fn no_more_peers_than_a_descriptor_takes() {
        let own: Vec<String> = (0..100).map(|n| format!("/ip4/192.0.2.1/udp/{n}/a")).collect();
        assert_eq!(entry_peers(own, &[]).len(), PEERS_MAX);
    }
}
