//! Tensors into the runtime and out of it.

use crate::buffer::Pool;
use bytemuck::{Pod, try_cast_slice};
use defer_partition::{DType, Tensor};
use half::{bf16, f16};
use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef};
use std::fmt::Debug;

/// What `$body` gives where `$T` is the type of a `$dtype`'s elements in memory; `$bool` for truth values, not all of whose bytes
/// are values.
macro_rules! by_element {
    ($dtype:expr, $T:ident => $body:expr, bool => $bool:expr) => {{
        macro_rules! of {
            ($type:ty) => {{
                type $T = $type;
                $body
            }};
        }
        match $dtype {
            DType::Fp32 => of!(f32),
            DType::Fp64 => of!(f64),
            DType::Fp16 => of!(half::f16),
            DType::Bf16 => of!(half::bf16),
            DType::Uint8 => of!(u8),
            DType::Int8 => of!(i8),
            DType::Uint16 => of!(u16),
            DType::Int16 => of!(i16),
            DType::Int32 => of!(i32),
            DType::Uint32 => of!(u32),
            DType::Int64 => of!(i64),
            DType::Uint64 => of!(u64),
            DType::Bool => $bool,
        }
    }};
}
pub(super) use by_element;

/// A view of `tensor` for the runtime.
pub(super) fn input(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    let truths = || tensor.data.iter().map(|&byte| byte != 0).collect::<Vec<bool>>();
    by_element!(tensor.dtype, T => view::<T>(tensor), bool => owned(tensor, truths()))
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
pub(super) fn output(value: &DynValue, pool: &Pool) -> ort::Result<Tensor> {
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
