//! A model's configuration in the form of the protocol's [model configuration extension][spec]: what Triton's clients
//! look up before they send load.
//!
//! [spec]: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md

use super::ModelMetadata;
use defer_partition::{DType, TensorInfo};
use serde_json::{Value, json};

/// The configuration of `model`. A `max_batch_size` of 0 says that shapes are whole, without a batch dimension put
/// before them, and that requests are not batched together.
pub(super) fn config(model: &ModelMetadata) -> Value {
    let input = |info: &TensorInfo| {
        json!({
            "name": info.name,
            "data_type": data_type(info.dtype),
            "format": "FORMAT_NONE",
            "dims": info.shape,
            "is_shape_tensor": false,
            "allow_ragged_batch": false,
            "optional": false,
        })
    };
    let output = |info: &TensorInfo| {
        json!({
            "name": info.name,
            "data_type": data_type(info.dtype),
            "dims": info.shape,
            "label_filename": "",
            "is_shape_tensor": false,
        })
    };
    json!({
        "name": model.name,
        "platform": model.platform,
        "backend": "defer-host",
        "version_policy": { "all": {} },
        "max_batch_size": 0,
        "input": model.inputs.iter().map(input).collect::<Vec<_>>(),
        "output": model.outputs.iter().map(output).collect::<Vec<_>>(),
        "instance_group": [],
        "parameters": {},
        "model_transaction_policy": { "decoupled": false },
    })
}

/// The name of an element type in `model_config.proto`, which says `TYPE_` and the protocol's name.
fn data_type(dtype: DType) -> String {
    format!("TYPE_{dtype}")
}
