//! Attributes of nodes.

use super::maps::Window;
use defer_partition::onnx::proto::AttributeProto;
use defer_partition::onnx::proto::attribute_proto::AttributeType;

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..Default::default() }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto { ints: values.iter().map(|&v| v as i64).collect(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// What convolutions and poolings say of their window.
pub(super) fn sliding(window: Window) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &[window.size; 2]),
        ints("strides", &[window.stride; 2]),
        ints("pads", &[window.padding; 4]),
    ]
}
