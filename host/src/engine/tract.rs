//! tract: an engine in pure Rust, built in. Slower than onnxruntime on most networks, and there everywhere.
//!
//! tract optimises a graph for concrete input shapes. A graph whose shapes are fixed is optimised when it is loaded; one
//! with open dimensions for each new set of input shapes, the latest few of which are kept.

use super::panic::caught;
use super::{Engine, EngineError, Model, Named, Options, Prepacking, Session};
use crate::buffer::Pool;
use bytemuck::{AnyBitPattern, NoUninit, try_cast_slice};
use defer_partition::{DType, Tensor, byte_len};
use half::f16;
use prost::Message as _;
use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use tract_onnx::data_resolver::ModelDataResolver;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};
use tract_onnx::tract_hir::internal::{
    Datum, DatumType, DimLike as _, Factoid as _, InferenceFact, InferenceModel, InferenceModelExt as _,
    IntoRunnable as _, TDim, TValue, TVec, Tensor as TractTensor, TractError, TractResult, TypedSimplePlan,
};

const NAME: &str = "tract";
/// Of the crate: it does not say itself.
const VERSION: &str = "0.23.9";
/// Sets of input shapes for which one session keeps the optimised graph: each holds weights in an order of its own.
const SHAPES: usize = 4;
/// Domains whose operators tract's names mean; those of any other it would take for ONNX's of the same name.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];
const NO_BF16: &str = "it has no element type BF16; use onnxruntime";

/// The engine. It has no state of its own.
#[derive(Clone, Copy, Debug)]
pub struct Tract;

impl Engine for Tract {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    /// It always reorders them.
    fn prepacking(&self, _: Prepacking) -> Prepacking {
        Prepacking::On
    }

    /// Computes on one thread, whatever `options` allow: tract was built without its thread pool.
    fn load(&self, model: Model<'_>, _: Options) -> Result<Box<dyn Session>, EngineError> {
        let loaded = caught(|| Loaded::new(model)).map_err(|cause| EngineError::Load { engine: NAME, cause })?;
        Ok(Box::new(loaded))
    }
}

/// An input as the graph declares it.
struct Input {
    name: String,
    dtype: DType,
    /// `None` for a shape of unknown rank; a dimension of `None` is open.
    shape: Option<Vec<Option<usize>>>,
}

impl Input {
    /// The dimensions, if none is open.
    fn fixed(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().copied().collect()
    }

    fn admits(&self, tensor: &Tensor) -> bool {
        let fits = |dims: &Vec<Option<usize>>| {
            dims.len() == tensor.shape.len()
                && dims.iter().zip(&tensor.shape).all(|(dim, got)| dim.is_none_or(|dim| dim == *got))
        };
        self.dtype == tensor.dtype && self.shape.as_ref().is_none_or(fits)
    }
}

/// Dimensions of all inputs, in the graph's order.
type Shapes = Vec<Vec<usize>>;

struct Loaded {
    inputs: Vec<Input>,
    outputs: Vec<String>,
    /// What further shapes are optimised from; `None` where the shapes are fixed.
    graph: Option<InferenceModel>,
    /// The latest used last.
    plans: Vec<(Shapes, Arc<TypedSimplePlan>)>,
}

impl Loaded {
    fn new(model: Model<'_>) -> Result<Self, String> {
        let proto = ModelProto::decode(model.bytes).map_err(|error| error.to_string())?;
        let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
        onnx.provider = Arc::new(WeightsFile);
        let graph = proto.graph.as_ref().ok_or("the model holds no graph")?;
        check_operators(graph, &|op| onnx.op_register.0.contains_key(op))?;
        let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
        let folder = model.weights_folder.map(|folder| folder.to_str().ok_or("the weights' path is not UTF-8"));
        let parsed = onnx.parse(&proto, folder.transpose()?).map_err(text)?;
        drop(proto);
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(format!("nothing makes the tensor \"{name}\""));
        }
        let graph = parsed.model;
        let inputs: Vec<Input> = (0..graph.inputs.len()).map(|at| input(&graph, at)).collect::<Result<_, _>>()?;
        let fixed: Option<Shapes> = inputs.iter().map(Input::fixed).collect();
        let mut loaded = Self { inputs, outputs, graph: None, plans: Vec::new() };
        match fixed {
            Some(shapes) => {
                let plan = plan(graph, &loaded.inputs, &shapes)?;
                loaded.plans.push((shapes, plan));
            }
            None => loaded.graph = Some(graph),
        }
        Ok(loaded)
    }

    fn run(&mut self, inputs: &[Named], pool: &Pool) -> Result<Vec<Named>, String> {
        let mut given = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let named = inputs.iter().find(|(name, _)| *name == input.name);
            let (name, tensor) = named.ok_or_else(|| format!("no input \"{}\"", input.name))?;
            if !input.admits(tensor) {
                return Err(format!("input \"{name}\" is {}{:?}, which it does not take", tensor.dtype, tensor.shape));
            }
            given.push(tensor);
        }
        if let Some((name, _)) = inputs.iter().find(|(name, _)| self.inputs.iter().all(|input| input.name != *name)) {
            return Err(format!("the graph has no input \"{name}\""));
        }
        let plan = self.plan(given.iter().map(|tensor| tensor.shape.clone()).collect())?;
        let values = given.into_iter().map(to_tract).collect::<Result<TVec<TValue>, _>>()?;
        let results = plan.run(values).map_err(text)?;
        self.outputs
            .iter()
            .zip(results.iter())
            .map(|(name, value)| {
                let tensor = from_tract(value, pool).map_err(|cause| format!("output \"{name}\": {cause}"))?;
                Ok((name.clone(), tensor))
            })
            .collect()
    }

    /// The graph, optimised for `shapes`.
    fn plan(&mut self, shapes: Shapes) -> Result<Arc<TypedSimplePlan>, String> {
        if let Some(at) = self.plans.iter().position(|(known, _)| *known == shapes) {
            self.plans[at..].rotate_left(1);
        } else {
            let graph = self.graph.clone().ok_or("the graph takes no other shapes")?;
            let plan = plan(graph, &self.inputs, &shapes)?;
            if self.plans.len() >= SHAPES {
                self.plans.remove(0);
            }
            self.plans.push((shapes, plan));
        }
        let (_, plan) = self.plans.last().expect("one was found or added");
        Ok(Arc::clone(plan))
    }
}

impl Session for Loaded {
    fn inputs(&self) -> Vec<String> {
        self.inputs.iter().map(|input| input.name.clone()).collect()
    }

    fn outputs(&self) -> Vec<String> {
        self.outputs.clone()
    }

    fn run(&mut self, inputs: &[Named], pool: &Pool) -> Result<Vec<Named>, EngineError> {
        // Every run has a state of its own, so what a panic leaves behind is dropped with it.
        caught(|| self.run(inputs, pool)).map_err(|cause| EngineError::Run { engine: NAME, cause })
    }
}

/// With all its causes, which tract keeps apart.
fn text(error: TractError) -> String {
    format!("{error:#}")
}

/// Refuses operators that tract lacks: it would notice only once it knows the inputs' shapes.
fn check_operators(graph: &GraphProto, known: &dyn Fn(&str) -> bool) -> Result<(), String> {
    for NodeProto { op_type, domain, attribute, .. } in &graph.node {
        if !DOMAINS.contains(&domain.as_str()) || !known(op_type) {
            let of = if domain.is_empty() { "ai.onnx" } else { domain };
            return Err(format!("no operator {op_type} of domain {of}"));
        }
        for AttributeProto { g, graphs, .. } in attribute {
            g.iter().chain(graphs).try_for_each(|graph| check_operators(graph, known))?;
        }
    }
    Ok(())
}

fn input(graph: &InferenceModel, at: usize) -> Result<Input, String> {
    let name = graph.node(graph.inputs[at].node).name.clone();
    let fact = graph.input_fact(at).map_err(text)?;
    let declared = fact.datum_type.concretize().ok_or_else(|| format!("input \"{name}\" has no type"))?;
    let dtype = dtype(declared).ok_or_else(|| format!("input \"{name}\" is of type {declared:?}"))?;
    let open = fact.shape.is_open();
    let dims = fact.shape.dims().map(|dim| dim.concretize().and_then(|dim| dim.to_usize().ok())).collect();
    Ok(Input { name, dtype, shape: (!open).then_some(dims) })
}

fn plan(mut graph: InferenceModel, inputs: &[Input], shapes: &Shapes) -> Result<Arc<TypedSimplePlan>, String> {
    for (at, (input, shape)) in inputs.iter().zip(shapes).enumerate() {
        let fact = InferenceFact::dt_shape(datum_type(input.dtype)?, shape.as_slice());
        graph.set_input_fact(at, fact).map_err(text)?;
    }
    graph.into_optimized().and_then(|model| model.into_runnable()).map_err(text)
}

/// Our name of tract's type, if a frame can carry it.
fn dtype(datum: DatumType) -> Option<DType> {
    Some(match datum.unquantized() {
        DatumType::F32 => DType::Fp32,
        DatumType::F64 => DType::Fp64,
        DatumType::F16 => DType::Fp16,
        DatumType::U8 => DType::Uint8,
        DatumType::I8 => DType::Int8,
        DatumType::U16 => DType::Uint16,
        DatumType::I16 => DType::Int16,
        DatumType::I32 => DType::Int32,
        DatumType::U32 => DType::Uint32,
        DatumType::I64 => DType::Int64,
        DatumType::U64 => DType::Uint64,
        DatumType::Bool => DType::Bool,
        _ => return None,
    })
}

fn datum_type(dtype: DType) -> Result<DatumType, String> {
    Ok(match dtype {
        DType::Fp32 => DatumType::F32,
        DType::Fp64 => DatumType::F64,
        DType::Fp16 => DatumType::F16,
        DType::Uint8 => DatumType::U8,
        DType::Int8 => DatumType::I8,
        DType::Uint16 => DatumType::U16,
        DType::Int16 => DatumType::I16,
        DType::Int32 => DatumType::I32,
        DType::Uint32 => DatumType::U32,
        DType::Int64 => DatumType::I64,
        DType::Uint64 => DatumType::U64,
        DType::Bool => DatumType::Bool,
        DType::Bf16 => return Err(NO_BF16.to_owned()),
    })
}

/// Copies a tensor into tract's own memory.
fn to_tract(tensor: &Tensor) -> Result<TValue, String> {
    match tensor.dtype {
        DType::Fp32 => typed::<f32>(tensor),
        DType::Fp64 => typed::<f64>(tensor),
        DType::Fp16 => typed::<f16>(tensor),
        DType::Uint8 => typed::<u8>(tensor),
        DType::Int8 => typed::<i8>(tensor),
        DType::Uint16 => typed::<u16>(tensor),
        DType::Int16 => typed::<i16>(tensor),
        DType::Int32 => typed::<i32>(tensor),
        DType::Uint32 => typed::<u32>(tensor),
        DType::Int64 => typed::<i64>(tensor),
        DType::Uint64 => typed::<u64>(tensor),
        DType::Bool => {
            let values: Vec<bool> = tensor.data.iter().map(|&byte| byte != 0).collect();
            Ok(TractTensor::from_shape(&tensor.shape, &values).map_err(text)?.into())
        }
        DType::Bf16 => Err(NO_BF16.to_owned()),
    }
}

fn typed<T: Datum + AnyBitPattern + NoUninit>(tensor: &Tensor) -> Result<TValue, String> {
    let values = match try_cast_slice::<u8, T>(&tensor.data) {
        Ok(values) => Cow::Borrowed(values),
        // An allocator that aligns less than the element needs: rare, and worth another copy.
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec::<u8, T>(&tensor.data)),
    };
    Ok(TractTensor::from_shape(&tensor.shape, &values).map_err(text)?.into())
}

/// Copies a result into a buffer of `pool`: tract's memory is aligned otherwise than a buffer's and cannot become one.
fn from_tract(value: &TractTensor, pool: &Pool) -> Result<Tensor, String> {
    // Its own type for dimensions, which ONNX knows as INT64.
    let value = match value.datum_type() == TDim::datum_type() {
        true => value.cast_to::<i64>().map_err(text)?,
        false => Cow::Borrowed(value),
    };
    let dtype = dtype(value.datum_type())
        .ok_or_else(|| format!("it is of type {:?}, which no frame can carry", value.datum_type()))?;
    let shape = value.shape().to_vec();
    let bytes = value.as_bytes();
    if byte_len(dtype, &shape) != Some(bytes.len()) {
        return Err(format!("{} bytes for a tensor {dtype}{shape:?}", bytes.len()));
    }
    let mut data = pool.take(bytes.len());
    data.extend_from_slice(bytes);
    Ok(Tensor { dtype, shape, data })
}

/// Reads external initializers: exactly the bytes of one tensor, from the page cache.
struct WeightsFile;

impl ModelDataResolver for WeightsFile {
    fn read_bytes_from_path(
        &self,
        buffer: &mut Vec<u8>,
        path: &Path,
        offset: usize,
        length: Option<usize>,
    ) -> TractResult<()> {
        let file = File::open(path)?;
        let available = file.metadata()?.len().saturating_sub(offset as u64);
        // The file's length bounds what is allocated: the graph's word alone is not to be trusted.
        let length = length.map_or(available, |length| (length as u64).min(available));
        buffer.resize(usize::try_from(length)?, 0);
        Ok(file.read_exact_at(buffer, offset as u64)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_crate() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"tract-onnx\"\nversion = \"{VERSION}\"\n")));
    }
}
