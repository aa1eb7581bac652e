//! Whoever cannot prove to know the token is not given it.

use crate::support::chain::Node;
use crate::support::http::Request;
use crate::support::{folder, run, stderr};
use defer_partition::cluster::{Cluster, ClusterNode, Links};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const SECRET: &str = "a long random text";
/// A connection that says nothing for so long has nothing to say.
const SILENCE: Duration = Duration::from_secs(2);

/// Somebody who pretends to be a node, with one port for everything, and writes down what it is sent.
struct Stranger {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Stranger {
    /// Listens on another address of this machine than nodes do; answers everybody with `status` and, as its relay's
    /// address, with `relay`, or its own port where that is empty.
    fn start(status: &str, relay: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let address = listener.local_addr().unwrap();
        let relay = if relay.is_empty() { format!(":{}", address.port()) } else { relay.to_owned() };
        let body = format!("{{\"relay\": \"{relay}\"}}");
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             location: http://{address}/v1/node\r\nconnection: close\r\n\r\n{body}"
        );
        let heard = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, book) = (answer.clone(), Arc::clone(&book));
                thread::spawn(move || talk(stream, &answer, &book));
            }
        });
        Self { address, heard }
    }
}

/// Answers the first that is said, and listens until the other end has nothing more to say.
fn talk(mut stream: TcpStream, answer: &str, book: &Mutex<Vec<u8>>) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 4096];
    let mut answered = false;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        book.lock().unwrap().extend_from_slice(&buffer[..count]);
        if !answered {
            // Whether the other end still listens does not matter.
            let _ = stream.write_all(answer.as_bytes());
            answered = true;
        }
    }
}

/// A cluster file of nodes by name and URL, as `cluster discover` writes it.
fn write(file: &Path, nodes: &[(&str, String)]) {
    let node = |(name, url): &(&str, String)| {
        let (name, url) = ((*name).to_owned(), Some(url.clone()));
        ClusterNode { name, url, speed: 1.0, memory_bytes: 64 << 20, cores: None }
    };
    let link = Links { bandwidth_bps: Some(1e8), latency_ms: Some(0.5), ..Links::default() };
    let cluster = Cluster { nodes: nodes.iter().map(node).collect(), link, dispatcher: None };
    cluster.write(file).unwrap();
}

#[test]
fn a_probe_gives_the_token_to_nobody_who_does_not_know_it() {
    let folder = folder("strangers");
    let secret = folder.join("token");
    std::fs::write(&secret, SECRET).unwrap();
    let secret = secret.to_str().unwrap();
    let real = Node::start(&folder, "real", &["--token-file", secret]);
    let (file, out) = (folder.join("cluster.toml"), folder.join("probed.toml"));
    let probe = |name: &str, url: String| {
        write(&file, &[("real", real.url().to_owned()), (name, url)]);
        let files = ["--cluster", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let output = run(&[&["cluster", "probe", "--token-file", secret], &files[..]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("node \"{name}\" at ")) && text.contains("is not given the token"), "{text}");
        assert!(!out.exists(), "nothing is written where not all have proved themselves");
        text
    };
    let endless = "x".repeat(5 << 20);
    for (status, relay, said) in [
        // One whose relay proves nothing, one that points at a real node's, elsewhere, and several that make no sense.
        ("200 OK", "", "does not prove itself"),
        ("200 OK", real.relay(), "and not at 127.0.0.2"),
        ("200 OK", "7701", "cannot find its relay"),
        ("302 Found", "", "answered 302"),
        ("404 Not Found", "", "answered 404"),
        ("200 OK", &endless, "more than 4194304 bytes"),
        ("404 Not Found", &endless, "more than 4194304 bytes"),
    ] {
        let stranger = Stranger::start(status, relay);
        let text = probe("stranger", format!("http://{}", stranger.address));
        assert!(text.contains(said), "{status}, relay of {} characters: {text}", relay.len());
        let heard = String::from_utf8_lossy(&stranger.heard.lock().unwrap()).into_owned();
        assert!(heard.starts_with("GET /v1/relay "), "{heard:?}");
        assert!(!heard.contains(SECRET) && !heard.to_lowercase().contains("authorization"), "{heard:?}");
    }
    // A node that needs no token knows none.
    let open = Node::start(&folder, "open", &[]);
    let text = probe("open", open.url().to_owned());
    assert!(text.contains("does not know the token"), "{text}");
}

#[test]
fn a_node_tells_everybody_where_its_relay_is() {
    let folder = folder("relays");
    let secret = folder.join("token");
    std::fs::write(&secret, SECRET).unwrap();
    let token = ["--token-file", secret.to_str().unwrap()];
    let advertise = [&token[..], &["--advertise", "pi-1.example:7701"]].concat();
    for (name, flags) in [("own", &token[..]), ("advertised", &advertise)] {
        let node = Node::start(&folder, name, flags);
        let port = node.relay().rsplit_once(':').unwrap().1;
        let want = if name == "own" { format!(":{port}") } else { "pi-1.example:7701".to_owned() };
        assert_eq!(Request::get(format!("{}/v1/relay", node.url())).send().json()["relay"], want);
    }
}
