//! File descriptors: every connection takes one, and so do artifacts and engines.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the soft limit is raised to at most: some programs that a child might be walk through all numbers up to it.
const ENOUGH: u64 = 65_536;
/// Descriptors that are no connections of clients: artifacts, libraries, links to other nodes, logs.
const OTHERS: u64 = 256;

/// Raises this process's soft limit of open files to the hard one, and gives how many of `connections` each of `ports`
/// may then have: all of them, unless the hard limit is too low.
pub fn make_room(ports: usize, connections: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let want = maximum.unwrap_or(ENOUGH).min(ENOUGH).max(current.unwrap_or(ENOUGH));
    if current.is_some_and(|current| current < want)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(want), maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let each = share(open, ports, connections);
    if each < connections {
        tracing::warn!(
            open_files = open,
            connections = each,
            "few files may be open: fewer connections at once (ulimit -n)"
        );
    }
    each
}

fn share(open: u64, ports: usize, connections: usize) -> usize {
    let each = open.saturating_sub(OTHERS) / ports.max(1) as u64;
    usize::try_from(each).unwrap_or(usize::MAX).clamp(1, connections.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_is_shared_and_a_high_one_changes_nothing() {
        for (open, ports, connections, want) in
            [(1 << 20, 2, 1024, 1024), (1024, 2, 1024, 384), (4096, 2, 1024, 1024), (100, 2, 1024, 1), (0, 0, 0, 1)]
        {
            assert_eq!(share(open, ports, connections), want, "{open} files");
        }
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        make_room(2, 10);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert!(current >= maximum.map(|maximum| maximum.min(ENOUGH)), "{current:?} of {maximum:?}");
    }
}
