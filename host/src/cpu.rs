//! The processor that this process runs on: its kind, and who goes first.

use rustix::process::nice;
use std::fs;

/// How far: a ninth of the processor time of a thread that does not stand back, where both want the same processor.
const BACK: i32 = 10;

/// Its model as the system tells it, such as "AMD EPYC" or "Raspberry Pi 4 Model B Rev 1.4"; `None` where nothing does.
pub fn model() -> Option<String> {
    model_in(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn model_in(cpuinfo: &str) -> Option<String> {
    // x86 has a "model name" for each core; ARM boards have a "Model" at the end, others nothing.
    ["model name", "Model"].iter().find_map(|name| {
        let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(key, _)| key.trim() == *name).map(|(_, value)| value.trim());
        values.find(|value| !value.is_empty()).map(str::to_owned)
    })
}

/// Lowers the calling thread's priority, and that of threads which it starts, for good: those that answer requests go first.
pub fn stand_back() {
    if let Err(error) = nice(BACK) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::model_in;

    #[test]
    fn pcs_name_the_processor_and_boards_themselves() {
        let pc = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(model_in(pc).as_deref(), Some("AMD EPYC"));
        let board = "processor\t: 0\nCPU part\t: 0xd08\n\nSerial\t\t: 1\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n";
        assert_eq!(model_in(board).as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
        assert_eq!(model_in("processor\t: 0\nmodel name\t:\n"), None);
    }
}
