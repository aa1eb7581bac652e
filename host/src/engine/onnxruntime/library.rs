//! The runtime's shared library as a file: where it is, and what can be told of it without loading it.
//!
//! Loading it takes 14 MB that a node without stages has no use for. The headers of the file, some kilobytes, tell what is
//! wrong with most files that are no such library.

use super::{NAME, VERSION};
use crate::engine::EngineError;
use object::elf::{self, ET_DYN, SHT_DYNSYM};
use object::read::elf::{FileHeader, Sym as _};
use object::{Endianness, FileKind, ReadCache};
use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What the library must export.
const ENTRY: &[u8] = b"OrtGetApiBase";
/// How the version of an exported symbol begins: `VERS_1.24.4`.
const VERSIONS: &str = "VERS_";

/// A file that looks like the runtime.
#[derive(Clone, Debug)]
pub(super) struct Library {
    pub path: PathBuf,
    /// As `1.24.4`, where the file or its path says.
    pub version: Option<String>,
}

impl Library {
    /// Finds the library (the one named, else `ORT_DYLIB_PATH`, else the one beside this program, else the one in the cache),
    /// and looks at it without loading it.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where it is not there, cannot be read, is no shared library, is for another architecture,
    /// is not the runtime, or is too old.
    pub fn find(named: Option<PathBuf>) -> Result<Self, EngineError> {
        let path = named.map_or_else(usual, Ok)?;
        // As it is meant now: the loader looks for a bare name in folders of its own.
        let path = std::path::absolute(&path).unwrap_or(path);
        let unavailable = |cause: String| EngineError::Unavailable(format!("{} {cause}", path.display()));
        if !path.is_file() {
            return Err(unavailable("does not exist; give --ort-lib the path of libonnxruntime.so".to_owned()));
        }
        let version = inspect(&path).map_err(unavailable)?.or_else(|| in_path(&path));
        match version.as_deref().and_then(minor) {
            Some(minor) if minor < ort::MINOR_VERSION => {
                let (version, least) = (version.unwrap_or_default(), ort::MINOR_VERSION);
                Err(unavailable(format!("is onnxruntime {version}; 1.{least} or a later one is needed")))
            }
            _ => Ok(Self { path, version }),
        }
    }
}

/// Where the library is if nobody says.
fn usual() -> Result<PathBuf, EngineError> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("libonnxruntime.so")));
    // First: a package's program needs no cache, which there may be no place for.
    if let Some(beside) = beside.filter(|path| path.is_file()) {
        return Ok(beside);
    }
    let cached = defer_models::Cache::from_env()
        .map(|cache| cache.root().join(NAME).join(VERSION).join("libonnxruntime.so"))
        .map_err(|error| EngineError::Unavailable(error.to_string()))?;
    if !cached.is_file() {
        return Err(EngineError::Unavailable(format!(
            "the onnxruntime library is not at {}; run `cargo xtask setup`, or name it with --ort-lib",
            cached.display()
        )));
    }
    Ok(cached)
}

/// The version that the file says it has, if any; else why it is not the runtime, to be read behind its path.
fn inspect(path: &Path) -> Result<Option<String>, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let data = ReadCache::new(file);
    let looked = match FileKind::parse(&data) {
        Ok(FileKind::Elf32) => look::<elf::FileHeader32<Endianness>>(&data),
        Ok(FileKind::Elf64) => look::<elf::FileHeader64<Endianness>>(&data),
        _ => return Err("is no shared library".to_owned()),
    };
    looked.map_err(|error| format!("is damaged: {error}"))?
}

/// The same of a file of one word size; the outer error is one of reading it.
fn look<Elf: FileHeader<Endian = Endianness>>(
    data: &ReadCache<File>,
) -> object::read::Result<Result<Option<String>, String>> {
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    if header.e_type(endian) != ET_DYN {
        return Ok(Err("is no shared library".to_owned()));
    }
    if machine().is_some_and(|machine| machine != header.e_machine(endian)) {
        return Ok(Err(format!("is for another architecture than this program, {}", env::consts::ARCH)));
    }
    let sections = header.sections(endian, data)?;
    if sections.is_empty() {
        // Stripped of what tells: loading it will.
        return Ok(Ok(None));
    }
    let symbols = sections.symbols(endian, data, SHT_DYNSYM)?;
    let is_entry = |symbol: &Elf::Sym| {
        !symbol.is_undefined(endian) && symbol.name(endian, symbols.strings()).is_ok_and(|name| name == ENTRY)
    };
    let Some((index, _)) = symbols.enumerate().find(|(_, symbol)| is_entry(symbol)) else {
        return Ok(Err(format!("does not export {}; it is not onnxruntime", String::from_utf8_lossy(ENTRY))));
    };
    let Some(versions) = sections.versions(endian, data)? else { return Ok(Ok(None)) };
    let version = versions.version(versions.version_index(endian, index))?;
    let name = version.map(|version| String::from_utf8_lossy(version.name()).into_owned());
    Ok(Ok(name.and_then(|name| name.strip_prefix(VERSIONS).map(ToOwned::to_owned))))
}

/// What the header of a file for this program's architecture says.
fn machine() -> Option<u16> {
    match env::consts::ARCH {
        "x86_64" => Some(elf::EM_X86_64),
        "aarch64" => Some(elf::EM_AARCH64),
        "arm" => Some(elf::EM_ARM),
        _ => None,
    }
}

/// The version that names of files and folders of releases hold.
fn in_path(path: &Path) -> Option<String> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let real = real.to_string_lossy();
    let is_version = |part: &&str| part.split('.').count() == 3 && part.split('.').all(|n| n.parse::<u32>().is_ok());
    let mut parts = real.split('/').map(|part| part.trim_start_matches("libonnxruntime.so."));
    parts.rfind(is_version).map(ToOwned::to_owned)
}

fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_paths_where_they_stand() {
        for (path, want) in [
            ("/opt/onnxruntime/1.24.4/libonnxruntime.so", Some("1.24.4")),
            ("/usr/lib/libonnxruntime.so.1.25.0", Some("1.25.0")),
            ("/usr/lib/libonnxruntime.so.1", None),
            ("/usr/lib/libonnxruntime.so", None),
        ] {
            assert_eq!(in_path(Path::new(path)).as_deref(), want, "{path}");
        }
        assert_eq!((minor("1.24.4"), minor("nightly")), (Some(24), None));
    }

    /// Replaces what stands for `from` in `bytes`.
    fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
        let at = bytes.windows(from.len()).position(|window| window == from).expect("the library holds it");
        bytes[at..at + to.len()].copy_from_slice(to);
    }

    #[test]
    fn the_file_tells_what_it_is() {
        let real = Library::find(None).expect("`cargo xtask setup` has installed the engine");
        assert!(real.version.as_deref().and_then(minor) >= Some(ort::MINOR_VERSION), "{real:?}");
        let version = format!("{VERSIONS}{}\0", real.version.unwrap_or_default());
        let bytes = std::fs::read(&real.path).expect("it can be read");
        let dir = tempfile::tempdir().expect("a folder");
        type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
        let cases: [(&str, Change<'_>); 4] = [
            ("is onnxruntime 1.20.1; 1.", &|bytes| replace(bytes, version.as_bytes(), b"VERS_1.20.1\0")),
            ("does not export OrtGetApiBase", &|bytes| replace(bytes, ENTRY, b"XrtGetApiBase")),
            ("is for another architecture", &|bytes| bytes[18] ^= 1),
            ("is damaged", &|bytes| bytes.truncate(1 << 20)),
        ];
        for (want, change) in cases {
            let mut altered = bytes.clone();
            change(&mut altered);
            let path = dir.path().join("libonnxruntime.so");
            std::fs::write(&path, altered).expect("a file");
            let error = Library::find(Some(path)).expect_err(want).to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }

    #[test]
    fn what_is_no_runtime_is_told_without_loading_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = dir.path().join("text.so");
        std::fs::write(&text, "no library at all, but long enough for a header").expect("a file");
        let short = dir.path().join("short.so");
        std::fs::write(&short, b"\x7fELF\x02\x01\x01").expect("a file");
        let program = env::current_exe().expect("this test is a file");
        for (path, want) in [
            (text, "is no shared library"),
            (short, "is no shared library"),
            (dir.path().to_owned(), "does not exist"),
            (dir.path().join("absent.so"), "does not exist"),
            // It may be linked in a way that makes it a shared object as well.
            (program, "is no"),
        ] {
            let error = Library::find(Some(path.clone())).expect_err("no runtime").to_string();
            assert!(error.contains(want) && error.contains(&path.display().to_string()), "{error}");
        }
    }
}
