//! The systems that are compared, each run under the conditions asked for.

use super::ChainArgs;
use super::bed::Bed;
use super::group::Share;
use super::report::Row;
use crate::folder::Folder;
use crate::stages;
use crate::subject::Subject;
use anyhow::Result;
use defer_host::build::load_whole;
use defer_host::engine::{self, Choice, Named, Options};
use std::path::PathBuf;

pub struct Bench<'a> {
    pub(super) args: &'a ChainArgs,
    pub(super) subject: Subject,
    // In this order: hosts are inside the bed.
    pub(super) bed: Bed,
    pub(super) folder: Folder,
    pub(super) binary: PathBuf,
    pub(super) rows: Vec<Row>,
}

impl<'a> Bench<'a> {
    pub fn new(args: &'a ChainArgs, subject: Subject, bed: Bed, folder: Folder, binary: PathBuf) -> Self {
        Self { args, subject, bed, folder, binary, rows: Vec::new() }
    }

    /// Measures everything that was asked for; where something fails, what was measured until then comes with the error.
    pub async fn run(mut self) -> (Vec<Row>, Result<()>) {
        let result = self.measure_all().await;
        self.relate();
        (self.rows, result)
    }

    async fn measure_all(&mut self) -> Result<()> {
        let args = self.args;
        let reference = self.reference()?;
        for engine in args.engine.iter().map(|engine| engine.name()) {
            stages::build(&self.binary, &self.subject, (1, engine), &[], None, &self.whole(engine)).await?;
            self.alone(engine).await?;
            for &nodes in &args.nodes {
                self.chain(engine, nodes, &reference).await?;
                self.replicas(engine, nodes).await?;
            }
            // Once more: what else the machine does changes over minutes.
            self.alone(engine).await?;
        }
        self.onnxruntime_alone().await?;
        if args.peers {
            self.defer_method().await?;
        }
        Ok(())
    }

    pub(super) fn share(&self) -> Share {
        Share { cpu: Some(self.args.cpu), memory_mb: self.args.memory_mb }
    }

    /// The uncut network's answers.
    fn reference(&self) -> Result<Vec<Vec<Named>>> {
        let engine = engine::open(Choice::Auto, None)?;
        let mut session = load_whole(&self.subject.file, engine.as_ref(), Options::new(1))?;
        let pool = defer_host::buffer::Pool::new(0);
        self.subject.requests.iter().map(|request| Ok(session.run(&request.inputs, &pool)?)).collect()
    }

    pub(super) fn row(&self, system: &'static str, nodes: u8) -> Row {
        Row { system, model: self.subject.name.clone(), nodes, cpu: self.args.cpu, ..Row::default() }
    }

    /// Sets each row against the same engine alone.
    fn relate(&mut self) {
        let single = |rows: &[Row], engine: &str, of: fn(&Row) -> f64| {
            let alone: Vec<f64> = rows.iter().filter(|row| row.is_single() && row.engine == engine).map(of).collect();
            alone.iter().sum::<f64>() / alone.len() as f64
        };
        let rows = self.rows.clone();
        for row in &mut self.rows {
            // There is none where only another engine was asked for.
            row.vs_single = finite(row.throughput_rps / single(&rows, &row.engine, |row| row.throughput_rps));
            let cpu = single(&rows, &row.engine, |row| row.cpu_ms_per_inference_max_node);
            row.cpu_vs_single = finite(row.cpu_ms_per_inference_max_node / cpu);
        }
    }
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}
