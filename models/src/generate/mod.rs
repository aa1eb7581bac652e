//! Networks written by this program: the architecture of a known one, with random weights.
//!
//! Every byte is the same on every machine: integers and IEEE additions, multiplications, divisions and square roots
//! only, in a fixed order, nothing from the platform's mathematics library.

mod builder;
mod maps;
mod random;
mod resnet50;

use crate::catalogue::Generator;

/// The `.onnx` file that `generator` writes.
pub(crate) fn onnx(generator: Generator) -> Vec<u8> {
    match generator {
        Generator::ResNet50 => resnet50::onnx(),
    }
}
