//! How much memory a stage may still take: what the machine has left, and what the control groups that this process is in
//! leave of it.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that could be had without swapping; `None` where nothing says.
pub fn available() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let machine = field(&root.join("proc/meminfo"), "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let free = groups.lines().filter_map(|line| free_in(&root.join("sys/fs/cgroup"), line));
    free.chain(machine).min()
}

/// What the group of one line of `/proc/self/cgroup` (`number:controllers:path`) and those around it leave.
fn free_in(mount: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let of_version_2 = number == "0" && controllers.is_empty();
    let (base, limit, used, inactive) = match of_version_2 {
        true => (mount.to_owned(), "memory.max", "memory.current", "inactive_file"),
        false if controllers.split(',').any(|controller| controller == "memory") => {
            (mount.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        }
        false => return None,
    };
    let group = base.join(path.trim_start_matches('/'));
    // In a container the path may be that of the host, where only the mount itself is there.
    let groups = group.ancestors().take_while(|group| group.starts_with(&base)).map(Path::to_owned);
    let groups: Vec<PathBuf> = groups.collect();
    let free = |group: &PathBuf| {
        // "max" is no number: no limit.
        let limit = number_in(&group.join(limit))?;
        // Files that were read are counted as used until somebody needs the room.
        let files = field(&group.join("memory.stat"), inactive).unwrap_or(0);
        let used = number_in(&group.join(used))?.saturating_sub(files);
        Some(limit.saturating_sub(used))
    };
    groups.iter().filter_map(free).min()
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind `name` in a file of lines.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::{available, available_under};
    use std::fs;
    use std::path::Path;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    #[test]
    fn the_smallest_of_all_limits_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        assert_eq!(available_under(root), None);
        write(root, "proc/meminfo", "MemTotal: 900 kB\nMemAvailable:     500 kB\n");
        assert_eq!(available_under(root), Some(512_000));
        // Version 1: 100,000 less 60,000, of which 10,000 are files.
        write(root, "proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a/b\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "100000\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "60000\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 10000\n");
        assert_eq!(available_under(root), Some(50_000));
        // Version 2: the inner group has no limit, the outer one leaves 30,000.
        write(root, "proc/self/cgroup", "0::/outer/inner\n");
        write(root, "sys/fs/cgroup/outer/inner/memory.max", "max\n");
        write(root, "sys/fs/cgroup/outer/inner/memory.current", "5000\n");
        write(root, "sys/fs/cgroup/outer/memory.max", "40000\n");
        write(root, "sys/fs/cgroup/outer/memory.current", "10000\n");
        assert_eq!(available_under(root), Some(30_000));
        // A path that is not mounted here.
        write(root, "proc/self/cgroup", "0::/somewhere/else\n");
        assert_eq!(available_under(root), Some(512_000));
    }

    #[test]
    fn this_machine_says_what_it_has() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
