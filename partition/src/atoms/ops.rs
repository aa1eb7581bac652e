//! What kind of work each operator is, as far as fusion goes.

use crate::graph::Node;

/// Matrix products and convolutions: what engines fuse other operations into.
pub(super) fn is_product(node: &Node) -> bool {
    matches!(
        node.op(),
        "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "MatMul"
            | "ConvInteger"
            | "MatMulInteger"
            | "QLinearConv"
            | "QLinearMatMul"
    )
}

/// One result per element, from elements at the same place.
pub(super) fn is_elementwise(node: &Node) -> bool {
    const OPS: [&str; 42] = [
        "Abs",
        "Add",
        "Cast",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Div",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    ];
    OPS.contains(&node.op()) && node.captures.is_empty()
}

/// Elementwise, a normalisation, or a reduction: the parts of layer norms, softmaxes and activations written out.
pub(super) fn is_cheap(node: &Node) -> bool {
    is_elementwise(node) || matches!(node.op(), "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceSumSquare")
}

/// Normalisation per channel with constants: fused into a product before it, or cheap.
pub(super) fn is_channel_norm(node: &Node) -> bool {
    node.op() == "BatchNormalization"
}

/// Moves or relabels elements without computing.
pub(super) fn is_move(node: &Node) -> bool {
    matches!(node.op(), "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Cast" | "Identity")
}

/// Reads a tensor's shape only.
pub(super) fn is_shape_source(node: &Node) -> bool {
    matches!(node.op(), "Shape" | "Size")
}

/// Operators that compute with shapes, when their inputs are shapes.
pub(super) fn is_shape_step(node: &Node) -> bool {
    const OPS: [&str; 18] = [
        "Add",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Floor",
        "Gather",
        "Mul",
        "Range",
        "ReduceProd",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Unsqueeze",
        "Where",
        "Mod",
    ];
    OPS.contains(&node.op()) && node.captures.is_empty()
}

/// Produces values that are no dense tensors of numbers and cannot travel between stages.
pub(super) fn makes_no_tensor(node: &Node) -> bool {
    const OPS: [&str; 10] = [
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
    ];
    const STRING: i64 = 8;
    OPS.contains(&node.op()) || (node.op() == "Cast" && node.int("to", 0) == STRING)
}
