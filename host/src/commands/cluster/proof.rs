//! Who is shown the token: only who has proved to know it.
//!
//! REST calls bear the token itself, the relay's handshake a proof of it. So the relay is asked first, at the very address
//! that the token would go to. That holds against who takes a node's place by its name or announces one that is none; not
//! against who passes the handshake on to a real node, or listens at another port of a real node's address.

use crate::commands::host_name;
use crate::discovery;
use crate::dispatcher::nodes::NodeClient;
use crate::probe::path;
use crate::relay::Token;
use anyhow::{Context as _, Error, Result, anyhow, bail};
use reqwest::Url;
use std::net::SocketAddr;
use tokio::net::lookup_host;

/// Characters of what a stranger says that are worth printing.
const TOLD: usize = 400;

/// A client for the node at `url` that bears `token`, at the first of its addresses where the relay has proved to know it.
///
/// # Errors
/// No address has: why the last one has not.
pub(super) async fn proved(url: &Url, token: &Token) -> Result<NodeClient> {
    let port = url.port_or_known_default().ok_or_else(|| anyhow!("{url} has no port"))?;
    let host = url.host_str().ok_or_else(|| anyhow!("{url} names no host"))?;
    let addresses = lookup_host(format!("{host}:{port}")).await.with_context(|| format!("cannot find {host}"))?;
    let mut outcome = Err(anyhow!("{host} has no address"));
    for rest in addresses {
        outcome = proved_at(rest, url, token).await.map_err(|error| anyhow!(told(&error)));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn proved_at(rest: SocketAddr, url: &Url, token: &Token) -> Result<NodeClient> {
    let said = NodeClient::at(rest, url.clone(), Token::default())?.stated_relay().await?;
    prove(&relay_at(&said, rest), rest, token).await?;
    NodeClient::at(rest, url.clone(), token.clone())
}

/// Has a relay at the same machine as `rest` prove that it knows `token`.
///
/// # Errors
/// It does not, does not answer, or is elsewhere.
pub(super) async fn prove(relay: &str, rest: SocketAddr, token: &Token) -> Result<()> {
    let mut addresses = lookup_host(relay).await.with_context(|| format!("cannot find its relay at {relay}"))?;
    let Some(address) = addresses.find(|address| address.ip() == rest.ip()) else {
        bail!("its relay is at {relay} and not at {}; name it with --node", rest.ip());
    };
    path::recognise(&address.to_string(), &host_name(), token)
        .await
        .with_context(|| format!("its relay at {address} does not prove itself"))?;
    Ok(())
}

/// Where the relay is of a node that says `said` of it, `host:port` or `:port`, and whose REST port is at `rest`.
pub(super) fn relay_at(said: &str, rest: SocketAddr) -> String {
    match said.strip_prefix(':').and_then(|port| port.parse().ok()) {
        Some(port) => SocketAddr::new(rest.ip(), port).to_string(),
        None => said.to_owned(),
    }
}

/// What `error` says, perhaps in a stranger's words: fit for a terminal, and not long.
pub(super) fn told(error: &Error) -> String {
    discovery::printable(&format!("{error:#}").chars().take(TOLD).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_says_little_and_moves_no_cursor() {
        let error = anyhow!("\u{1b}[2J{}", "x".repeat(1000)).context("it answered 404");
        let text = told(&error);
        assert!(text.starts_with("it answered 404: \u{fffd}[2Jx"), "{text}");
        assert_eq!(text.chars().count(), TOLD);
    }

    #[test]
    fn a_relay_without_a_host_is_beside_its_rest_port() {
        for (said, rest, want) in [
            (":7701", "198.18.0.1:7700", "198.18.0.1:7701"),
            (":7701", "[fd00::1]:7700", "[fd00::1]:7701"),
            ("pi-1:7701", "198.18.0.1:7700", "pi-1:7701"),
            (":70000", "198.18.0.1:7700", ":70000"),
        ] {
            assert_eq!(relay_at(said, rest.parse().unwrap()), want, "{said}");
        }
    }
}
