//! The graph section is untrusted: it may name files. Before an engine sees it, every reference out of it is checked and
//! replaced by one that this process wrote.

use super::{ArtifactError, GRAPH, sizes};
use bytes::Bytes;
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation,
};
use defer_partition::{DType, byte_len};
use prost::Message as _;
use std::ops::Range;

/// The location that the builder writes for a tensor in the weights section.
pub const LOCATION: &str = "weights";

/// Decodes `graph`, points every external initializer at `file` with an absolute offset inside `weights`, and encodes it
/// again.
pub(super) fn relocate(graph: Bytes, file: &str, weights: Range<u64>) -> Result<Vec<u8>, ArtifactError> {
    let malformed = |cause: String| ArtifactError::Malformed { section: GRAPH, cause };
    let mut model = ModelProto::decode(graph).map_err(|error| malformed(error.to_string()))?;
    if !model.training_info.is_empty() {
        return Err(malformed("it carries training graphs".to_owned()));
    }
    sizes::check(&model).map_err(malformed)?;
    let top = model.graph.as_mut().ok_or_else(|| malformed("it holds no graph".to_owned()))?;
    for tensor in &mut top.initializer {
        if is_external(tensor) {
            relocate_tensor(tensor, file, &weights)?;
        }
    }
    // Only top-level initializers are ever external in what the builder writes; anywhere else it is an attempt to read files.
    refuse_in_nodes(top)?;
    for function in &model.functions {
        function.attribute_proto.iter().try_for_each(refuse_in_attribute)?;
        for node in &function.node {
            node.attribute.iter().try_for_each(refuse_in_attribute)?;
        }
    }
    Ok(model.encode_to_vec())
}

/// Whether any reader could take the tensor for one that lies elsewhere: also by a location of an unknown kind.
fn is_external(tensor: &TensorProto) -> bool {
    let is_inside = tensor.data_location.is_none_or(|location| location == DataLocation::Default as i32);
    !is_inside || !tensor.external_data.is_empty()
}

fn relocate_tensor(tensor: &mut TensorProto, file: &str, weights: &Range<u64>) -> Result<(), ArtifactError> {
    let name = tensor.name().to_owned();
    let foreign = |cause: String| ArtifactError::Foreign { tensor: name.clone(), cause };
    let (mut location, mut offset, mut length) = (None, None, None);
    for StringStringEntryProto { key, value } in &tensor.external_data {
        let (key, value) = (key.as_deref().unwrap_or_default(), value.as_deref().unwrap_or_default());
        let number = || value.parse::<u64>().map_err(|_| foreign(format!("at {key} \"{value}\"")));
        match key {
            "location" => location = Some(value.to_owned()),
            "offset" => offset = Some(number()?),
            "length" => length = Some(number()?),
            _ => return Err(foreign(format!("behind an unknown entry \"{key}\""))),
        }
    }
    if location.as_deref() != Some(LOCATION) {
        return Err(foreign(format!("in \"{}\"", location.unwrap_or_default())));
    }
    let (Some(offset), Some(length)) = (offset, length) else {
        return Err(foreign("at an offset or length that is not given".to_owned()));
    };
    let available = weights.end - weights.start;
    if offset.checked_add(length).is_none_or(|end| end > available) {
        return Err(foreign(format!("at bytes {offset} + {length} of a section of {available}")));
    }
    let dims: Option<Vec<usize>> = tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let expected = DType::from_onnx(tensor.data_type()).zip(dims).and_then(|(dtype, dims)| byte_len(dtype, &dims));
    if expected.map(|len| len as u64) != Some(length) {
        return Err(foreign(format!("in {length} bytes, which is not what its type and shape need")));
    }
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    tensor.external_data = vec![
        entry("location", file.to_owned()),
        entry("offset", (weights.start + offset).to_string()),
        entry("length", length.to_string()),
    ];
    tensor.data_location = Some(DataLocation::External as i32);
    Ok(())
}

fn refuse_in_nodes(graph: &GraphProto) -> Result<(), ArtifactError> {
    for sparse in &graph.sparse_initializer {
        sparse.values.iter().chain(&sparse.indices).try_for_each(refuse)?;
    }
    graph.node.iter().flat_map(|node| &node.attribute).try_for_each(refuse_in_attribute)
}

fn refuse_in_attribute(attribute: &AttributeProto) -> Result<(), ArtifactError> {
    attribute.t.iter().chain(&attribute.tensors).try_for_each(refuse)?;
    for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
        sparse.values.iter().chain(&sparse.indices).try_for_each(refuse)?;
    }
    attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| {
        graph.initializer.iter().try_for_each(refuse)?;
        refuse_in_nodes(graph)
    })
}

fn refuse(tensor: &TensorProto) -> Result<(), ArtifactError> {
    if is_external(tensor) {
        let cause = "outside the graph's own initializers".to_owned();
        return Err(ArtifactError::Foreign { tensor: tensor.name().to_owned(), cause });
    }
    Ok(())
}
