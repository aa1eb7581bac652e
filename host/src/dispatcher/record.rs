//! What a dispatcher writes down under `--state-dir`, so that its next life goes on where this one ended.
//!
//! The one moment in which a new generation counts is when the file that names it as the active one is synced and
//! renamed into place. One that was prepared and is not in the file was never used, and is dropped.

use super::deploy::Deployment;
use super::fleet::Member;
use crate::artifact::Digest;
use crate::durable;
use crate::pipeline::Pipeline;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const FORMAT: u32 = 1;
/// Earlier lives whose generations may still be on some node.
const LIVES: usize = 16;

/// A dispatcher's record; without a folder it is kept in memory alone.
#[derive(Debug)]
pub struct Record {
    path: Option<PathBuf>,
    noted: Mutex<Noted>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Noted {
    format: u32,
    /// Of this life and those before, latest last.
    incarnations: Vec<u64>,
    active: Option<Active>,
}

/// The generation that is active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Active {
    pub generation: u64,
    pub pipeline: Pipeline,
    /// The nodes of each stage.
    pub nodes: Vec<Home>,
    /// What `--pipeline` named when this was first deployed: a dispatcher that is started with another one is meant to
    /// deploy that.
    pub given: Vec<Digest>,
}

/// The URLs of a stage's nodes. Records of before there were replicas have one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Home {
    One(String),
    Several(Vec<String>),
}

impl Home {
    fn new(nodes: &[Arc<Member>]) -> Self {
        match nodes {
            [only] => Self::One(only.url().to_string()),
            several => Self::Several(several.iter().map(|node| node.url().to_string()).collect()),
        }
    }

    pub fn urls(&self) -> &[String] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Several(urls) => urls,
        }
    }
}

impl Record {
    /// Opens the record in `folder`, where there is one.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else { return Ok(Self { path: None, noted: Mutex::default() }) };
        let path = folder.join("dispatcher.json");
        let noted = match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("{} is damaged; remove it to deploy anew", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Noted::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if !noted.incarnations.is_empty() && noted.format != FORMAT {
            anyhow::bail!("{} has format {}, this version reads {FORMAT}", path.display(), noted.format);
        }
        Ok(Self { path: Some(path), noted: Mutex::new(noted) })
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a life; gives the incarnations of those before.
    pub fn begin(&self, incarnation: u64) -> Result<Vec<u64>> {
        let mut noted = self.noted();
        let before = noted.incarnations.clone();
        noted.format = FORMAT;
        noted.incarnations.push(incarnation);
        let excess = noted.incarnations.len().saturating_sub(LIVES);
        noted.incarnations.drain(..excess);
        self.write(&noted)?;
        Ok(before)
    }

    pub fn active(&self) -> Option<Active> {
        self.noted().active.clone()
    }

    /// Makes `deployment` the active one. It is, once this returns; where it fails, nothing has changed.
    pub fn activate(&self, deployment: &Deployment, given: &[Digest]) -> Result<()> {
        let active = Active {
            generation: deployment.generation,
            pipeline: Pipeline::clone(&deployment.pipeline),
            nodes: deployment.homes().iter().map(|home| Home::new(home)).collect(),
            given: given.to_vec(),
        };
        let mut noted = self.noted();
        let next = Noted { active: Some(active), ..noted.clone() };
        self.write(&next)?;
        *noted = next;
        Ok(())
    }

    fn write(&self, noted: &Noted) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        durable::write(path, noted).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::Home;

    #[test]
    fn homes_of_before_there_were_replicas_can_be_read() {
        let homes: Vec<Home> = serde_json::from_str(r#"["http://a:1/", ["http://b:1/", "http://c:1/"]]"#).unwrap();
        let urls: Vec<&[String]> = homes.iter().map(Home::urls).collect();
        assert_eq!(urls, [&["http://a:1/"][..], &["http://b:1/", "http://c:1/"]]);
        assert_eq!(serde_json::to_string(&homes[0]).unwrap(), "\"http://a:1/\"", "earlier versions can read it");
    }
}
