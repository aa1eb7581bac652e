//! A chain of processes: nodes, and the dispatcher before them.

use crate::cluster::{
    DISPATCHER_PORTS, DISPATCHER_UP, NODE_PORTS, NODE_UP, NodeOptions, Process, spawn_dispatcher, spawn_node,
};
use crate::step::Step;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a process that starts is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How every other node is run: a program for another architecture, in emulation.
#[derive(Clone, Debug)]
pub struct Emulated {
    pub program: PathBuf,
    /// Its onnxruntime library, if it has one.
    pub ort_lib: Option<PathBuf>,
}

/// Dropping it stops all, the dispatcher first.
pub struct Chain {
    dispatcher: Option<Process>,
    nodes: Vec<Process>,
}

impl Chain {
    /// Starts `count` nodes, all at once, with `threads` threads each and their state under `folder`.
    pub async fn start(binary: &Path, folder: &Path, count: usize, threads: usize) -> Result<Self> {
        Self::start_mixed(binary, None, folder, count, threads).await
    }

    /// The same with the odd ones `emulated`.
    pub async fn start_mixed(
        binary: &Path,
        emulated: Option<&Emulated>,
        folder: &Path,
        count: usize,
        threads: usize,
    ) -> Result<Self> {
        let step = Step::bar("starting nodes", count as u64);
        let mut chain = Self { dispatcher: None, nodes: Vec::with_capacity(count) };
        for index in 0..count {
            let name = format!("node-{index}");
            let state_dir = folder.join(&name);
            let mut extra_args = vec!["--threads".into(), threads.to_string().into()];
            let mut program = binary;
            if let Some(emulated) = emulated.filter(|_| index % 2 == 1) {
                program = &emulated.program;
                match &emulated.ort_lib {
                    Some(library) => extra_args.extend(["--ort-lib".into(), library.into()]),
                    None => extra_args.extend(["--engine".into(), "tract".into()]),
                }
            }
            chain.nodes.push(spawn_node(program, &NodeOptions { name, state_dir, extra_args })?);
        }
        for node in &mut chain.nodes {
            listening(node, &NODE_PORTS, NODE_UP).await?;
            step.inc();
        }
        step.done(&format!("{count} nodes started, {threads} thread{} each", if threads == 1 { "" } else { "s" }));
        Ok(chain)
    }

    /// Starts the dispatcher, which ships the stages of the pipeline in `stages` to the nodes; one that runs is stopped before.
    pub async fn deploy(&mut self, binary: &Path, stages: &Path, flags: &[&str]) -> Result<()> {
        if let Some(mut before) = self.dispatcher.take() {
            tokio::task::spawn_blocking(move || before.terminate()).await?;
        }
        let step = Step::spinner("shipping the stages");
        let nodes: Vec<&Process> = self.nodes.iter().collect();
        let dispatcher = self.dispatcher.insert(spawn_dispatcher(binary, stages, &nodes, flags)?);
        let deployed = listening(dispatcher, &DISPATCHER_PORTS, DISPATCHER_UP).await;
        if let Err(error) = deployed {
            bail!("{error:#}{}", self.last_words());
        }
        step.done(&format!("stages shipped, loaded and warmed up; inference at {}", self.inference_url()));
        Ok(())
    }

    /// Where requests go. There is one once the pipeline is deployed.
    pub fn inference_url(&self) -> &str {
        self.dispatcher.as_ref().expect("the pipeline is deployed").address("inference")
    }

    /// The nodes' REST ports, in the order of their stages.
    pub fn node_urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address("rest").to_owned()).collect()
    }

    /// Waits until one of the processes ends.
    pub async fn end_of_any(&mut self) {
        while self.processes().all(|process| process.status().is_none()) {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Which processes have ended, and what they wrote last, as the end of an error message.
    pub fn last_words(&mut self) -> String {
        let ended = self.processes().filter_map(|process| {
            let status = process.status()?;
            Some(format!("\n{} has ended ({status}){}", process.describe(), process.last_words()))
        });
        ended.collect()
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.dispatcher.iter_mut().chain(&mut self.nodes)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let whole = self.nodes.iter_mut().all(|node| node.status().is_none());
        match self.dispatcher.take() {
            // It frees the nodes while they are there.
            Some(mut dispatcher) if whole => drop(dispatcher.terminate()),
            // It would wait for answers that cannot come; dropped, it is killed.
            _ => {}
        }
        self.nodes.iter_mut().for_each(Process::ask_to_stop);
        for node in &mut self.nodes {
            node.terminate();
        }
    }
}

/// As [`Process::wait_listening`], for an async thread, which a signal can break off.
async fn listening(process: &mut Process, ports: &[&str], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !process.is_listening(ports)? {
        if Instant::now() >= deadline {
            return process.wait_listening(ports, Duration::ZERO);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
