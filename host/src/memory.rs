//! How much memory there is for this process: what the machine has, and what the control groups that it is in, and those
//! around them, leave of it.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that could be had without swapping; `None` where nothing says.
pub fn available() -> Option<u64> {
    available_under(Path::new("/"))
}

/// Bytes that this process may hope for, had it the machine to itself: the machine's, or the least limit of its control
/// groups; `None` where nothing says.
pub fn total() -> Option<u64> {
    total_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    groups(root).iter().filter_map(Group::free).chain(machine(root, "MemAvailable:")).min()
}

fn total_under(root: &Path) -> Option<u64> {
    groups(root).iter().filter_map(Group::limit).chain(machine(root, "MemTotal:")).min()
}

/// A size in the machine's own account, in bytes.
fn machine(root: &Path, name: &str) -> Option<u64> {
    field(&root.join("proc/meminfo"), name).map(|kib| kib.saturating_mul(1024))
}

/// Names of the files in a memory control group's folder.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Field of `memory.stat`: bytes of files that were read and that nobody needs.
    inactive: &'static str,
}

const VERSION_1: Files =
    Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", inactive: "total_inactive_file" };
const VERSION_2: Files = Files { limit: "memory.max", used: "memory.current", inactive: "inactive_file" };

/// A control group that counts memory.
struct Group {
    folder: PathBuf,
    files: &'static Files,
}

impl Group {
    fn limit(&self) -> Option<u64> {
        // "max" is no number: no limit.
        number_in(&self.folder.join(self.files.limit))
    }

    fn free(&self) -> Option<u64> {
        let limit = self.limit()?;
        // Files that were read are counted as used until somebody needs the room.
        let files = field(&self.folder.join("memory.stat"), self.files.inactive).unwrap_or(0);
        let used = number_in(&self.folder.join(self.files.used))?.saturating_sub(files);
        Some(limit.saturating_sub(used))
    }
}

/// The groups that this process is in, and those around them.
fn groups(root: &Path) -> Vec<Group> {
    let lines = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    lines.lines().flat_map(|line| groups_of(&root.join("sys/fs/cgroup"), line)).collect()
}

/// The group of one line of `/proc/self/cgroup` (`number:controllers:path`), and those around it.
fn groups_of(mount: &Path, line: &str) -> Vec<Group> {
    let mut parts = line.splitn(3, ':');
    let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let of_version_2 = number == "0" && controllers.is_empty();
    let (base, files) = match of_version_2 {
        true => (mount.to_owned(), &VERSION_2),
        false if controllers.split(',').any(|controller| controller == "memory") => (mount.join("memory"), &VERSION_1),
        false => return Vec::new(),
    };
    let group = base.join(path.trim_start_matches('/'));
    // In a container the path may be that of the host, where only the mount itself is there.
    let folders = group.ancestors().take_while(|folder| folder.starts_with(&base));
    folders.map(|folder| Group { folder: folder.to_owned(), files }).collect()
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
    use super::{available, available_under, total, total_under};
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
        let both = || (available_under(root), total_under(root));
        assert_eq!(both(), (None, None));
        write(root, "proc/meminfo", "MemTotal: 900 kB\nMemAvailable:     500 kB\n");
        assert_eq!(both(), (Some(512_000), Some(921_600)));
        // Version 1: 100,000 less 60,000, of which 10,000 are files.
        write(root, "proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a/b\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "100000\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "60000\n");
        write(root, "sys/fs/cgroup/memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 10000\n");
        assert_eq!(both(), (Some(50_000), Some(100_000)));
        // Version 2: the inner group has no limit, the outer one leaves 30,000.
        write(root, "proc/self/cgroup", "0::/outer/inner\n");
        write(root, "sys/fs/cgroup/outer/inner/memory.max", "max\n");
        write(root, "sys/fs/cgroup/outer/inner/memory.current", "5000\n");
        write(root, "sys/fs/cgroup/outer/memory.max", "40000\n");
        write(root, "sys/fs/cgroup/outer/memory.current", "10000\n");
        assert_eq!(both(), (Some(30_000), Some(40_000)));
        // A path that is not mounted here.
        write(root, "proc/self/cgroup", "0::/somewhere/else\n");
        assert_eq!(both(), (Some(512_000), Some(921_600)));
        // In a container the mount is the group itself.
        write(root, "sys/fs/cgroup/memory.max", "300000\n");
        write(root, "sys/fs/cgroup/memory.current", "100000\n");
        assert_eq!(both(), (Some(200_000), Some(300_000)));
    }

    #[test]
    fn this_machine_says_what_it_has() {
        let (available, total) = (available(), total());
        assert!(available.is_some_and(|bytes| bytes > 1 << 20) && total >= available, "{available:?} {total:?}");
    }
}
