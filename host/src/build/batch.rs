//! Tensors whose first dimension is the network's batch, and the name that it gets in slices.
//!
//! A dimension without a name equals no other, as far as an engine can tell: onnxruntime then does not fuse a residual sum
//! with the convolution before it, since its operands might have to be broadcast. What a slice takes from different cuts
//! does have one batch in common, so that first dimensions bear its name wherever runs have shown that they follow it.

use crate::engine::Named;
use defer_partition::InputInfo;
use defer_partition::dims::dim_name;
use defer_partition::onnx::proto::ValueInfoProto;
use defer_partition::onnx::proto::tensor_shape_proto::dimension::Value as Size;
use defer_partition::onnx::proto::type_proto::Value as Type;
use defer_partition::slice::Slice;
use std::collections::{BTreeSet, HashMap};

/// What runs in several shapes have shown of first dimensions.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// First dimensions in the first run.
    first: HashMap<String, usize>,
    /// The batch that a tensor's first dimension has followed.
    follows: HashMap<String, String>,
    /// Tensors whose first dimension changed with something else.
    strays: BTreeSet<String>,
}

impl Batch {
    pub fn new(results: &[Named]) -> Self {
        let first = results.iter().filter_map(|(name, tensor)| Some((name.clone(), *tensor.shape.first()?)));
        Self { first: first.collect(), ..Self::default() }
    }

    /// Takes in what came of `other` inputs, which differ from those of the first run in the dimension `changed`, or in
    /// values only.
    pub fn observe(
        &mut self,
        inputs: &[InputInfo],
        changed: Option<&str>,
        sizes: (&[Named], &[Named]),
        results: &[Named],
    ) {
        let batch = changed.and_then(|name| {
            let input = inputs.iter().find(|input| dim_name(input, 0).as_deref() == Some(name))?;
            let size = |request: &[Named]| {
                let (_, tensor) = request.iter().find(|(given, _)| *given == input.name)?;
                tensor.shape.first().copied()
            };
            Some((name, size(sizes.0)?, size(sizes.1)?))
        });
        for (name, tensor) in results {
            let (Some(&before), now) = (self.first.get(name), tensor.shape.first().copied()) else { continue };
            match batch {
                Some((batch, old, new)) if old != new && before == old && now == Some(new) => {
                    self.follows.insert(name.clone(), batch.to_owned());
                }
                _ if now == Some(before) => {}
                _ => drop(self.strays.insert(name.clone())),
            }
        }
    }

    /// Nothing is known: the network refuses other sizes.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// The shape of `name` depends on what is in the inputs.
    pub fn exclude(&mut self, name: &str) {
        self.strays.insert(name.to_owned());
    }

    /// Names the first dimensions of `slice`'s inputs and outputs that follow a batch.
    pub fn name(&self, network: &[InputInfo], slice: &mut Slice) {
        let graph = slice.model.graph.iter_mut();
        for value in graph.flat_map(|graph| graph.input.iter_mut().chain(&mut graph.output)) {
            let of_input = network.iter().find(|input| input.name == value.name()).and_then(|input| dim_name(input, 0));
            let followed = self.follows.get(value.name()).filter(|_| !self.strays.contains(value.name())).cloned();
            // An input's own dimension is named only for what follows it.
            let batch = followed.or_else(|| of_input.filter(|name| self.follows.values().any(|batch| batch == name)));
            if let (Some(batch), Some(size)) = (batch, first_dim(value)) {
                *size = Some(Size::DimParam(batch));
            }
        }
    }
}

/// The first dimension of `value`, if it is open.
fn first_dim(value: &mut ValueInfoProto) -> Option<&mut Option<Size>> {
    let Type::TensorType(tensor) = value.r#type.as_mut()?.value.as_mut()? else { return None };
    let size = &mut tensor.shape.as_mut()?.dim.first_mut()?.value;
    (!matches!(size, Some(Size::DimValue(_)))).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::{DType, Dim, Tensor};

    fn named(name: &str, shape: &[usize]) -> Named {
        let data = vec![0; shape.iter().product()];
        (name.to_owned(), Tensor::new(DType::Uint8, shape.to_vec(), data).unwrap())
    }

    #[test]
    fn only_what_follows_the_batch_and_nothing_else_bears_its_name() {
        let n = || Dim::Symbol("n".into());
        let inputs = [InputInfo { name: "x".into(), dtype: DType::Uint8, dims: vec![n(), Dim::Symbol("w".into())] }];
        let mut batch =
            Batch::new(&[named("same", &[1, 4]), named("flat", &[4]), named("fixed", &[1]), named("odd", &[1])]);
        let x = |n, w| [named("x", &[n, w])];
        let results = |same, flat, odd| {
            [named("same", &[same, 4]), named("flat", &[flat]), named("fixed", &[1]), named("odd", &[odd])]
        };
        batch.observe(&inputs, Some("n"), (&x(1, 4), &x(2, 4)), &results(2, 8, 2));
        batch.observe(&inputs, Some("w"), (&x(1, 4), &x(1, 8)), &results(1, 8, 2));
        batch.observe(&inputs, None, (&x(1, 4), &x(1, 4)), &results(1, 4, 1));
        let info = |name: &str| {
            let dims = vec![Dim::Unknown, Dim::Unknown];
            InputInfo { name: name.into(), dtype: DType::Uint8, dims }.value_info()
        };
        let graph = defer_partition::onnx::proto::GraphProto {
            input: ["x", "same", "flat", "fixed", "odd"].map(info).to_vec(),
            ..Default::default()
        };
        let model = defer_partition::onnx::proto::ModelProto { graph: Some(graph), ..Default::default() };
        let mut slice = Slice { model, weights: Vec::new(), weights_len: 0 };
        batch.name(&inputs, &mut slice);
        let mut graph = slice.model.graph.unwrap();
        let names: Vec<_> = graph.input.iter_mut().map(|value| first_dim(value).unwrap().clone()).collect();
        let n = || Some(Size::DimParam("n".into()));
        assert_eq!(names, [n(), n(), None, None, None]);
    }
}
