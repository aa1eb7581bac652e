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
    /// The life that made it active: its nodes know it as theirs.
    #[serde(default)]
    activated_by: Option<u64>,
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

    /// Incarnations of the lives before.
    pub fn lives(&self) -> Vec<u64> {
        self.noted().incarnations.clone()
    }

    /// Begins a life, before anything is asked of nodes in its name.
    pub fn begin(&self, incarnation: u64) -> Result<()> {
        let mut noted = self.noted();
        let mut next = Noted { format: FORMAT, ..noted.clone() };
        next.incarnations.push(incarnation);
        while next.incarnations.len() > LIVES
            && let Some(oldest) = next.incarnations.iter().position(|life| Some(*life) != next.activated_by)
        {
            next.incarnations.remove(oldest);
        }
        self.write(&next)?;
        *noted = next;
        Ok(())
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
        let activated_by = noted.incarnations.last().copied();
        let next = Noted { active: Some(active), activated_by, ..noted.clone() };
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
    use super::{Home, LIVES, Record};

    #[test]
    fn homes_of_before_there_were_replicas_can_be_read() {
        let homes: Vec<Home> = serde_json::from_str(r#"["http://a:1/", ["http://b:1/", "http://c:1/"]]"#).unwrap();
        let urls: Vec<&[String]> = homes.iter().map(Home::urls).collect();
        assert_eq!(urls, [&["http://a:1/"][..], &["http://b:1/", "http://c:1/"]]);
        assert_eq!(serde_json::to_string(&homes[0]).unwrap(), "\"http://a:1/\"", "earlier versions can read it");
    }

    #[test]
    fn the_life_whose_generation_is_active_is_remembered_however_many_came_to_nothing() {
        let record = Record::open(None).unwrap();
        record.begin(7).unwrap();
        record.noted().activated_by = Some(7);
        for life in 100..100 + 2 * LIVES as u64 {
            record.begin(life).unwrap();
        }
        let lives = record.lives();
        assert_eq!((lives.len(), lives[0], lives[LIVES - 1]), (LIVES, 7, 99 + 2 * LIVES as u64));
    }
}
