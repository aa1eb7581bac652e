//! ONNX Runtime, from its shared library, loaded at run time.

use super::{Engine, EngineError, Model, Named, Options, Session};
use crate::buffer::Pool;
use bytemuck::{Pod, try_cast_slice};
use defer_partition::{DType, Tensor};
use half::{bf16, f16};
use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef};
use std::env;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const NAME: &str = "onnxruntime";
/// Version that `setup` installs; its library lies under the cache in a folder of that name.
pub const VERSION: &str = "1.24.4";

/// The runtime: one per process, since its library allows one environment.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    file: PathBuf,
}

static OPENED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads the library: the one named, else `ORT_DYLIB_PATH`, else the one beside this program, else the one in the
    /// cache.
    pub fn open(library: Option<PathBuf>) -> Result<Self, EngineError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*opened {
            return Ok(runtime.clone());
        }
        let library = library.map_or_else(find, Ok)?;
        if !library.is_file() {
            let cause = format!("{} does not exist; give --ort-lib the path of libonnxruntime.so", library.display());
            return Err(EngineError::Unavailable(cause));
        }
        let unavailable = |cause: String| EngineError::Unavailable(format!("{}: {cause}", library.display()));
        let environment = ort::init_from(&library)
            .map_err(|error| unavailable(error.to_string()))?
            .with_telemetry(false)
            .build()
            .map_err(|error| unavailable(error.to_string()))?;
        let runtime = Self { environment, file: library };
        *opened = Some(runtime.clone());
        Ok(runtime)
    }

    /// The shared library in use.
    pub fn library(&self) -> &Path {
        &self.file
    }
}

fn find() -> Result<PathBuf, EngineError> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("libonnxruntime.so")));
    let cached = defer_models::Cache::from_env()
        .map(|cache| cache.root().join(NAME).join(VERSION).join("libonnxruntime.so"))
        .map_err(|error| EngineError::Unavailable(error.to_string()))?;
    let places = [beside, Some(cached.clone())];
    places.into_iter().flatten().find(|path| path.is_file()).ok_or_else(|| {
        EngineError::Unavailable(format!(
            "the onnxruntime library is not at {}; run `cargo xtask setup`, or name it with --ort-lib",
            cached.display()
        ))
    })
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        // The API names no version, only the branch and commit it was built from; files and folders of releases do.
        let real = self.file.canonicalize().unwrap_or_else(|_| self.file.clone());
        let path = real.to_string_lossy();
        let is_version =
            |part: &&str| part.split('.').count() == 3 && part.split('.').all(|n| n.parse::<u32>().is_ok());
        let mut named = path.split('/').map(|part| part.trim_start_matches("libonnxruntime.so."));
        named.rfind(is_version).map_or_else(|| ort::info().to_owned(), ToOwned::to_owned)
    }

    fn load(&self, model: Model<'_>, options: Options) -> Result<Box<dyn Session>, EngineError> {
        let load = || -> ort::Result<OrtSession> {
            let mut builder = OrtSession::builder(&self.environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(options.threads)?
                .with_inter_threads(1)?
                // Spinning burns a CPU quota while waiting.
                .with_intra_op_spinning(false)?;
            if let Some(folder) = model.weights_folder {
                let folder = folder.to_str().ok_or_else(|| ort::Error::new("the weights' path is not UTF-8"))?;
                builder = builder.with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
            }
            builder.commit_from_memory(model.bytes)
        };
        let session = load().map_err(|error| EngineError::Load { engine: NAME, cause: error.to_string() })?;
        let outputs = session.outputs().iter().map(|outlet| outlet.name().to_owned()).collect();
        Ok(Box::new(Loaded { session, outputs }))
    }
}

struct Loaded {
    session: OrtSession,
    outputs: Vec<String>,
}

impl Session for Loaded {
    fn inputs(&self) -> Vec<String> {
        self.session.inputs().iter().map(|outlet| outlet.name().to_owned()).collect()
    }

    fn outputs(&self) -> Vec<String> {
        self.outputs.clone()
    }

    fn run(&mut self, inputs: &[Named], pool: &Pool) -> Result<Vec<Named>, EngineError> {
        let mut run = || -> ort::Result<Vec<Named>> {
            let mut values = Vec::with_capacity(inputs.len());
            for (name, tensor) in inputs {
                values.push((name.as_str(), input(tensor)?));
            }
            let results = self.session.run(values)?;
            self.outputs
                .iter()
                .map(|name| {
                    let value = results.get(name).ok_or_else(|| ort::Error::new(format!("no output \"{name}\"")))?;
                    Ok((name.clone(), output(value, pool)?))
                })
                .collect()
        };
        run().map_err(|error| EngineError::Run { engine: NAME, cause: error.to_string() })
    }
}

/// A view of `tensor` for the runtime.
fn input(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    match tensor.dtype {
        DType::Fp32 => view::<f32>(tensor),
        DType::Fp64 => view::<f64>(tensor),
        DType::Fp16 => view::<f16>(tensor),
        DType::Bf16 => view::<bf16>(tensor),
        DType::Uint8 => view::<u8>(tensor),
        DType::Int8 => view::<i8>(tensor),
        DType::Uint16 => view::<u16>(tensor),
        DType::Int16 => view::<i16>(tensor),
        DType::Int32 => view::<i32>(tensor),
        DType::Uint32 => view::<u32>(tensor),
        DType::Int64 => view::<i64>(tensor),
        DType::Uint64 => view::<u64>(tensor),
        DType::Bool => owned(tensor, tensor.data.iter().map(|&byte| byte != 0).collect::<Vec<bool>>()),
    }
}

fn view<T: Pod + PrimitiveTensorElementType + Debug>(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    match try_cast_slice::<u8, T>(&tensor.data) {
        // The runtime takes no null pointer, not even for no elements, and an empty slice may be dangling.
        Ok(values) if !values.is_empty() => Ok(TensorRef::from_array_view((tensor.shape.clone(), values))?.into()),
        Ok(_) => owned(tensor, Vec::<T>::new()),
        // An allocator that aligns less than the element needs: rare, and worth a copy.
        Err(_) => owned(tensor, bytemuck::pod_collect_to_vec::<u8, T>(&tensor.data)),
    }
}

fn owned<T: PrimitiveTensorElementType + Debug + Clone + 'static>(
    tensor: &Tensor,
    values: Vec<T>,
) -> ort::Result<SessionInputValue<'static>> {
    if values.is_empty() {
        let allocator = ort::memory::Allocator::default();
        return Ok(ort::value::Tensor::<T>::new(&allocator, tensor.shape.clone())?.into());
    }
    Ok(ort::value::Tensor::from_array((tensor.shape.clone(), values))?.into())
}

/// Copies an output out of the runtime's own memory.
fn output(value: &DynValue, pool: &Pool) -> ort::Result<Tensor> {
    let kind = value.dtype().tensor_type().ok_or_else(|| ort::Error::new("an output that is no tensor"))?;
    match kind {
        TensorElementType::Float32 => copy::<f32>(value, DType::Fp32, pool),
        TensorElementType::Float64 => copy::<f64>(value, DType::Fp64, pool),
        TensorElementType::Float16 => copy::<f16>(value, DType::Fp16, pool),
        TensorElementType::Bfloat16 => copy::<bf16>(value, DType::Bf16, pool),
        TensorElementType::Uint8 => copy::<u8>(value, DType::Uint8, pool),
        TensorElementType::Int8 => copy::<i8>(value, DType::Int8, pool),
        TensorElementType::Uint16 => copy::<u16>(value, DType::Uint16, pool),
        TensorElementType::Int16 => copy::<i16>(value, DType::Int16, pool),
        TensorElementType::Int32 => copy::<i32>(value, DType::Int32, pool),
        TensorElementType::Uint32 => copy::<u32>(value, DType::Uint32, pool),
        TensorElementType::Int64 => copy::<i64>(value, DType::Int64, pool),
        TensorElementType::Uint64 => copy::<u64>(value, DType::Uint64, pool),
        TensorElementType::Bool => {
            let (shape, values) = value.try_extract_tensor::<bool>()?;
            let data = values.iter().map(|&value| u8::from(value)).collect();
            Ok(Tensor { dtype: DType::Bool, shape: dims(shape), data })
        }
        other => Err(ort::Error::new(format!("an output of type {other}, which no frame can carry"))),
    }
}

fn copy<T: Pod + PrimitiveTensorElementType>(value: &DynValue, dtype: DType, pool: &Pool) -> ort::Result<Tensor> {
    let (shape, values) = value.try_extract_tensor::<T>()?;
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let mut data = pool.take(bytes.len());
    data.extend_from_slice(bytes);
    Ok(Tensor { dtype, shape: dims(shape), data })
}

fn dims(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&dim| usize::try_from(dim).expect("a computed tensor has no negative dimension")).collect()
}
