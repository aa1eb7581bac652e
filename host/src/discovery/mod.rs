//! How nodes make themselves known in a local network, and are found there: multicast DNS with service discovery
//! (RFC 6762, RFC 6763), under the service type [`SERVICE`].
//!
//! Whoever is in the network can announce anything. What is found is a hint where to ask, not a fact.

mod announce;
mod browse;

pub use announce::Announcement;
pub use browse::{Found, browse};
pub use mdns_sd::Error;

/// The service type. At most 15 characters between the underscore and the dot (RFC 6763, section 7).
pub const SERVICE: &str = "_defer-host._tcp.local.";

/// Whether a node answers those only who know its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Token,
    Everybody,
}

/// What a node tells of itself in its TXT record; never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    pub name: String,
    pub arch: String,
    /// Version of the program.
    pub version: String,
    /// Version of the relay protocol.
    pub protocol: u16,
    pub engine: String,
    /// `host:port` where the node says how its relay is reached, else `:port`, at the node's own address.
    pub relay: String,
    pub admission: Admission,
}

impl Presence {
    fn to_txt(&self) -> Vec<(&'static str, String)> {
        let token = if self.admission == Admission::Token { "yes" } else { "no" };
        vec![
            ("name", self.name.clone()),
            ("arch", self.arch.clone()),
            ("version", self.version.clone()),
            ("protocol", self.protocol.to_string()),
            ("engine", self.engine.clone()),
            ("relay", self.relay.clone()),
            ("token", token.to_owned()),
        ]
    }

    /// From `field`s of a TXT record; what is missing or malformed names the field.
    fn from_txt<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Result<Self, &'static str> {
        let text = |key: &'static str| field(key).map(printable).filter(|text| !text.is_empty()).ok_or(key);
        let relay = text("relay")?;
        let port = relay.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).filter(|&port: &u16| port > 0);
        Ok(Self {
            name: text("name")?,
            arch: text("arch")?,
            version: text("version")?,
            protocol: text("protocol")?.parse().map_err(|_| "protocol")?,
            engine: text("engine")?,
            relay: port.map(|_| relay).ok_or("relay")?,
            admission: match field("token") {
                Some("yes") => Admission::Token,
                Some("no") => Admission::Everybody,
                _ => return Err("token"),
            },
        })
    }
}

/// Strangers' text for a terminal: without what moves the cursor, or turns the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn presence() -> Presence {
        Presence {
            name: "pi-1".to_owned(),
            arch: "aarch64".to_owned(),
            version: "0.1.0".to_owned(),
            protocol: 1,
            engine: "onnxruntime".to_owned(),
            relay: ":7701".to_owned(),
            admission: Admission::Token,
        }
    }

    fn read(txt: &HashMap<&str, String>) -> Result<Presence, &'static str> {
        Presence::from_txt(|key| txt.get(key).map(String::as_str))
    }

    #[test]
    fn what_is_announced_is_read_again() {
        for (relay, admission) in [(":7701", Admission::Token), ("pi-1.example:7701", Admission::Everybody)] {
            let said = Presence { relay: relay.to_owned(), admission, ..presence() };
            assert_eq!(read(&said.to_txt().into_iter().collect()), Ok(said));
        }
    }

    #[test]
    fn a_malformed_record_is_refused_by_its_field() {
        let good: HashMap<&str, String> = presence().to_txt().into_iter().collect();
        for key in ["name", "arch", "version", "protocol", "engine", "relay", "token"] {
            let mut txt = good.clone();
            txt.remove(key);
            assert_eq!(read(&txt), Err(key));
        }
        for (key, value) in [
            ("protocol", "65536"),
            ("relay", "7701"),
            ("relay", ":0"),
            ("relay", "pi-1:"),
            ("token", "maybe"),
            ("name", ""),
        ] {
            let mut txt = good.clone();
            txt.insert(key, value.to_owned());
            assert_eq!(read(&txt), Err(key), "{value:?}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut txt: HashMap<&str, String> = presence().to_txt().into_iter().collect();
        for (name, want) in [("pi\u{1b}[2J", "pi\u{fffd}[2J"), ("pi\u{202e}1", "pi\u{fffd}1"), ("Küche 1", "Küche 1")]
        {
            txt.insert("name", name.to_owned());
            assert_eq!(read(&txt).map(|presence| presence.name), Ok(want.to_owned()));
        }
    }
}
