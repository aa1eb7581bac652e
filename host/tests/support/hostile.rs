//! Stage artifacts made by hand, to be wrong in one thing each.

use super::networks::model;
use defer_host::artifact::{self, Digest, FORMAT, GRAPH, MANIFEST, Manifest, WEIGHTS};
use defer_host::build::GUEST;
use defer_partition::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    attribute_proto::AttributeType, tensor_proto::DataLocation,
};
use defer_partition::slice::{self, Slice};
use defer_partition::testing::op;
use defer_partition::{DType, Network, TensorInfo};

/// What an artifact of one stage, `y = tanh(x · w)`, is made of.
#[derive(Clone)]
pub struct Parts {
    pub guest: Vec<u8>,
    pub manifest: Manifest,
    pub slice: Slice,
}

impl Parts {
    /// Parts that make a good stage 0 of 1 of pipeline `name`.
    pub fn good(name: &str) -> Self {
        let network = super::networks::ladder(1);
        let network = Network::new(network).expect("a good network");
        let tensor = |name: &str| TensorInfo { name: name.into(), dtype: DType::Fp32, shape: vec![-1, 64] };
        let manifest = Manifest {
            format: FORMAT,
            pipeline: name.to_owned(),
            index: 0,
            count: 1,
            inputs: vec![tensor("x")],
            outputs: vec![tensor("y")],
            forwards: Vec::new(),
            model_digest: "0".repeat(64),
            warm_up: vec![vec![2, 64]],
            graph_bytes: 0,
            weights_bytes: 0,
            activation_peak_bytes: None,
        };
        Self { guest: GUEST.to_vec(), manifest, slice: slice::whole(&network, &[]) }
    }

    /// Parts that make stage 0 of 1 of pipeline `name` of another network, with open dimensions of 1 in
    /// its warm-up.
    pub fn of(name: &str, model: ModelProto, inputs: Vec<TensorInfo>, outputs: Vec<TensorInfo>) -> Self {
        let network = Network::new(model).expect("a network");
        let warm_up = inputs.iter().map(|info| info.shape.iter().map(|&dim| dim.max(1) as usize).collect()).collect();
        let mut parts = Self::good(name);
        parts.manifest = Manifest { inputs, outputs, warm_up, ..parts.manifest };
        parts.slice = slice::whole(&network, &[]);
        parts
    }

    pub fn artifact(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        artifact::write(&mut bytes, &self.guest, self.manifest.clone(), &self.slice).expect("memory is written to");
        bytes
    }

    pub fn graph(&mut self) -> &mut GraphProto {
        self.slice.model.graph.as_mut().expect("a model has a graph")
    }

    /// The initializer that lies outside the graph.
    pub fn weight(&mut self) -> &mut TensorProto {
        let external = |tensor: &&mut TensorProto| !tensor.external_data.is_empty();
        self.graph().initializer.iter_mut().find(external).expect("its weight lies outside")
    }

    /// Sets an entry of the weight's external data.
    pub fn external(mut self, key: &str, value: &str) -> Self {
        let entries = &mut self.weight().external_data;
        entries.retain(|entry| entry.key() != key);
        entries.push(StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) });
        self
    }

    /// With another component around it.
    pub fn component(mut self, text: &str) -> Self {
        self.guest = wat::parse_str(text).expect("the test's own component");
        self
    }
}

pub fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).expect("memory is read").to_string()
}

/// A tensor of 300 floats that lies in the file `location`.
pub fn external_tensor(location: &str) -> TensorProto {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    TensorProto {
        name: Some("stolen".into()),
        dims: vec![300],
        data_type: Some(DType::Fp32.onnx()),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![entry("location", location), entry("offset", "0"), entry("length", "1200")],
        ..Default::default()
    }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(r#type as i32), ..Default::default() }
}

/// A `Constant` whose value lies elsewhere.
pub fn constant_from(location: &str) -> NodeProto {
    let mut node = op("Constant", &[], &["stolen"]);
    node.attribute
        .push(AttributeProto { t: Some(external_tensor(location)), ..attribute("value", AttributeType::Tensor) });
    node
}

/// A function in whose body a `Constant`'s value lies elsewhere.
pub fn function_from(location: &str) -> FunctionProto {
    FunctionProto {
        name: Some("Thief".into()),
        domain: Some("org.example".into()),
        output: vec!["stolen".into()],
        node: vec![constant_from(location)],
        ..Default::default()
    }
}

/// A function with an attribute whose default lies elsewhere.
pub fn default_from(location: &str) -> FunctionProto {
    let default = AttributeProto { t: Some(external_tensor(location)), ..attribute("loot", AttributeType::Tensor) };
    FunctionProto {
        name: Some("Thief".into()),
        domain: Some("org.example".into()),
        attribute_proto: vec![default],
        ..Default::default()
    }
}

/// An `If` in whose branch an initializer lies elsewhere.
pub fn branch_from(location: &str) -> NodeProto {
    let branch = |name: &str| {
        let graph = GraphProto { initializer: vec![external_tensor(location)], ..Default::default() };
        AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }
    };
    let mut node = op("If", &["flag"], &["chosen"]);
    node.attribute = vec![branch("then_branch"), branch("else_branch")];
    node
}

/// A custom section as `build-stages` writes them, of any content.
pub fn section(name: &str, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len() + 1 + name.len()).expect("a small section");
    let mut bytes = vec![0];
    bytes.extend((0..5).map(|i| (size >> (7 * i) & 0x7f) as u8 | if i < 4 { 0x80 } else { 0 }));
    bytes.push(u8::try_from(name.len()).expect("a short name"));
    bytes.extend(name.as_bytes());
    bytes.extend(payload);
    bytes
}

/// The three sections, empty but for what is given.
pub fn sections(guest: &[u8], manifest: &[u8], graph: &[u8], weights: &[u8]) -> Vec<u8> {
    [guest, &section(MANIFEST, manifest), &section(GRAPH, graph), &section(WEIGHTS, weights)].concat()
}

/// An empty model: valid protobuf, no use.
pub fn empty_model() -> ModelProto {
    model(Vec::new(), Vec::new(), Vec::new(), Vec::new())
}

/// A component that computes as the guest does, but for `mood`: core instructions that it meets in the second `run` of
/// each instance (the first of the warm-up and the first of the slot go well), with `$ptr` and `$len` of the inputs.
pub fn moody(mood: &str) -> String {
    COMPONENT.replace(";; MOOD", mood)
}

const COMPONENT: &str = include_str!("moody.wat");
