//! `profile.json`: what a network's atoms and the cuts between them cost on one machine.
//!
//! Times are milliseconds on the machine of the profile, whose speed is 1. Fields that this version does not know are
//! ignored.

use serde::{Deserialize, Deserializer, Serialize};
use std::path::{Path, PathBuf};

/// Version of the file's layout.
pub const FORMAT: u32 = 1;

/// Most milliseconds that a profile's times may sum to, 30,000 years: whatever is computed from them stays finite.
const LONGEST_MS: f64 = 1e15;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub format: u32,
    /// Name of the network.
    pub model: String,
    /// In the order in which the network runs them.
    pub atoms: Vec<AtomCost>,
    /// Where it can be cut; an atom that has none cannot be parted from the next.
    pub cuts: Vec<CutCost>,
    /// Bytes of a request, from the dispatcher to the first stage.
    pub input_bytes: u64,
    /// Bytes of an answer, from the last stage to the dispatcher.
    pub output_bytes: u64,
    /// The tensors that cross cuts, one by one. With it, a stage that only hands a tensor on neither decodes nor encodes
    /// it; without, whatever crosses a cut is encoded before it and decoded behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorCost>,
    /// Stages that were timed as a whole: that time counts instead of the sum of their atoms and boundaries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunCost>,
}

/// Nodes that always run on one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AtomCost {
    pub name: String,
    /// In the middle of a stage.
    pub compute_ms: f64,
    pub weights_bytes: u64,
    /// Most memory that its activations take at once.
    #[serde(default)]
    pub activation_peak_bytes: u64,
}

/// A place to cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CutCost {
    /// The atom before it.
    pub after: usize,
    /// Names of what crosses it. In the file each may also be an object with a `name`.
    #[serde(default, deserialize_with = "names")]
    pub tensors: Vec<String>,
    /// Ways to send it, all tensors together.
    pub codecs: Vec<CodecCost>,
    /// What cutting here costs the engine; each of the two stages beside it bears half.
    #[serde(default)]
    pub boundary_ms: f64,
}

/// What a codec makes of tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CodecCost {
    pub name: String,
    pub bytes: u64,
    pub encode_ms: f64,
    pub decode_ms: f64,
}

/// A tensor that crosses cuts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorCost {
    pub name: String,
    /// The atom that makes it; none for an input of the network.
    #[serde(default)]
    pub made: Option<usize>,
    /// The atoms that read it. Who reads an output of the network, the dispatcher, is not among them.
    #[serde(default)]
    pub used: Vec<usize>,
    /// The same codecs as the cuts that it crosses have.
    pub codecs: Vec<CodecCost>,
}

/// A stage that was timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunCost {
    /// Its first and its last atom.
    pub atoms: [usize; 2],
    pub compute_ms: f64,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("cannot read the profile {path}: {cause}", path = path.display())]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("the profile {path} is malformed: {cause}", path = path.display())]
    Malformed { path: PathBuf, cause: String },
    #[error("the profile {path} has format {got}, this version reads {FORMAT}; profile the network again", path = path.display())]
    Format { path: PathBuf, got: u64 },
    #[error("the profile {path} cannot be used: {cause}; profile the network again", path = path.display())]
    Invalid { path: PathBuf, cause: String },
}

impl Profile {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read(path).map_err(|cause| ProfileError::Read { path: path.to_owned(), cause })?;
        Self::parse(&text, path)
    }

    /// Reads and checks the text of a file; `path` is for errors.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, ProfileError> {
        let malformed = |cause: String| ProfileError::Malformed { path: path.to_owned(), cause };
        // The format first: another one may differ in everything else.
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(got) => return Err(ProfileError::Format { path: path.to_owned(), got }),
            None => return Err(malformed("it has no \"format\"".to_owned())),
        }
        // From the text again, for the line in the message.
        let mut profile: Self = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        profile.cuts.sort_by_key(|cut| cut.after);
        profile.check().map_err(|cause| ProfileError::Invalid { path: path.to_owned(), cause })?;
        Ok(profile)
    }

    /// Writes it, as a whole or not at all.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(part, path)
    }

    /// What is wrong with it; cuts must ascend.
    pub fn check(&self) -> Result<(), String> {
        let atoms = self.atoms.len();
        if atoms == 0 {
            return Err("it has no atoms".to_owned());
        }
        for (index, atom) in self.atoms.iter().enumerate() {
            duration(atom.compute_ms, || format!("compute_ms of atom {index} \"{}\"", atom.name))?;
        }
        if let Some(pair) = self.cuts.windows(2).find(|pair| pair[0].after >= pair[1].after) {
            return Err(format!("two cuts are after atom {}, or cuts do not ascend", pair[1].after));
        }
        for cut in &self.cuts {
            let at = cut.after;
            if at + 1 >= atoms {
                return Err(format!("there is no cut after atom {at}: the last atom is {}", atoms - 1));
            }
            duration(cut.boundary_ms, || format!("boundary_ms of the cut after atom {at}"))?;
            check_codecs(&cut.codecs, &format!("the cut after atom {at}"))?;
        }
        for tensor in &self.tensors {
            let name = &tensor.name;
            if let Some(atom) = tensor.used.iter().chain(&tensor.made).find(|atom| **atom >= atoms) {
                return Err(format!("tensor \"{name}\" names atom {atom}, the last one is {}", atoms - 1));
            }
            check_codecs(&tensor.codecs, &format!("tensor \"{name}\""))?;
        }
        for run in &self.runs {
            let [first, last] = run.atoms;
            if first > last || last >= atoms {
                return Err(format!("a run has atoms {first} to {last}, the last atom is {}", atoms - 1));
            }
            duration(run.compute_ms, || format!("compute_ms of the run of atoms {first} to {last}"))?;
        }
        self.check_sums()?;
        self.check_table()
    }

    /// Whatever stages are made of it, their sums must be numbers.
    fn check_sums(&self) -> Result<(), String> {
        if self.atoms.iter().try_fold(0, |sum: u64, atom| sum.checked_add(atom.weights_bytes)).is_none() {
            return Err(format!("weights_bytes of its atoms sum to more than {} bytes", u64::MAX));
        }
        let codecs = self.cuts.iter().map(|cut| &cut.codecs).chain(self.tensors.iter().map(|tensor| &tensor.codecs));
        let coding: f64 = codecs.flatten().map(|codec| codec.encode_ms + codec.decode_ms).sum();
        let atoms: f64 = self.atoms.iter().map(|atom| atom.compute_ms).sum();
        let cuts: f64 = self.cuts.iter().map(|cut| cut.boundary_ms).sum();
        let runs: f64 = self.runs.iter().map(|run| run.compute_ms).sum();
        let all = coding + atoms + cuts + runs;
        match all <= LONGEST_MS {
            true => Ok(()),
            false => Err(format!("its times sum to {all:e} ms, more than {LONGEST_MS:e}")),
        }
    }

    /// A table of tensors must know every tensor that crosses a cut, by every codec there.
    fn check_table(&self) -> Result<(), String> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        for cut in &self.cuts {
            for name in &cut.tensors {
                let at = cut.after;
                let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == *name) else {
                    return Err(format!("tensor \"{name}\" of the cut after atom {at} is not in its table of tensors"));
                };
                let known = |codec: &&CodecCost| tensor.codecs.iter().any(|of| of.name == codec.name);
                if let Some(codec) = cut.codecs.iter().find(|codec| !known(codec)) {
                    return Err(format!("tensor \"{name}\" has no figures for codec {}", codec.name));
                }
                if tensor.made.is_some_and(|made| made > at) {
                    return Err(format!("tensor \"{name}\" crosses the cut after atom {at} and is made later"));
                }
            }
        }
        Ok(())
    }
}

fn check_codecs(codecs: &[CodecCost], of: &str) -> Result<(), String> {
    if codecs.is_empty() {
        return Err(format!("{of} has no codecs"));
    }
    for (index, codec) in codecs.iter().enumerate() {
        let name = &codec.name;
        if codecs[..index].iter().any(|other| other.name == *name) {
            return Err(format!("{of} has codec {name} twice"));
        }
        duration(codec.encode_ms, || format!("encode_ms of {name} at {of}"))?;
        duration(codec.decode_ms, || format!("decode_ms of {name} at {of}"))?;
    }
    Ok(())
}

fn duration(ms: f64, what: impl Fn() -> String) -> Result<(), String> {
    match ms.is_finite() && ms >= 0.0 {
        true => Ok(()),
        false => Err(format!("{} is {ms}, which is no duration", what())),
    }
}

/// Strings, or objects with a `name`.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Named {
        Plain(String),
        Object { name: String },
    }
    let list = Vec::<Named>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|(Named::Plain(name) | Named::Object { name })| name).collect())
}
