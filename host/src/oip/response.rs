//! An inference's answer as JSON, or as JSON and raw tensors.

use super::binary::Answer;
use super::request::Selection;
use super::{InferError, InferResponse, ModelMetadata, json};
use defer_partition::{DType, Tensor};
use serde::ser::{Serialize, Serializer};

/// The header part of an answer; members in the order in which they are written.
#[derive(serde::Serialize)]
struct Header<'a> {
    model_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Output<'a>>,
}

#[derive(serde::Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: DType,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(serde::Serialize)]
struct Parameters {
    binary_data_size: usize,
}

struct Data<'a>(&'a Tensor);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json::serialize_data(self.0, serializer)
    }
}

/// The answer to a request that asked for `selected`.
///
/// # Errors
/// [`InferError::Failed`] where an output that the model has is missing, [`InferError::Invalid`] where an output asked
/// for as JSON holds a value that JSON cannot carry.
pub(super) fn build(
    model: &ModelMetadata,
    version: Option<&str>,
    id: Option<&str>,
    selected: &[Selection],
    response: InferResponse,
) -> Result<Answer, InferError> {
    let mut computed: Vec<Option<(String, Tensor)>> = response.outputs.into_iter().map(Some).collect();
    let mut picked: Vec<(String, Tensor, bool)> = Vec::with_capacity(selected.len());
    for selection in selected {
        let name = model.outputs.get(selection.index).map_or("", |o| o.name.as_str());
        let (name, tensor) = computed
            .iter_mut()
            .find(|slot| slot.as_ref().is_some_and(|(n, _)| n == name))
            .and_then(Option::take)
            .ok_or_else(|| InferError::Failed(format!("model \"{}\" gave no output \"{name}\"", model.name)))?;
        if !selection.binary
            && let Some((at, value)) = json::not_finite(&tensor)
        {
            return Err(InferError::Invalid(format!(
                "output \"{name}\" holds {value} at element {at}, which JSON cannot carry; ask for it with binary_data"
            )));
        }
        picked.push((name, tensor, selection.binary));
    }
    let outputs = picked.iter().map(|(name, tensor, binary)| Output {
        name,
        datatype: tensor.dtype,
        shape: &tensor.shape,
        parameters: binary.then_some(Parameters { binary_data_size: tensor.data.len() }),
        data: (!binary).then_some(Data(tensor)),
    });
    let model_version = version.or(model.versions.last().map(String::as_str));
    let header = Header { model_name: &model.name, model_version, id, outputs: outputs.collect() };
    let json = serde_json::to_vec(&header).map_err(|e| InferError::Failed(format!("cannot write the answer: {e}")))?;
    let any_binary = picked.iter().any(|(.., binary)| *binary);
    let tensors = picked.into_iter().filter(|(.., binary)| *binary).map(|(_, tensor, _)| tensor.data).collect();
    Ok(Answer { json, tensors: any_binary.then_some(tensors) })
}
