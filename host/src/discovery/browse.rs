//! The other side: who answers.

use super::{Presence, SERVICE};
use mdns_sd::{Error, ResolvedService, ServiceDaemon, ServiceEvent};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Nodes that are listened to, and addresses of each that are asked: whoever announces more is not heard out.
const NODES: usize = 256;
const ADDRESSES: usize = 4;

/// A node that has announced itself.
#[derive(Clone, Debug)]
pub struct Found {
    pub presence: Presence,
    /// Where its REST port may be; the likeliest first. Not empty, and at most [`ADDRESSES`].
    pub rest: Vec<SocketAddr>,
}

/// Asks the local network for nodes, and gives those that have answered after `time`, by name: the first [`NODES`] of them.
/// Blocks for so long.
pub fn browse(time: Duration) -> Result<Vec<Found>, Error> {
    let daemon = ServiceDaemon::new()?;
    let events = daemon.browse(SERVICE)?;
    let end = Instant::now() + time;
    let mut found = BTreeMap::new();
    let mut more = false;
    while let Ok(event) = events.recv_deadline(end) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                match read(&service) {
                    Ok(_) if found.len() >= NODES && !found.contains_key(&service.fullname) => more = true,
                    Ok(node) => drop(found.insert(service.fullname, node)),
                    Err(field) => tracing::warn!(
                        service = super::printable(&service.fullname),
                        field,
                        "it announces itself as a node, but this field is missing or malformed"
                    ),
                };
            }
            ServiceEvent::ServiceRemoved(_, service) => drop(found.remove(&service)),
            _ => {}
        }
    }
    if more {
        tracing::warn!(nodes = NODES, "more nodes than these announce themselves; the others are left out");
    }
    // Its thread ends with it; whether it says so does not matter.
    let _ = daemon.shutdown();
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by(|a, b| a.presence.name.cmp(&b.presence.name).then_with(|| a.rest.cmp(&b.rest)));
    Ok(found)
}

fn read(service: &ResolvedService) -> Result<Found, &'static str> {
    let presence = Presence::from_txt(|key| service.get_property_val_str(key))?;
    let addresses = service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
    let rest: Vec<SocketAddr> =
        likeliest_first(addresses).into_iter().map(|ip| SocketAddr::new(ip, service.port)).collect();
    if rest.is_empty() { Err("address") } else { Ok(Found { presence, rest }) }
}

/// IPv4 first. Addresses that mean nothing in a URL are left out: those of one link, which need its name too.
fn likeliest_first(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    };
    let mut addresses: Vec<IpAddr> = addresses.into_iter().filter(usable).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_a_url_can_name_remain() {
        let list = ["fe80::1", "fd00::2", "198.18.0.9", "127.0.0.1", "::1", "198.18.0.3", "198.18.0.3"];
        let got = likeliest_first(list.iter().map(|ip| ip.parse().unwrap()).collect());
        assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), ["198.18.0.3", "198.18.0.9", "fd00::2"]);
        let many = likeliest_first((1..=100).map(|last| IpAddr::from([198, 18, 0, last])).collect());
        assert_eq!(many.len(), ADDRESSES);
    }
}
