//! An inference request's body, checked against the model that it is for.
//!
//! The JSON is read twice: once for names, types and shapes, with the numbers skipped, and once for the numbers, when
//! the type of each is known. The order of a JSON object's members is free, and holding numbers of unknown type would
//! take many times the body's size.

use super::binary::{self, Parts};
use super::json::DataSeed;
use super::{InferError, ModelMetadata, raw};
use defer_partition::{DType, Tensor, TensorInfo};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::time::Duration;

/// A checked request: what to compute, and how to answer.
#[derive(Debug)]
pub struct Parsed {
    /// In the order of the model's inputs.
    pub inputs: Vec<(String, Tensor)>,
    pub budget: Option<Duration>,
    /// Echoed in the answer, and nothing else.
    pub id: Option<String>,
    /// The outputs to answer with, in this order.
    pub outputs: Vec<Selection>,
}

/// One output that the client wants, and in which form.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Position among the model's outputs.
    pub index: usize,
    pub binary: bool,
}

#[derive(Deserialize)]
struct Header {
    id: Option<String>,
    parameters: Option<RequestParameters>,
    inputs: Vec<Input>,
    outputs: Option<Vec<Output>>,
}

#[derive(Deserialize, Default)]
struct RequestParameters {
    /// Microseconds.
    timeout: Option<u64>,
    binary_data_output: Option<bool>,
    sequence_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: Option<InputParameters>,
    data: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    binary_data_size: Option<u64>,
    shared_memory_region: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    parameters: Option<OutputParameters>,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<IgnoredAny>,
    shared_memory_region: Option<IgnoredAny>,
}

/// Reads a request for `model`. `header_length` is the value of `Inference-Header-Content-Length`, if the client sent
/// one. Each tensor's bytes are copied once.
///
/// # Errors
/// [`InferError::Invalid`] naming the input or output and what is wrong with it.
pub fn parse(model: &ModelMetadata, body: &[u8], header_length: Option<usize>) -> Result<Parsed, InferError> {
    if header_length == Some(0) {
        return raw::parse(model, body).map_err(InferError::Invalid);
    }
    let parts = binary::split(body, header_length).map_err(InferError::Invalid)?;
    let header: Header = serde_json::from_slice(parts.json).map_err(|e| InferError::Invalid(unreadable(model, &e)))?;
    let parameters = header.parameters.unwrap_or_default();
    if parameters.sequence_id.is_some() {
        return Err(invalid("sequences are not served: every request stands alone; leave out sequence_id"));
    }
    let outputs = select(model, header.outputs.unwrap_or_default(), parameters.binary_data_output.unwrap_or_default())?;
    let inputs = read_inputs(model, &header.inputs, parts).map_err(InferError::Invalid)?;
    let budget = parameters.timeout.filter(|&us| us > 0).map(Duration::from_micros);
    Ok(Parsed { inputs, budget, id: header.id, outputs })
}

fn unreadable(model: &ModelMetadata, error: &serde_json::Error) -> String {
    format!("cannot read the request for model \"{}\": {error}", model.name)
}

fn invalid(message: impl Into<String>) -> InferError {
    InferError::Invalid(message.into())
}

fn select(model: &ModelMetadata, wanted: Vec<Output>, all_binary: bool) -> Result<Vec<Selection>, InferError> {
    if wanted.is_empty() {
        return Ok((0..model.outputs.len()).map(|index| Selection { index, binary: all_binary }).collect());
    }
    let mut selected: Vec<Selection> = Vec::new();
    for output in wanted {
        let name = &output.name;
        let parameters = output.parameters.unwrap_or_default();
        let Some(index) = model.outputs.iter().position(|o| o.name == *name) else {
            let known = list(&model.outputs);
            return Err(invalid(format!("model \"{}\" has no output \"{name}\"; it has {known}", model.name)));
        };
        if selected.iter().any(|s| s.index == index) {
            return Err(invalid(format!("output \"{name}\" is asked for twice")));
        }
        if parameters.classification.is_some() {
            return Err(invalid(format!("classification of output \"{name}\" is not served; ask for its values")));
        }
        if parameters.shared_memory_region.is_some() {
            return Err(invalid(format!(
                "output \"{name}\": shared memory is not served; take the values in the answer"
            )));
        }
        selected.push(Selection { index, binary: parameters.binary_data.unwrap_or(all_binary) });
    }
    Ok(selected)
}

/// Where the bytes of an input are.
enum Source<'a> {
    Binary(&'a [u8]),
    Json,
}

/// An input that fits the model, without its values yet if they are in JSON.
struct Declared<'a> {
    /// Position among the model's inputs.
    index: usize,
    info: &'a TensorInfo,
    shape: Vec<usize>,
    source: Source<'a>,
}

fn read_inputs(model: &ModelMetadata, inputs: &[Input], parts: Parts<'_>) -> Result<Vec<(String, Tensor)>, String> {
    let mut rest = parts.tensors.unwrap_or_default();
    let mut declared: Vec<Declared<'_>> = Vec::new();
    for input in inputs {
        let next = declare(model, input, parts.tensors.is_some(), &mut rest)?;
        if declared.iter().any(|d| d.index == next.index) {
            return Err(format!("input \"{}\" is given twice", input.name));
        }
        declared.push(next);
    }
    if !rest.is_empty() {
        return Err(format!("the body has {} bytes more than its inputs' binary_data_size say", rest.len()));
    }
    if let Some(missing) = model.inputs.iter().enumerate().find(|(i, _)| declared.iter().all(|d| d.index != *i)) {
        return Err(format!("model \"{}\" needs input {}, which the request lacks", model.name, missing.1));
    }
    let mut values = if declared.iter().any(|d| matches!(d.source, Source::Json)) {
        read_numbers(&declared, parts.json)
            .map_err(|e| if e.is_data() { e.to_string() } else { unreadable(model, &e) })?
    } else {
        declared.iter().map(|_| None).collect()
    };
    let mut found: Vec<(usize, String, Tensor)> = Vec::with_capacity(declared.len());
    for (d, value) in declared.into_iter().zip(&mut values) {
        let data = match d.source {
            Source::Binary(bytes) => bytes.to_vec(),
            Source::Json => value.take().unwrap_or_default(),
        };
        let tensor = Tensor::new(d.info.dtype, d.shape, data)
            .ok_or_else(|| format!("input \"{}\" has not as many bytes as its shape takes", d.info.name))?;
        found.push((d.index, d.info.name.clone(), tensor));
    }
    found.sort_by_key(|(index, ..)| *index);
    Ok(found.into_iter().map(|(_, name, tensor)| (name, tensor)).collect())
}

/// Checks one input's declaration, and takes its bytes off the front of `rest` if they are there.
fn declare<'a>(
    model: &'a ModelMetadata,
    input: &Input,
    binary: bool,
    rest: &mut &'a [u8],
) -> Result<Declared<'a>, String> {
    let Input { name, datatype, shape: given, .. } = input;
    let Some((index, info)) = model.inputs.iter().enumerate().find(|(_, i)| i.name == *name) else {
        let known = list(&model.inputs);
        return Err(format!("model \"{}\" has no input \"{name}\"; it has {known}", model.name));
    };
    let expects = |got: &dyn fmt::Display| {
        let TensorInfo { dtype, shape, .. } = info;
        format!("input \"{name}\" of model \"{}\" expects {dtype}{shape:?}, got {got}", model.name)
    };
    let Some(dtype) = DType::ALL.into_iter().find(|d| d.name() == datatype) else {
        let known = if datatype == "BYTES" { "strings (BYTES) are not served" } else { "which is no element type" };
        return Err(expects(&format!("{datatype}{given:?}; {known}")));
    };
    let shape: Option<Vec<usize>> = given.iter().map(|&d| usize::try_from(d).ok()).collect();
    let Some(shape) = shape.filter(|s| dtype == info.dtype && info.admits(s)) else {
        return Err(expects(&format!("{dtype}{given:?}")));
    };
    let parameters = input.parameters.as_ref();
    if parameters.is_some_and(|p| p.shared_memory_region.is_some()) {
        return Err(format!("input \"{name}\": shared memory is not served; send the values in the request"));
    }
    let source = match (parameters.and_then(|p| p.binary_data_size), &input.data) {
        (Some(_), Some(_)) => return Err(format!("input \"{name}\" has both data and binary_data_size; send one")),
        (None, None) => return Err(format!("input \"{name}\" has neither data nor binary_data_size")),
        (None, Some(_)) => Source::Json,
        (Some(_), None) if !binary => {
            return Err(format!(
                "input \"{name}\" has binary_data_size, but the request has no header Inference-Header-Content-Length"
            ));
        }
        (Some(size), None) => {
            Source::Binary(binary::take(rest, size, dtype, &shape).map_err(|e| format!("input \"{name}\" {e}"))?)
        }
    };
    Ok(Declared { index, info, shape, source })
}

fn list(tensors: &[TensorInfo]) -> String {
    if tensors.is_empty() {
        return "none".into();
    }
    tensors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Reads the `data` of the inputs that have theirs in the JSON; `None` at the others' places.
fn read_numbers(declared: &[Declared<'_>], json: &[u8]) -> serde_json::Result<Found> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    let found = Numbers { declared, at: Place::Request, json_len: json.len() }.deserialize(&mut parser)?;
    parser.end()?;
    Ok(found)
}

/// Which part of the request the second reading is in.
#[derive(Clone, Copy)]
enum Place {
    Request,
    Inputs,
    Input(usize),
}

#[derive(Clone, Copy)]
struct Numbers<'a> {
    declared: &'a [Declared<'a>],
    at: Place,
    json_len: usize,
}

type Found = Vec<Option<Vec<u8>>>;

impl<'de> DeserializeSeed<'de> for Numbers<'_> {
    type Value = Found;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Numbers<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an inference request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match (self.at, &*key) {
                (Place::Request, "inputs") => found = map.next_value_seed(Self { at: Place::Inputs, ..self })?,
                (Place::Input(i), "data") => {
                    let Some(Declared { info, shape, source: Source::Json, .. }) = self.declared.get(i) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let label = format!("input \"{}\"", info.name);
                    let seed = DataSeed::new(&label, info.dtype, shape, self.json_len).map_err(de::Error::custom)?;
                    found = vec![Some(map.next_value_seed(seed)?)];
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        let mut found = Found::new();
        while let Some(one) = seq.next_element_seed(Self { at: Place::Input(found.len()), ..self })? {
            found.push(one.into_iter().next().flatten());
        }
        Ok(found)
    }
}
