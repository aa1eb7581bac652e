//! The newest glibc that a program asks for: it starts nowhere with an older one.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::setup::command;

/// That of Ubuntu 22.04, the oldest of the systems that packages are made for (Debian 12 and Raspberry Pi OS have 2.36).
pub const OLDEST_SYSTEM: Version = Version { major: 2, minor: 35 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// What `program` (or a library) asks for; an error if not all systems that packages are made for have it.
pub fn check(program: &Path) -> Result<Version> {
    // Reads files of any architecture.
    let symbols = command::run(Command::new("readelf").args(["--wide", "--dyn-syms"]).arg(program))?;
    judge(&symbols).with_context(|| format!("cannot package {}", program.display()))
}

fn judge(symbols: &str) -> Result<Version> {
    let versions = symbols.split("@GLIBC_").skip(1).filter_map(parse);
    let newest = versions.max().context("it asks for no glibc: no program of this kind")?;
    if newest > OLDEST_SYSTEM {
        bail!("it asks for glibc {newest}, Ubuntu 22.04 has {OLDEST_SYSTEM}; build it on Debian 12 or Ubuntu 22.04");
    }
    Ok(newest)
}

/// What stands before the next space: `2.35`, or `2.2.5`, whose last part does not matter here. `PRIVATE` is no version.
fn parse(rest: &str) -> Option<Version> {
    let mut parts = rest.split_whitespace().next()?.split('.');
    Some(Version { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `readelf --wide --dyn-syms` prints them.
    fn symbols(versions: &[&str]) -> String {
        let line = |version| format!("  7: 0000000000000000  0 FUNC    GLOBAL DEFAULT  UND read@{version} (2)\n");
        versions.iter().map(line).collect()
    }

    #[test]
    fn versions_are_numbers_and_not_text() {
        let cases: [(&[&str], &str); 3] = [
            (&["GLIBC_2.2.5", "GLIBC_2.29", "GLIBC_2.4"], "2.29"),
            (&["GLIBC_2.17", "GLIBCXX_3.4.29", "GCC_4.2.0", "GLIBC_PRIVATE"], "2.17"),
            (&["GLIBC_2.35"], "2.35"),
        ];
        for (versions, want) in cases {
            assert_eq!(judge(&symbols(versions)).unwrap().to_string(), want, "{versions:?}");
        }
    }

    #[test]
    fn a_glibc_that_an_older_system_lacks_is_refused_and_named() {
        for newer in ["GLIBC_2.36", "GLIBC_2.100", "GLIBC_3.0"] {
            let error = judge(&symbols(&["GLIBC_2.34", newer, "GLIBC_2.4"])).unwrap_err().to_string();
            assert!(error.contains(&newer.replace("GLIBC_", "glibc ")), "{error}");
        }
        for none in [symbols(&["GLIBCXX_3.4"]), String::new()] {
            assert!(judge(&none).unwrap_err().to_string().contains("no glibc"), "{none}");
        }
    }
}
