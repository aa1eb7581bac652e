//! Tensor values in their one normal form: `raw_data`, little-endian, of exactly the length that the shape asks for.

use super::ValueError;
use super::external::{field, is_external};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, tensor_proto::DataType,
};
use crate::tensor::{DType, Tensor};
use bytes::Bytes;

/// Width of one element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Bits per element; elements narrower than a byte are packed, the tensor's end padded to a whole byte.
    Fixed(u8),
    /// Strings, which have no width.
    Text,
}

/// Width of ONNX's element type number `dtype`; `None` if this version does not know it.
pub fn element_bits(dtype: i32) -> Option<Bits> {
    use DataType as D;
    if let Some(known) = DType::from_onnx(dtype) {
        return Some(Bits::Fixed(8 * known.size() as u8));
    }
    Some(match DataType::try_from(dtype).ok()? {
        D::String => Bits::Text,
        D::Complex64 => Bits::Fixed(64),
        D::Complex128 => Bits::Fixed(128),
        D::Float8e4m3fn | D::Float8e4m3fnuz | D::Float8e5m2 | D::Float8e5m2fnuz | D::Float8e8m0 => Bits::Fixed(8),
        D::Uint4 | D::Int4 | D::Float4e2m1 => Bits::Fixed(4),
        D::Uint2 | D::Int2 => Bits::Fixed(2),
        _ => return None,
    })
}

/// Moves the values of `tensor` into `raw_data`, whatever field held them, and checks their number.
pub(super) fn normalise(tensor: &mut TensorProto) -> Result<(), ValueError> {
    let (name, dims) = (tensor.name().to_owned(), tensor.dims.clone());
    let dtype = tensor.data_type();
    if is_external(tensor) {
        let location = field(tensor, "location").unwrap_or_default().to_owned();
        return Err(ValueError::Elsewhere { tensor: name, location });
    }
    let bits = match element_bits(dtype) {
        Some(Bits::Fixed(bits)) => u64::from(bits),
        Some(Bits::Text) => return Ok(()),
        None => return Err(ValueError::DataType { tensor: name, dtype }),
    };
    let elements = tensor.dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(u64::try_from(dim).ok()?));
    let want = elements.and_then(|n| n.checked_mul(bits)).map(|n| n.div_ceil(8));
    let Some(want) = want else {
        return Err(ValueError::Shape { tensor: name, dims });
    };

    let raw = match tensor.raw_data.take() {
        Some(raw) => raw,
        None => Bytes::from(typed_values(tensor, bits)),
    };
    if raw.len() as u64 != want {
        return Err(ValueError::Length { tensor: name, dims, want, got: raw.len() as u64 });
    }
    tensor.raw_data = Some(raw);
    tensor.float_data.clear();
    tensor.double_data.clear();
    tensor.int32_data.clear();
    tensor.int64_data.clear();
    tensor.uint64_data.clear();
    Ok(())
}

/// The bytes of the typed field that ONNX prescribes for the tensor's element type.
fn typed_values(tensor: &TensorProto, bits: u64) -> Vec<u8> {
    use DataType as D;
    match DataType::try_from(tensor.data_type()) {
        Ok(D::Float | D::Complex64) => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(D::Double | D::Complex128) => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(D::Int64) => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Ok(D::Uint64) => tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        // One unsigned 64-bit entry per element.
        Ok(D::Uint32) => tensor.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
        // All narrower types: one 32-bit entry per element, or per byte for those that share a byte.
        _ => {
            let width = (bits / 8).max(1) as usize;
            tensor.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width)).collect()
        }
    }
}

/// Calls `f` on every tensor that `model` holds: initializers, attributes, and those of subgraphs and functions.
pub fn for_each_tensor<E>(
    model: &mut ModelProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(graph) = &mut model.graph {
        in_graph(graph, f)?;
    }
    for function in &mut model.functions {
        in_nodes(&mut function.node, f)?;
        function.attribute_proto.iter_mut().try_for_each(|a| in_attribute(a, f))?;
    }
    Ok(())
}

fn in_graph<E>(graph: &mut GraphProto, f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>) -> Result<(), E> {
    graph.initializer.iter_mut().try_for_each(&mut *f)?;
    graph.sparse_initializer.iter_mut().try_for_each(|s| in_sparse(s, f))?;
    in_nodes(&mut graph.node, f)
}

fn in_nodes<E>(nodes: &mut [NodeProto], f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>) -> Result<(), E> {
    nodes.iter_mut().flat_map(|n| &mut n.attribute).try_for_each(|a| in_attribute(a, f))
}

fn in_attribute<E>(
    attribute: &mut AttributeProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *f)?;
    attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors).try_for_each(|s| in_sparse(s, f))?;
    attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| in_graph(g, f))
}

fn in_sparse<E>(sparse: &mut SparseTensorProto, f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>) -> Result<(), E> {
    sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(f)
}

/// `tensor` as an ONNX constant called `name`.
pub fn tensor_of(name: &str, tensor: Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(tensor.dtype.onnx()),
        dims: tensor.shape.iter().map(|&d| d as i64).collect(),
        raw_data: Some(Bytes::from(tensor.data)),
        ..Default::default()
    }
}
