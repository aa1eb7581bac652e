//! Reads a stage artifact from a mapped file: nothing of the weights is copied, and only touched pages are read.
#![allow(unsafe_code)] // the file map

use super::{
    ALIGN, ArtifactError, FORMAT, GRAPH, MANIFEST, MAX_COMPONENT, MAX_GRAPH, MAX_MANIFEST, Manifest, WEIGHTS, graph,
};
use defer_partition::byte_len;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use wasmparser::{Chunk, Parser, Payload};

/// A mapped artifact whose sections have been found and checked.
#[derive(Debug)]
pub struct Artifact {
    path: PathBuf,
    map: Mmap,
    component: Range<usize>,
    graph: Range<usize>,
    /// From the first aligned byte.
    weights: Range<usize>,
    pub manifest: Manifest,
}

impl Artifact {
    /// Maps `path`. The file must not be truncated while the result lives: stores never do that, they unlink.
    ///
    /// # Errors
    /// When it is no component, lacks a section, or its manifest contradicts it.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let io = |cause| ArtifactError::Io { path: path.to_owned(), cause };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the file is opened read-only, and whoever puts files where this process maps them (the store, and
        // build-stages) renames whole files into place and only unlinks them: a mapped file never shrinks or changes.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let sections = Sections::find(&map)?;
        sections.check_sizes()?;
        let manifest: Manifest = serde_json::from_slice(&map[sections.manifest.clone()])
            .map_err(|error| ArtifactError::Malformed { section: MANIFEST, cause: error.to_string() })?;
        if manifest.format != FORMAT {
            return Err(ArtifactError::Format { got: manifest.format });
        }
        let start = sections.weights.start.next_multiple_of(ALIGN as usize).min(sections.weights.end);
        let weights = start..sections.weights.end;
        let artifact = Self {
            path: path.to_owned(),
            component: 0..sections.component_end,
            graph: sections.graph,
            weights,
            manifest,
            map,
        };
        artifact.check()?;
        Ok(artifact)
    }

    fn check(&self) -> Result<(), ArtifactError> {
        let wrong = |cause: String| Err(ArtifactError::Malformed { section: MANIFEST, cause });
        let Manifest { graph_bytes, weights_bytes, index, count, .. } = self.manifest;
        if graph_bytes != self.graph.len() as u64 {
            return wrong(format!("it declares a graph of {graph_bytes} bytes, the file has {}", self.graph.len()));
        }
        if weights_bytes != self.weights.len() as u64 {
            return wrong(format!("it declares {weights_bytes} bytes of weights, the file has {}", self.weights.len()));
        }
        if index >= count {
            return wrong(format!("it is stage {index} of {count}"));
        }
        let Manifest { inputs, warm_up, .. } = &self.manifest;
        if warm_up.len() != inputs.len() {
            return wrong(format!("{} warm-up shapes for {} inputs", warm_up.len(), inputs.len()));
        }
        for (input, shape) in inputs.iter().zip(warm_up) {
            if !input.admits(shape) || byte_len(input.dtype, shape).is_none() {
                return wrong(format!("warm-up shape {shape:?} does not fit input {input}"));
            }
        }
        Ok(())
    }

    /// The component alone, as `wasmtime` wants it.
    pub fn component(&self) -> &[u8] {
        &self.map[self.component.clone()]
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ONNX slice, checked, with its external initializers pointing at this file by name and absolute offset.
    ///
    /// # Errors
    /// When an initializer points anywhere but into this file's own weights.
    pub fn model(&self) -> Result<Vec<u8>, ArtifactError> {
        let file = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let weights = self.weights.start as u64..self.weights.end as u64;
        graph::relocate(self.map[self.graph.clone()].to_vec().into(), file, weights)
    }
}

struct Sections {
    component_end: usize,
    manifest: Range<usize>,
    graph: Range<usize>,
    weights: Range<usize>,
}

impl Sections {
    /// Whatever is parsed, decoded or compiled has a limit; weights are only mapped.
    fn check_sizes(&self) -> Result<(), ArtifactError> {
        for (part, bytes, limit) in [
            ("component", self.component_end, MAX_COMPONENT),
            (MANIFEST, self.manifest.len(), MAX_MANIFEST),
            (GRAPH, self.graph.len(), MAX_GRAPH),
        ] {
            let bytes = bytes as u64;
            if bytes > limit {
                return Err(ArtifactError::TooLarge { part, bytes, limit });
            }
        }
        Ok(())
    }

    /// Walks the top level of the file, skipping what is nested.
    fn find(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let no_component = |cause: String| ArtifactError::NoComponent(cause);
        if !Parser::is_component(bytes) {
            let cause = if Parser::is_core_wasm(bytes) { "it is a core module" } else { "it is not WebAssembly" };
            return Err(no_component(cause.to_owned()));
        }
        let (mut manifest, mut graph, mut weights, mut component_end) = (None, None, None, None);
        let mut parser = Parser::new(0);
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            let chunk = parser.parse(&bytes[at..], true).map_err(|error| no_component(error.to_string()))?;
            let Chunk::Parsed { consumed, payload } = chunk else {
                return Err(no_component("it ends early".to_owned()));
            };
            at += consumed;
            match payload {
                Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                    at = unchecked_range.end;
                    if at > bytes.len() {
                        return Err(no_component("it ends early".to_owned()));
                    }
                }
                Payload::CustomSection(section) => {
                    let slot = match section.name() {
                        MANIFEST => &mut manifest,
                        GRAPH => &mut graph,
                        WEIGHTS => &mut weights,
                        _ => continue,
                    };
                    component_end.get_or_insert(start);
                    let range = section.data_offset()..section.data_offset() + section.data().len();
                    if slot.replace(range).is_some() {
                        return Err(no_component(format!("it has two {} sections", section.name())));
                    }
                }
                Payload::End(_) | Payload::Version { .. } => {}
                _ if component_end.is_some() => {
                    return Err(no_component(format!("something follows its {MANIFEST} section")));
                }
                _ => {}
            }
        }
        let manifest = manifest.ok_or(ArtifactError::Missing(MANIFEST))?;
        let graph = graph.ok_or(ArtifactError::Missing(GRAPH))?;
        let weights = weights.ok_or(ArtifactError::Missing(WEIGHTS))?;
        let component_end = component_end.ok_or(ArtifactError::Missing(MANIFEST))?;
        Ok(Self { component_end, manifest, graph, weights })
    }
}
