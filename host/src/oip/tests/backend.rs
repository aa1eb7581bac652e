//! A backend that computes in this process: echoes every element type, adds and subtracts two inputs, and fails in
//! each of the ways that a backend can.

use crate::oip::stats::{Recorder, Steps};
use crate::oip::{Backend, InferError, InferRequest, InferResponse, ModelMetadata, ModelStats};
use async_trait::async_trait;
use defer_partition::{DType, Tensor, TensorInfo};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `echo-FP32` … `echo-BOOL` answer with their input `x` as `y`; `two parts é` adds and subtracts; `scalar` doubles a
/// number; `busy`, `gone`, `slow` and `broken` fail; `warming up` is not ready; `full` refuses before the body is read.
#[derive(Default)]
pub struct Echo {
    /// `busy` answers once it has refused this many requests.
    pub refusals: AtomicUsize,
    pub(crate) recorders: Mutex<BTreeMap<String, Arc<Recorder>>>,
}

impl Echo {
    fn recorder(&self, model: &str) -> Arc<Recorder> {
        self.recorders.lock().unwrap().entry(model.to_owned()).or_default().clone()
    }
}

fn info(name: &str, dtype: DType, shape: &[i64]) -> TensorInfo {
    TensorInfo { name: name.into(), dtype, shape: shape.into() }
}

fn model(name: &str, inputs: Vec<TensorInfo>, outputs: Vec<TensorInfo>) -> ModelMetadata {
    let versions = vec!["1".into(), "2".into()];
    ModelMetadata { name: name.into(), versions, platform: "test".into(), inputs, outputs }
}

/// The model that adds and subtracts.
pub fn two() -> ModelMetadata {
    let of = |name| info(name, DType::Fp32, &[-1, 3]);
    model("two parts é", vec![of("a"), of("b")], vec![of("sum"), of("difference")])
}

/// The model that answers with its input.
pub fn echo(dtype: DType) -> ModelMetadata {
    let of = |name| info(name, dtype, &[-1, -1]);
    model(&format!("echo-{dtype}"), vec![of("x")], vec![of("y")])
}

fn failing(name: &str) -> ModelMetadata {
    model(name, vec![info("x", DType::Fp32, &[-1])], vec![info("y", DType::Fp32, &[-1])])
}

fn scalar() -> ModelMetadata {
    model("scalar", vec![info("x", DType::Fp32, &[])], vec![info("y", DType::Fp32, &[])])
}

#[async_trait]
impl Backend for Echo {
    fn ready(&self) -> bool {
        true
    }

    fn models(&self) -> Vec<ModelMetadata> {
        let failing = ["busy", "gone", "slow", "broken", "warming up", "full"].map(failing);
        DType::ALL.map(echo).into_iter().chain([two(), scalar()]).chain(failing).collect()
    }

    fn model_ready(&self, name: &str) -> bool {
        name != "warming up"
    }

    fn stats(&self, name: &str) -> Vec<ModelStats> {
        let recorder = self.recorder(name);
        // All runs count for the latest version.
        vec![Recorder::default().stats(name, "1"), recorder.stats(name, "2")]
    }

    fn admit(&self, model: &str, _body_bytes: Option<u64>) -> Result<(), InferError> {
        let retry_after = Duration::from_millis(1500);
        if model == "full" { Err(InferError::Overloaded { reason: "queue full".into(), retry_after }) } else { Ok(()) }
    }

    async fn infer(&self, request: InferRequest) -> Result<InferResponse, InferError> {
        let recorder = self.recorder(&request.model);
        let started = Instant::now();
        let result = self.compute(request).await;
        let total = started.elapsed();
        match &result {
            Ok(_) => recorder.success(Steps { total, infer: total, ..Steps::default() }),
            Err(_) => recorder.failure(total),
        }
        result
    }
}

impl Echo {
    async fn compute(&self, mut request: InferRequest) -> Result<InferResponse, InferError> {
        let retry_after = Duration::from_millis(1);
        match request.model.as_str() {
            "busy" if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() => {
                return Err(InferError::Overloaded { reason: "queue full".into(), retry_after });
            }
            "gone" => return Err(InferError::Unavailable { reason: "no chain".into(), retry_after }),
            "slow" => {
                let budget = request.budget.expect("the test sets a budget");
                tokio::time::sleep(budget).await;
                return Err(InferError::TimedOut(format!("no answer within {budget:?}")));
            }
            "broken" => return Err(InferError::Failed("stage 2 trapped".into())),
            "two parts é" => {
                let [a, b] = [0, 1].map(|i| request.inputs[i].1.to_f32().expect("checked as FP32"));
                let shape = request.inputs[0].1.shape.clone();
                let output = |name: &str, f: fn(f32, f32) -> f32| {
                    let values: Vec<f32> = a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect();
                    (name.to_owned(), Tensor::from_f32(shape.clone(), &values).expect("same shape"))
                };
                return Ok(InferResponse {
                    outputs: vec![output("difference", |a, b| a - b), output("sum", |a, b| a + b)],
                });
            }
            "scalar" => {
                let x = request.inputs[0].1.to_f32().expect("checked as FP32")[0];
                request.inputs[0].1 = Tensor::from_f32(vec![], &[2.0 * x]).expect("one value");
            }
            _ => {}
        }
        let (_, x) = request.inputs.pop().expect("every model here has an input");
        Ok(InferResponse { outputs: vec![("y".into(), x)] })
    }
}
