//! Carries the schedule out.

use super::bed::Bed;
use super::book::Book;
use super::clients::Asking;
use super::gate::Passage;
use super::schedule::{Cut, Event};
use super::versions::{MODEL, Version, Versions};
use anyhow::{Context as _, Result, bail};
use defer_host::dispatcher::nodes::{Answered, NodeClient};
use defer_host::pipeline::Pipeline;
use defer_host::relay::Token;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long a canary runs.
const TRIAL: Duration = Duration::from_millis(1500);
/// How long a change of which nobody knows what came may yet come about.
const LATE: Duration = Duration::from_secs(2);
/// How long the dispatcher may take to say what runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was done.
#[derive(Clone, Debug)]
pub struct Done {
    pub event: Event,
    /// From the start of the load.
    pub from: Duration,
    pub to: Duration,
    /// What came of it, in a few words.
    pub outcome: String,
    /// Whether it changed what runs.
    pub changed: bool,
}

pub struct Deeds {
    pub bed: Bed,
    pub book: Arc<Book>,
    pub asking: Arc<Asking>,
    versions: Arc<Versions>,
    folder: PathBuf,
    /// One change at a time, and what runs.
    change: Mutex<Version>,
    /// One hurt of the dispatcher at a time.
    dispatcher: Mutex<()>,
    files: AtomicU64,
}

impl Deeds {
    pub fn new(bed: Bed, asking: Arc<Asking>, version: Version, folder: &Path) -> Self {
        Self {
            bed,
            book: Arc::clone(&asking.book),
            versions: Arc::clone(&asking.versions),
            asking,
            folder: folder.to_owned(),
            change: Mutex::new(version),
            dispatcher: Mutex::new(()),
            files: AtomicU64::new(0),
        }
    }

    /// Does what `event` says, and undoes it when its time is over.
    pub async fn perform(&self, event: Event) -> Result<Done> {
        let from = self.book.started.elapsed();
        let outcome = match event {
            Event::Kill { node, ms } => {
                self.bed.kill_node(node).await;
                pause(ms).await;
                self.bed.start_node(node).await?;
                Ok(None)
            }
            Event::Stop { node, ms } => {
                self.bed.stop_node(node).await?;
                pause(ms).await;
                self.bed.start_node(node).await?;
                Ok(None)
            }
            Event::Freeze { node, ms } => {
                self.bed.signal_node(node, Signal::STOP).await;
                pause(ms).await;
                self.bed.signal_node(node, Signal::CONT).await;
                Ok(None)
            }
            Event::Cut { node, how, ms } => {
                let stalled = |inward, outward| Passage::Stalled { inward, outward };
                let (rest, relay) = match how {
                    Cut::Whole => (stalled(true, true), stalled(true, true)),
                    Cut::Inward => (stalled(true, false), stalled(true, false)),
                    Cut::Outward => (stalled(false, true), stalled(false, true)),
                    Cut::Relay => (Passage::Open, stalled(true, true)),
                    Cut::Refused => (Passage::Refused, Passage::Refused),
                };
                self.bed.cut(node, rest, relay);
                pause(ms).await;
                self.bed.cut(node, Passage::Open, Passage::Open);
                Ok(None)
            }
            Event::FullDisk { node, ms } => {
                if !self.bed.nodes[node].has_disk {
                    return Ok(self.done(event, from, "skipped: no disk of its own", false));
                }
                let ballast = tokio::task::block_in_place(|| self.bed.fill_disk(node));
                pause(ms).await;
                std::fs::remove_file(&ballast).context("the ballast is gone")?;
                Ok(None)
            }
            Event::KillDispatcher { ms } => {
                let _one = self.dispatcher.lock().await;
                self.book.dispatcher_goes();
                self.bed.kill_dispatcher().await;
                self.dispatcher_returns(ms).await?;
                Ok(None)
            }
            Event::StopDispatcher { ms } => {
                let _one = self.dispatcher.lock().await;
                self.book.dispatcher_goes();
                self.bed.stop_dispatcher().await?;
                self.dispatcher_returns(ms).await?;
                Ok(None)
            }
            Event::FreezeDispatcher { ms } => {
                let _one = self.dispatcher.lock().await;
                self.bed.signal_dispatcher(Signal::STOP).await;
                pause(ms).await;
                self.bed.signal_dispatcher(Signal::CONT).await;
                Ok(None)
            }
            Event::Burst { clients, ms } => {
                self.asking.burst(clients, Duration::from_millis(ms)).await;
                Ok(None)
            }
            change => self.change(change).await?,
        };
        Ok(match outcome {
            Ok(None) => self.done(event, from, "done", false),
            Ok(Some(version)) => self.done(event, from, &format!("now {version:?}"), true),
            Err(error) => self.done(event, from, &format!("{error:#}"), false),
        })
    }

    fn done(&self, event: Event, from: Duration, outcome: &str, changed: bool) -> Done {
        Done { event, from, to: self.book.started.elapsed(), outcome: outcome.to_owned(), changed }
    }

    async fn dispatcher_returns(&self, ms: u64) -> Result<()> {
        pause(ms).await;
        self.bed.start_dispatcher().await?;
        self.book.dispatcher_is_back();
        Ok(())
    }

    /// A change of what runs: what runs after it, where it was made.
    async fn change(&self, event: Event) -> Result<Result<Option<Version>>> {
        let mut now = self.change.lock().await;
        let before = *now;
        let (wanted, good) = match event {
            Event::Swap => (Version { end: 1 - before.end, ..before }, true),
            Event::Deploy { pipeline, end } | Event::DeployKilled { pipeline, end, .. } => {
                (Version::of(pipeline, end), true)
            }
            Event::Canary { pipeline, end, promote } => (Version::of(pipeline, end), promote),
            // What ran before is known by its answers only.
            Event::RollBack => (Version { end: 1 - before.end, ..before }, true),
            _ => (before, false),
        };
        self.book.may(&[before, wanted]);
        let result = match event {
            Event::DeployKilled { after_ms, .. } => {
                let deploy = self.make(event, before, wanted);
                let kill = async {
                    pause(after_ms).await;
                    let _one = self.dispatcher.lock().await;
                    self.book.dispatcher_goes();
                    self.bed.kill_dispatcher().await;
                    self.dispatcher_returns(100).await
                };
                let (deployed, killed) = tokio::join!(deploy, kill);
                killed?;
                deployed
            }
            event => self.make(event, before, wanted).await,
        };
        let unsure = result.as_ref().is_err_and(|error| !is_refused(error));
        if unsure {
            tokio::time::sleep(LATE).await;
        }
        let runs = self.what_runs().await?;
        *now = runs;
        self.book.may(&[runs]);
        if runs != before && runs != wanted {
            self.book.find(&format!("after \"{event}\" {runs:?} runs, before it did {before:?}"));
        }
        let refused = result.as_ref().is_err_and(is_refused);
        if result.is_ok() && good && runs != wanted && event != Event::RollBack {
            self.book.find(&format!("\"{event}\" was done, and {runs:?} runs"));
        }
        if refused && runs != before {
            self.book.find(&format!("\"{event}\" was refused, and yet {runs:?} runs now"));
        }
        if result.is_ok() && !good && !matches!(event, Event::Canary { .. }) {
            self.book.find(&format!("\"{event}\" was not refused"));
        }
        Ok(result.map(|()| (runs != before).then_some(runs)))
    }

    async fn make(&self, event: Event, before: Version, wanted: Version) -> Result<()> {
        let stages = self.versions.pipeline(before).1.stages.len();
        let last = stages - 1;
        match event {
            Event::Swap => self.swap(last, self.versions.artifact(wanted, last)?).await,
            Event::TornStage { keep } => {
                let mut artifact = self.versions.artifact(before, last)?;
                artifact.truncate(artifact.len() * keep / 100);
                self.swap(last, artifact).await
            }
            Event::WrongStage => self.swap(last, self.versions.artifact(before, 0)?).await,
            Event::RollBack => {
                let (_, nodes) = self.bed.active().await?;
                self.node(nodes.last().map(String::as_str))?.roll_back(MODEL, last).await.map(drop)
            }
            Event::Deploy { .. } | Event::DeployKilled { .. } => self.deploy(self.versions.pipeline(wanted), &[]).await,
            Event::Canary { promote, .. } => {
                self.deploy(self.versions.pipeline(wanted), &[("canary", "0.3".to_owned())]).await?;
                tokio::time::sleep(TRIAL).await;
                let then = if promote { "promote" } else { "abort" };
                self.admin()?.change(MODEL, then, &[], None).await.map(drop)
            }
            Event::BrokenPipeline => {
                let (pipeline, file) = self.versions.broken(before, &self.folder)?;
                self.admin()?.upload(&pipeline.stages[1].digest, &file, |_| {}).await?;
                let folder = self.versions.pipeline(before).0.clone();
                self.deploy(&(folder, pipeline), &[]).await
            }
            event => bail!("\"{event}\" changes nothing"),
        }
    }

    async fn swap(&self, stage: usize, artifact: Vec<u8>) -> Result<()> {
        let file = self.folder.join(format!("upload-{}", self.files.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, artifact)?;
        let (_, nodes) = self.bed.active().await?;
        let swapped = self.node(nodes.get(stage).map(String::as_str))?.swap(MODEL, stage, &file, |_| {}).await;
        std::fs::remove_file(&file)?;
        swapped.map(drop)
    }

    async fn deploy(&self, (folder, pipeline): &(PathBuf, Pipeline), query: &[(&str, String)]) -> Result<()> {
        let admin = self.admin()?;
        for stage in &pipeline.stages {
            if !admin.has_artifact(&stage.digest).await? {
                admin.upload(&stage.digest, &folder.join(&stage.file), |_| {}).await?;
            }
        }
        admin.change(MODEL, "deploy", query, Some(pipeline)).await.map(drop)
    }

    fn admin(&self) -> Result<NodeClient> {
        NodeClient::of_dispatcher(format!("http://{}", self.bed.admin).parse()?, Token::default())
    }

    fn node(&self, name: Option<&str>) -> Result<NodeClient> {
        let node = self.bed.nodes.iter().find(|node| Some(node.name.as_str()) == name);
        let address = node.context("the stage has no node")?.rest.address;
        NodeClient::new(format!("http://{address}").parse()?, Token::default())
    }

    /// What the dispatcher says that it runs; a canary is not it.
    async fn what_runs(&self) -> Result<Version> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.bed.active().await {
                Ok((digests, _)) => match self.versions.running(&digests) {
                    Some(version) => return Ok(version),
                    None => bail!("stages that nobody made are active: {digests:?}"),
                },
                Err(error) if Instant::now() > end => {
                    return Err(error.context("the dispatcher does not say what runs"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Whether somebody has said no, who knows.
fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Answered>().is_some_and(|answered| {
        let status = answered.status.as_u16();
        // 504: what became of it is not known.
        (400..500).contains(&status) || status == 507
    })
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
