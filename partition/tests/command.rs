//! `defer-plan`, as a user runs it: what it prints, and with which exit status it ends.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

const PROFILE: &str = r#"{"format":1,"model":"net","atoms":[
 {"name":"a","compute_ms":4,"weights_bytes":1000000,"activation_peak_bytes":10},
 {"name":"b","compute_ms":2,"weights_bytes":1000000,"activation_peak_bytes":10},
 {"name":"c","compute_ms":6,"weights_bytes":1000000,"activation_peak_bytes":10}],
 "cuts":[
 {"after":0,"tensors":["x"],"codecs":[{"name":"raw","bytes":1000,"encode_ms":0,"decode_ms":0},
                                      {"name":"small","bytes":100,"encode_ms":0.5,"decode_ms":0.25}]},
 {"after":1,"tensors":["y"],"codecs":[{"name":"raw","bytes":1000,"encode_ms":0,"decode_ms":0}]}],
 "input_bytes":500,"output_bytes":10}"#;

const CLUSTER: &str = r#"
[[node]]
name = "fast"
speed = 1.0
memory_bytes = 2500000
[[node]]
name = "slow"
speed = 0.5
memory_bytes = 2500000
[link]
bandwidth_bps = 500000
latency_ms = 1
[dispatcher]
bandwidth_bps = 4000000
"#;

struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new(profile: &str, cluster: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("profile.json"), profile).unwrap();
        std::fs::write(folder.path().join("cluster.toml"), cluster).unwrap();
        Self { folder }
    }

    fn plan(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_defer-plan"));
        command.current_dir(self.folder.path());
        command.args(["--profile", "profile.json", "--cluster", "cluster.toml"]).args(flags).output().unwrap()
    }
}

fn status(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn json_is_one_document_with_the_promised_fields() {
    let run = Run::new(PROFILE, CLUSTER);
    let output = run.plan(&["--json", "--verbose"]);
    let (code, stderr) = status(&output);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("3 atoms"), "{stderr}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // "a" on the slow node takes 8 ms and 1 to encode; raw, the hop would take 16.
    assert_eq!(plan["optimal"], true);
    assert_eq!(plan["bottleneck_ms"], 9.0, "{plan}");
    assert_eq!(plan["throughput_rps"], 1000.0 / 9.0);
    assert_eq!(plan["lower_bound_ms"], plan["bottleneck_ms"]);
    let first = &plan["stages"][0];
    assert_eq!(
        (&first["nodes"][0], &first["atoms"], &first["codec_out"]),
        (&"slow".into(), &serde_json::json!([0, 0]), &"small".into())
    );
    for field in ["compute_ms", "encode_ms", "decode_ms", "link_ms", "weights_bytes"] {
        assert!(first[field].is_number(), "{field}");
    }
    assert_eq!((&first["encode_ms"], &first["link_ms"]), (&1.0.into(), &1.6.into()));
    let kinds: Vec<&str> =
        plan["alternatives"].as_array().unwrap().iter().map(|a| a["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["chain", "replication", "single"]);
    assert!(plan["alternatives"][2]["impossible"].as_str().unwrap().contains("3.1 MB"));
}

#[test]
fn the_table_shows_where_the_time_goes_and_the_drawing_too() {
    let run = Run::new(PROFILE, CLUSTER);
    let output = run.plan(&["--svg", "plan.svg"]);
    assert_eq!(status(&output).0, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["net: a chain of 2 stages", "proved the best", "slow", "small", "█", "━", "one node alone: impossible"]
    {
        assert!(text.contains(part), "{text}\n lacks {part}");
    }
    // 500 bytes at 4 Mbit/s, of a bottleneck of 9 ms; in the table, then as a bar.
    let first: Vec<&str> = text.lines().filter(|line| line.contains("dispatcher →")).collect();
    assert!(
        first.len() == 2 && first[0].contains(" 1.000 ") && first[1].ends_with(&format!("━━{}", "·".repeat(18))),
        "{text}"
    );
    let drawing = std::fs::read_to_string(run.folder.path().join("plan.svg")).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"));
    assert!(drawing.matches("<rect").count() >= 10 && drawing.contains("slow"), "{drawing}");
    for part in ["dispatcher →", "1.000 ms", "idle"] {
        assert!(drawing.contains(part), "{drawing}\n lacks {part}");
    }
}

#[test]
fn the_exit_status_tells_wrong_files_from_plans_that_are_impossible() {
    let with = |from: &str, to: &str| CLUSTER.replace(from, to);
    let cases = [
        (PROFILE.to_owned(), with("\"slow\"", "\"fast\""), vec![], 2, "called \"fast\""),
        (PROFILE.to_owned(), with("speed = 0.5", "speed = -1"), vec![], 2, "cluster.toml"),
        ("{}".to_owned(), CLUSTER.to_owned(), vec![], 2, "profile.json"),
        (PROFILE.to_owned(), CLUSTER.to_owned(), vec!["--objective", "beauty"], 2, "beauty"),
        (PROFILE.to_owned(), CLUSTER.to_owned(), vec!["--budget-s=-1"], 2, "budget"),
        (PROFILE.to_owned(), CLUSTER.to_owned(), vec!["--codec", "none"], 2, "codec none"),
        (PROFILE.to_owned(), CLUSTER.to_owned(), vec!["--max-stages", "0"], 2, "0 stages"),
        (PROFILE.to_owned(), CLUSTER.to_owned(), vec!["--max-stages", "1"], 1, "allow 2 stages"),
        (PROFILE.to_owned(), with("2500000", "900000"), vec!["--json"], 1, "atom 2 \"c\""),
        (PROFILE.to_owned(), with("2500000", "900000"), vec![], 1, "build-stages --cluster, which splits"),
        (PROFILE.to_owned(), CLUSTER.to_owned(), vec!["--svg", "no/plan.svg"], 1, "no/plan.svg"),
    ];
    for (profile, cluster, flags, want, part) in cases {
        let output = Run::new(&profile, &cluster).plan(&flags);
        let (code, stderr) = status(&output);
        assert_eq!(code, want, "{flags:?}: {stderr}");
        assert!(stderr.contains(part) && output.stdout.is_empty(), "{flags:?}: {stderr}");
        assert!(stderr.matches("no plan").count() <= 1, "said twice: {stderr}");
    }
    assert!(!Path::new("plan.svg").exists());
}

#[test]
fn copies_are_told_of_where_they_would_be_faster_and_chosen_when_they_may() {
    let roomy = CLUSTER.replace("2500000", "9000000");
    let run = Run::new(PROFILE, &roomy);
    let text = String::from_utf8(run.plan(&["--replicas", "off"]).stdout).unwrap();
    assert!(text.contains("a chain of 2 stages") && text.contains("--replicas auto plans them"), "{text}");
    // Where latency counts, replicas are no use.
    let text = String::from_utf8(run.plan(&["--objective", "latency", "--max-stages", "2"]).stdout).unwrap();
    assert!(!text.contains("--replicas auto"), "{text}");
    let text = String::from_utf8(run.plan(&[]).stdout).unwrap();
    assert!(text.contains("the whole network on each of 2 nodes") && text.contains("no cut is faster"), "{text}");
    let plan = run.plan(&["--json"]).stdout;
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    assert_eq!((&plan["kind"], &plan["bottleneck_ms"]), (&"replication".into(), &8.0.into()));
    let quick: serde_json::Value =
        serde_json::from_slice(&run.plan(&["--objective", "latency", "--json"]).stdout).unwrap();
    assert_eq!((&quick["kind"], &quick["latency_ms"]), (&"single".into(), &(12.0 + 1.0 + 0.02).into()));
}

#[test]
fn what_is_not_proved_is_said_by_the_share_of_the_objective_and_a_search_that_the_clock_ended_too() {
    let node = |at: usize| {
        let (speed, memory) = (1.0 + at as f64 / 8.0, 2_500_000 + at);
        format!("[[node]]\nname = \"n{at}\"\nspeed = {speed}\nmemory_bytes = {memory}\n")
    };
    let nodes: String = (0..200).map(node).collect();
    let cluster = nodes + "[link]\nbandwidth_bps = 500000\nlatency_ms = 1\n";
    let run = Run::new(PROFILE, &cluster);
    for (objective, figure) in [("throughput", "bottleneck_ms"), ("latency", "latency_ms")] {
        let flags = ["--budget-s", "0.000001", "--objective", objective];
        let text = String::from_utf8(run.plan(&flags).stdout).unwrap();
        let plan = run.plan(&[flags.as_slice(), &["--json"]].concat()).stdout;
        let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
        assert_eq!(plan["objective"], objective);
        assert_eq!(plan["optimal"], false, "{plan}");
        let part = |field: &str| plan[field].as_f64().unwrap();
        let less = format!("{:.1} % less", 100.0 * (1.0 - part("lower_bound_ms") / part(figure)));
        assert!(text.contains(&less), "{text}\n lacks {less}");
        let ended = text.contains("The clock ended the search");
        assert_eq!(plan["cut_short"], ended, "{text}");
        assert!(ended || objective == "latency", "{text}");
    }
}

#[test]
fn lossy_codecs_are_not_used_without_a_word() {
    for (codec, lossy) in
        [("small", false), ("zfp:reversible", false), ("int8", true), ("sparse+f16", true), ("zfp:rate=8", true)]
    {
        let profile = PROFILE.replace("small", codec);
        let text = String::from_utf8(Run::new(&profile, CLUSTER).plan(&[]).stdout).unwrap();
        assert_eq!(text.contains("answers will differ"), lossy, "{codec}: {text}");
        assert!(text.contains(codec));
    }
}
