//! A node's side: it answers who asks for nodes, and says goodbye.

use super::{Presence, SERVICE};
use mdns_sd::{DaemonEvent, Error, IfKind, ServiceDaemon, ServiceInfo};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

/// Longest label of a DNS name, in bytes (RFC 1035).
const LABEL: usize = 63;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// As long as it is there, the node can be found. It has two threads: one that answers, one that logs.
pub struct Announcement {
    daemon: ServiceDaemon,
    service: String,
}

impl Announcement {
    /// Announces a node whose REST port is bound to `rest`, on the interfaces that reach it; `machine` is this one's name.
    pub fn start(presence: &Presence, machine: &str, rest: SocketAddr) -> Result<Self, Error> {
        // A name of its own: other services of this machine, in other processes, may answer to the machine's.
        let host = format!("{}-{}.local.", host_label(machine), rest.port());
        let instance = cut(&presence.name, LABEL);
        let txt = presence.to_txt();
        let info = ServiceInfo::new(SERVICE, instance, &host, "", rest.port(), &txt[..])?.enable_addr_auto();
        // From here on, whatever fails: dropping it ends its threads.
        let announcement = Self { daemon: ServiceDaemon::new()?, service: info.get_fullname().to_owned() };
        let daemon = &announcement.daemon;
        // What is announced there, nobody else can reach.
        daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        match rest.ip() {
            IpAddr::V4(any) if any.is_unspecified() => daemon.disable_interface(IfKind::IPv6)?,
            any if any.is_unspecified() => {}
            one => {
                daemon.disable_interface(IfKind::All)?;
                daemon.enable_interface(one)?;
            }
        }
        let events = daemon.monitor()?;
        thread::Builder::new()
            .name("announce".to_owned())
            .spawn(move || {
                for event in events.iter() {
                    match event {
                        DaemonEvent::NameChange(change) => tracing::warn!(
                            asked = change.original,
                            announced = change.new_name,
                            "another one announces itself by this name; give each node its own --name"
                        ),
                        DaemonEvent::Error(error) => tracing::debug!(%error, "announcing"),
                        DaemonEvent::Announce(service, addresses) => tracing::debug!(service, addresses, "announced"),
                        _ => {}
                    }
                }
            })
            .map_err(|error| Error::Msg(error.to_string()))?;
        daemon.register(info)?;
        Ok(announcement)
    }
}

impl Drop for Announcement {
    /// Says goodbye, so that nobody looks for the node until its record expires.
    fn drop(&mut self) {
        if let Ok(done) = self.daemon.unregister(&self.service) {
            let _ = done.recv_timeout(GOODBYE);
        }
        if let Ok(done) = self.daemon.shutdown() {
            let _ = done.recv_timeout(GOODBYE);
        }
    }
}

/// `name` as a label of a host's name: letters, digits and hyphens, with room for a port.
fn host_label(name: &str) -> String {
    let label: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let label = cut(label.trim_matches('-'), LABEL - "-65535".len());
    if label.is_empty() { "node".to_owned() } else { label.to_owned() }
}

/// At most the first `bytes` of `text`, in whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        let long = "x".repeat(80);
        for (name, want) in [
            ("pi-1", "pi-1"),
            ("Living room.lan", "Living-room-lan"),
            ("--", "node"),
            ("", "node"),
            (&long, &long[..57]),
        ] {
            assert_eq!(host_label(name), want, "{name:?}");
        }
        // An é has two bytes.
        assert_eq!(cut("éé", 3), "é");
    }
}
