//! `defer-lab soak`: a chain of real processes is asked without a break, while nodes and dispatcher are killed, frozen,
//! cut off and started again, and what runs is changed, well and badly. Every request is accounted for.
//!
//! What is done, and when, is drawn from a seed beforehand. What the processes make of it is their own affair.

mod bed;
mod book;
mod clients;
mod deeds;
mod gate;
mod report;
mod schedule;
mod versions;

use crate::folder::Folder;
use crate::step::Step;
use anyhow::{Context as _, Result, bail};
use bed::Bed;
use book::Book;
use clap::Args;
use clients::Asking;
use deeds::{Deeds, Done};
use report::Report;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use versions::{Version, Versions};

/// Four for the stages and two that are spare.
const NODES: usize = 6;
/// How long after the last fault there must be answers again, and nothing that is left over.
const MENDED: Duration = Duration::from_secs(45);
/// Keys at the end, and how often each is asked with.
const KEYS: usize = 8;
const COPIES: usize = 4;

/// Kills, freezes, cuts off and changes a chain that is asked all the while, and accounts for every request.
///
/// Exit code 1 where a request was answered wrong, twice, by two generations or not at all.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab soak
  defer-lab soak --minutes 60 --seed 7 --svg soak.svg
  defer-lab soak --json > soak.json")]
pub struct SoakArgs {
    /// How long the chain is asked
    #[arg(long, default_value_t = 1.0, value_name = "M", value_parser = minutes)]
    minutes: f64,
    /// What the schedule is drawn from: the same seed and length, the same schedule
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// Write a plot of the throughput
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the schedule, and do nothing
    #[arg(long)]
    plan: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| (0.25..=100_000.0).contains(minutes));
    minutes.ok_or_else(|| "give minutes, at least 0.25".to_owned())
}

/// Runs a soak; what it started is gone when it ends, whichever way.
pub async fn run(args: SoakArgs) -> Result<()> {
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let planned = schedule::draw(args.seed, length, NODES);
    if args.plan {
        return defer_host::stdout::write(&report::schedule(&planned)).context("cannot write the schedule");
    }
    let folder = Folder::new("soak")?;
    let step = Step::spinner("cutting the versions of the network");
    let versions = tokio::task::block_in_place(|| Versions::make(folder.path(), &mut |line| step.note(line)))?;
    step.done("versions of the network cut");
    let first = Version::of(0, 0);
    let step = Step::spinner("starting nodes and dispatcher");
    let bed = Bed::start(folder.path(), &versions.pipeline(first).0, NODES).await?;
    step.done(&format!("{NODES} nodes and a dispatcher started"));
    if !bed.has_disks() {
        eprintln!("no small disks can be mounted here (that takes root): full disks are left out");
    }
    let book = Arc::new(Book::new(first));
    let asking = Asking::new(Arc::new(versions), Arc::clone(&book), bed.door);
    let deeds = Arc::new(Deeds::new(bed, Arc::clone(&asking), first, folder.path()));
    let mut clients = asking.start(&clients::KINDS);
    let step = Step::bar("soak", length.as_secs());
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    let mut waiting = planned.iter().peekable();
    let mut failure = None;
    while book.started.elapsed() < length && failure.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Some(next) = waiting.next_if(|next| next.at <= book.started.elapsed()) {
            let (deeds, event) = (Arc::clone(&deeds), next.event);
            under_way.spawn(async move { deeds.perform(event).await });
        }
        while let Some(ended) = under_way.try_join_next() {
            take(ended.context("a deed panicked")?, &step, &mut done, &mut failure);
        }
        let (answered, refused, found) = book.so_far();
        let bar = step.handle();
        bar.set_position(book.started.elapsed().as_secs());
        bar.set_message(format!("{answered} answered, {refused} refused, {found} found, {} events", done.len()));
        if let Some(crash) = deeds.bed.crashed().await {
            failure = Some(crash);
        }
    }
    while failure.is_none()
        && let Some(ended) = under_way.join_next().await
    {
        take(ended.context("a deed panicked")?, &step, &mut done, &mut failure);
    }
    let words = match failure {
        Some(failure) => {
            book.find(&failure);
            deeds.bed.words().await
        }
        None => close(&deeds, &mut clients).await,
    };
    under_way.shutdown().await;
    clients.shutdown().await;
    step.done("soak ended");
    done.sort_by_key(|done| done.from);
    let counts = book.end();
    let answers = counts.answers.clone();
    let report = Report::new(args.seed, length, &done, counts);
    if let Some(file) = &args.svg {
        report::plot(file, &report, &answers)?;
    }
    let text = if args.json { serde_json::to_string(&report)? + "\n" } else { report.text() };
    defer_host::stdout::write(&text).context("cannot write the result")?;
    if !report.is_clean() {
        let schedule = report::schedule(&planned);
        let (seed, minutes) = (args.seed, args.minutes);
        bail!(
            "{}\n{words}\nthe schedule of --seed {seed} --minutes {minutes}:\n{schedule}it did not hold; the same \
             seed and length repeat the schedule",
            report.findings.join("\n")
        );
    }
    Ok(())
}

fn take(ended: Result<Done>, step: &Step, all: &mut Vec<Done>, failure: &mut Option<String>) {
    match ended {
        Ok(done) => {
            let (from, to) = (done.from.as_secs_f64(), done.to.as_secs_f64());
            step.note(&format!("{from:8.3} – {to:.3} s  {}: {}", done.event, done.outcome));
            all.push(done);
        }
        Err(error) => *failure = Some(format!("the soak cannot go on: {error:#}")),
    }
}

/// After the last fault: answers come again, a key runs once, and nothing is left over. What the processes said, where
/// something is amiss.
async fn close(deeds: &Deeds, clients: &mut JoinSet<()>) -> String {
    let (book, asking) = (&deeds.book, &deeds.asking);
    let answered = book.so_far().0;
    let end = Instant::now() + MENDED;
    while book.so_far().0 < answered + 20 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if book.so_far().0 < answered + 20 {
        book.find(&format!("no answers again within {} s after the last fault", MENDED.as_secs()));
    }
    asking.stop.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
    let accepted = async || deeds.bed.pipeline().await.ok()?["counters"]["accepted"].as_u64();
    let settled = async || {
        let pipeline = deeds.bed.pipeline().await.ok()?;
        let alone = pipeline["generations"].as_array()?.len() == 1;
        (alone && pipeline["counters"]["pending"] == 0).then_some(())
    };
    while settled().await.is_none() {
        if Instant::now() > end {
            let left = deeds.bed.pipeline().await.map_or_else(|error| error.to_string(), |left| left.to_string());
            book.find(&format!("requests or generations are left over: {left}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = accepted().await;
    for _ in 0..KEYS {
        if !asking.ask_with_key(COPIES).await {
            book.find("a request with a key is refused, with nothing wrong any more");
        }
    }
    let runs = before.zip(accepted().await).map(|(before, after)| after - before);
    if runs != Some(KEYS as u64) {
        book.find(&format!("{KEYS} keys were asked {COPIES} times each, and ran {runs:?} times"));
    }
    if book.so_far().2 > 0 { deeds.bed.words().await } else { String::new() }
}
