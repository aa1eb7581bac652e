//! Clients of several kinds that ask all the while and check what they get.

use super::book::{Book, Outcome};
use super::versions::{MODEL, Versions};
use crate::http::{Connection, Reply, Target};
use defer_host::engine::Named;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Between two requests of a client, and after a refusal.
const PAUSE: Duration = Duration::from_millis(8);
const AGAIN: Duration = Duration::from_millis(25);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Binary,
    Json,
    /// Asks each question twice with one `Idempotency-Key`, every other time at once.
    Keyed,
    /// Gives so little time that many answers come too late.
    Hurried,
    /// Does not wait for most answers.
    Leaving,
}

pub const KINDS: [Kind; 6] = [Kind::Binary, Kind::Binary, Kind::Json, Kind::Keyed, Kind::Hurried, Kind::Leaving];

/// What clients share.
pub struct Asking {
    pub versions: Arc<Versions>,
    pub book: Arc<Book>,
    pub door: SocketAddr,
    pub stop: AtomicBool,
    next: AtomicU64,
    /// Inputs as JSON.
    written: Vec<String>,
}

/// A request that is about to be made.
struct Question {
    id: String,
    /// Which inputs.
    at: usize,
    bytes: Vec<u8>,
}

/// A right answer.
pub struct Answer(Vec<f32>);

impl Asking {
    pub fn new(versions: Arc<Versions>, book: Arc<Book>, door: SocketAddr) -> Arc<Self> {
        let written = versions.requests.iter().map(|inputs| in_words(inputs)).collect();
        Arc::new(Self { versions, book, door, stop: AtomicBool::new(false), next: AtomicU64::new(0), written })
    }

    /// Starts `clients`.
    pub fn start(self: &Arc<Self>, clients: &[Kind]) -> JoinSet<()> {
        clients.iter().map(|&kind| Arc::clone(self).run(kind)).collect()
    }

    async fn run(self: Arc<Self>, kind: Kind) {
        let mut connection = Connection::default();
        for round in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let good = match kind {
                Kind::Keyed => self.ask_twice(&mut connection, round).await,
                Kind::Leaving if !round.is_multiple_of(4) => {
                    let question = self.question(Kind::Binary, None);
                    Connection::leave(self.door, &question.bytes).await;
                    self.book.note(&question.id, Outcome::Left);
                    tokio::time::sleep(PAUSE * 4).await;
                    true
                }
                kind => self.ask(&mut connection, self.question(kind, None)).await.is_some(),
            };
            tokio::time::sleep(if good { PAUSE } else { AGAIN }).await;
        }
    }

    /// More clients for a while, each asking as fast as it can.
    pub async fn burst(self: &Arc<Self>, clients: usize, length: Duration) {
        let end = Instant::now() + length;
        let crowd: JoinSet<()> = (0..clients)
            .map(|_| {
                let asking = Arc::clone(self);
                async move {
                    let mut connection = Connection::default();
                    while Instant::now() < end {
                        if asking.ask(&mut connection, asking.question(Kind::Binary, None)).await.is_none() {
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            })
            .collect();
        crowd.join_all().await;
    }

    /// One key, two requests: one run, and so one answer.
    async fn ask_twice(self: &Arc<Self>, connection: &mut Connection, round: u64) -> bool {
        let key = format!("key-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let question = self.question(Kind::Binary, Some(&key));
        let again = Question { id: format!("{}-again", question.id), at: question.at, bytes: question.bytes.clone() };
        let id = question.id.clone();
        let since = Instant::now();
        let (one, two) = if round.is_multiple_of(2) {
            let mut other = Connection::default();
            tokio::join!(self.ask(connection, question), self.ask_as(&mut other, again, Some(&id), since))
        } else {
            let one = self.ask(connection, question).await;
            (one, self.ask_as(connection, again, Some(&id), since).await)
        };
        if let (Some(Answer(one)), Some(Answer(two))) = (&one, &two)
            && one != two
            // What a dispatcher remembers dies with it.
            && !self.book.was_away(since)
        {
            self.book.note(&key, Outcome::Duplicate("one key, and two answers that differ".to_owned()));
        }
        one.is_some() && two.is_some()
    }

    /// Asks with the key of nobody else, `copies` times at once; whether all were answered.
    pub async fn ask_with_key(self: &Arc<Self>, copies: usize) -> bool {
        let key = format!("key-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let question = Arc::new(self.question(Kind::Binary, Some(&key)));
        let all: JoinSet<bool> = (0..copies)
            .map(|copy| {
                let (asking, question) = (Arc::clone(self), Arc::clone(&question));
                async move {
                    let own = Question {
                        id: format!("{}-{copy}", question.id),
                        at: question.at,
                        bytes: question.bytes.clone(),
                    };
                    let mut connection = Connection::default();
                    asking.ask_as(&mut connection, own, Some(&question.id), Instant::now()).await.is_some()
                }
            })
            .collect();
        all.join_all().await.into_iter().all(|answered| answered)
    }

    async fn ask(&self, connection: &mut Connection, question: Question) -> Option<Answer> {
        self.ask_as(connection, question, None, Instant::now()).await
    }

    /// Asks; the answer bears the id `named`, and the version that made it may have run from `since` on.
    async fn ask_as(
        &self,
        connection: &mut Connection,
        question: Question,
        named: Option<&str>,
        since: Instant,
    ) -> Option<Answer> {
        let begun = Instant::now();
        let reply = connection.ask(self.door, &question.bytes).await;
        let (outcome, answer) = match reply {
            Err(broken) => (self.book.broken(broken, begun), None),
            Ok(reply) => self.judge(&question, named.unwrap_or(&question.id), &reply, since),
        };
        self.book.note(&question.id, outcome);
        answer
    }

    fn judge(&self, question: &Question, id: &str, reply: &Reply, since: Instant) -> (Outcome, Option<Answer>) {
        if reply.status != 200 {
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            let outcome = match reply.status {
                429 | 500 | 503 | 504 => Outcome::Refused(reply.status.to_string()),
                status => Outcome::Wrong(format!("a good request is answered {status}: {said}")),
            };
            return (outcome, None);
        }
        let (answered, values) = match read(reply) {
            Some(read) => read,
            None => return (Outcome::Wrong("the answer cannot be read".to_owned()), None),
        };
        if answered != id {
            return (Outcome::Duplicate(format!("it got the answer to {answered}")), None);
        }
        let outcome = match self.versions.made(question.at, &values) {
            None => Outcome::Wrong(format!("no version answers {values:?}")),
            Some(version) if version.is_mixed() => Outcome::Mixed(format!("{version:?}")),
            Some(version) if !self.book.could(version, since) => {
                Outcome::Mixed(format!("{version:?} answers, which did not run while it was asked"))
            }
            Some(_) => return (Outcome::Answered, Some(Answer(values))),
        };
        (outcome, None)
    }

    fn question(&self, kind: Kind, key: Option<&str>) -> Question {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = (number % self.versions.requests.len() as u64) as usize;
        let id = format!("{number}");
        let inputs = &self.versions.requests[at];
        let timeout = if kind == Kind::Hurried { 1000 * (1 + number % 30) } else { 30_000_000 };
        let to = Target { door: self.door, model: MODEL, key };
        let bytes = if kind == Kind::Json {
            let inputs = &self.written[at];
            to.post(&format!("{{\"id\":\"{id}\",\"parameters\":{{\"timeout\":{timeout}}},\"inputs\":{inputs}}}"), None)
        } else {
            to.binary(&id, inputs, timeout)
        };
        Question { id, at, bytes }
    }
}

/// The id and the values of an answer.
fn read(reply: &Reply) -> Option<(String, Vec<f32>)> {
    let split = reply.json.unwrap_or(reply.body.len());
    let (json, binary) = reply.body.split_at_checked(split)?;
    let json: Value = serde_json::from_slice(json).ok()?;
    let values: Vec<f32> = if reply.json.is_some() {
        let (words, rest) = binary.as_chunks::<4>();
        rest.is_empty().then(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect())?
    } else {
        let data = json["outputs"][0]["data"].as_array()?;
        data.iter().map(|value| value.as_f64().map(|value| value as f32)).collect::<Option<_>>()?
    };
    Some((json["id"].as_str()?.to_owned(), values))
}

fn in_words(inputs: &[Named]) -> String {
    let all: Vec<Value> = inputs
        .iter()
        .map(|(name, tensor)| {
            json!({"name": name, "datatype": tensor.dtype, "shape": tensor.shape, "data": tensor.to_f32()})
        })
        .collect();
    json!(all).to_string()
}
