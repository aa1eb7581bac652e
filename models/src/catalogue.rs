//! The networks known by name.

use crate::process::{Inputs, ProcessError, Processor};
use crate::samples::{calibration_lines, trial_lines};
use defer_partition::{DType, TensorInfo};

/// What a network is for, hence how its inputs are made and its outputs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Reads one line of text: picture in, characters out.
    TextRecognition,
    /// Finds text in a picture: how likely each pixel belongs to a line of it.
    TextDetection,
    /// Tells whether a line of text stands on its head.
    TextDirection,
    /// Picture in, one score per class out.
    Classification,
    /// Token ids in, vectors out.
    TokenEmbedding,
}

impl Task {
    /// For a person, and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextRecognition => "text recognition",
            Self::TextDetection => "text detection",
            Self::TextDirection => "text direction",
            Self::Classification => "classification",
            Self::TokenEmbedding => "token embedding",
        }
    }
}

/// A network that is written by this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    ResNet50,
    Vgg16,
    Vgg19,
    MobileNetV2,
    BertMini,
}

/// Where a network's file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written here, the same bytes on every machine.
    Generated(Generator),
    /// One file out of a wheel on the Python package index.
    Wheel { package: &'static str, version: &'static str, member: &'static str },
}

/// One input of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    pub name: &'static str,
    pub dtype: DType,
    /// -1 for dimensions that each request chooses.
    pub shape: &'static [i64],
}

impl Input {
    /// The same, as it is spoken of elsewhere.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { name: self.name.to_owned(), dtype: self.dtype, shape: self.shape.to_vec() }
    }
}

/// One network of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is called on the command line, and the name of its pipeline.
    pub name: &'static str,
    /// One line for a person.
    pub summary: &'static str,
    pub origin: Origin,
    /// SHA-256 of the `.onnx` file, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// SPDX identifier of the weights' licence.
    pub licence: &'static str,
    /// Whose work the weights are.
    pub attribution: &'static str,
    /// Whether the weights were learnt; if not, its answers mean nothing and only its arithmetic is of use.
    pub trained: bool,
    pub task: Task,
    /// In the order of the file.
    pub inputs: &'static [Input],
}

/// What the three networks of text recognition share.
const RAPIDOCR: Entry = Entry {
    name: "",
    summary: "",
    origin: rapidocr(""),
    sha256: "",
    licence: "Apache-2.0",
    attribution: "weights copyright Baidu and the PaddleOCR authors (https://github.com/PaddlePaddle/PaddleOCR), \
                  converted and packaged by RapidOCR (https://github.com/RapidAI/RapidOCR)",
    trained: true,
    task: Task::TextRecognition,
    inputs: &[],
};

const fn rapidocr(member: &'static str) -> Origin {
    Origin::Wheel { package: "rapidocr", version: "3.10.0", member }
}

/// What the generated networks that classify pictures share.
const CLASSIFIER: Entry = Entry {
    name: "",
    summary: "",
    origin: Origin::Generated(Generator::ResNet50),
    sha256: "",
    licence: "MIT OR Apache-2.0",
    attribution: "",
    trained: false,
    task: Task::Classification,
    inputs: &[Input { name: "input", dtype: DType::Fp32, shape: &[-1, 3, 224, 224] }],
};

const fn ids(name: &'static str) -> Input {
    Input { name, dtype: DType::Int64, shape: &[-1, -1] }
}

static CATALOGUE: [Entry; 8] = [
    Entry {
        name: "ocr-rec",
        summary: "PP-OCRv6 small text recognition: one line of printed text, 18,708 characters",
        origin: rapidocr("rapidocr/models/PP-OCRv6_rec_small.onnx"),
        sha256: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        inputs: &[Input { name: "x", dtype: DType::Fp32, shape: &[-1, 3, 48, -1] }],
        ..RAPIDOCR
    },
    Entry {
        name: "ocr-det",
        summary: "PP-OCRv6 small text detection: where text stands in a picture of any size",
        origin: rapidocr("rapidocr/models/PP-OCRv6_det_small.onnx"),
        sha256: "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        task: Task::TextDetection,
        inputs: &[Input { name: "x", dtype: DType::Fp32, shape: &[-1, 3, -1, -1] }],
        ..RAPIDOCR
    },
    Entry {
        name: "ocr-cls",
        summary: "PP-OCR mobile v2.0 text direction: whether a line of text stands on its head",
        origin: rapidocr("rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
        sha256: "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        task: Task::TextDirection,
        inputs: &[Input { name: "x", dtype: DType::Fp32, shape: &[-1, 3, -1, -1] }],
        ..RAPIDOCR
    },
    Entry {
        name: "resnet50",
        summary: "ResNet-50 v1.5 with random weights (untrained), 25.6 million parameters",
        origin: Origin::Generated(Generator::ResNet50),
        sha256: "8248fce8e2dad8de96fc27337e4250bad9550723eb2a18322b66e100d84872e2",
        attribution: "generated by this program; architecture of He et al., 2015 (https://arxiv.org/abs/1512.03385)",
        ..CLASSIFIER
    },
    Entry {
        name: "vgg16",
        summary: "VGG-16 with random weights (untrained), 138.4 million parameters, 553 MB",
        origin: Origin::Generated(Generator::Vgg16),
        sha256: "cd4faf77646a85161688a6ca0862493fd695967316fb8e480fff80e3ce2c1f6b",
        attribution: "generated by this program; architecture of Simonyan and Zisserman, 2014 \
                      (https://arxiv.org/abs/1409.1556)",
        ..CLASSIFIER
    },
    Entry {
        name: "vgg19",
        summary: "VGG-19 with random weights (untrained), 143.7 million parameters, 575 MB",
        origin: Origin::Generated(Generator::Vgg19),
        sha256: "b38ef43620245f2bd1517953ed8bcd0bd813c5e4c346ecdbe574f1e4921fce9d",
        attribution: "generated by this program; architecture of Simonyan and Zisserman, 2014 \
                      (https://arxiv.org/abs/1409.1556)",
        ..CLASSIFIER
    },
    Entry {
        name: "mobilenetv2",
        summary: "MobileNetV2 with random weights (untrained), 3.5 million parameters",
        origin: Origin::Generated(Generator::MobileNetV2),
        sha256: "887c9857b24e5425c99d70e00d95811e7c52620d0119b6c39e7917f1c289579d",
        attribution: "generated by this program; architecture of Sandler et al., 2018 \
                      (https://arxiv.org/abs/1801.04381)",
        ..CLASSIFIER
    },
    Entry {
        name: "bert-mini",
        summary: "BERT-mini with random weights (untrained), 4 layers of width 256, 11.2 million parameters",
        origin: Origin::Generated(Generator::BertMini),
        sha256: "f9c6ce0d6f21e56e3977a1a4dc97e0ffa3745b6f856283d1fc898245bbd045b4",
        attribution: "generated by this program; architecture of Devlin et al., 2018 \
                      (https://arxiv.org/abs/1810.04805), in a size of Turc et al., 2019 \
                      (https://arxiv.org/abs/1908.08962)",
        task: Task::TokenEmbedding,
        inputs: &[ids("input_ids"), ids("attention_mask"), ids("token_type_ids")],
        ..CLASSIFIER
    },
];

/// All networks known by name.
pub fn catalogue() -> &'static [Entry] {
    &CATALOGUE
}

/// The network called `name`.
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name == name)
}

impl Entry {
    /// Where the file comes from, for a person.
    pub fn origin(&self) -> String {
        match self.origin {
            Origin::Wheel { package, version, member } => format!("{member} in the wheel {package}=={version}"),
            Origin::Generated(_) => "this program's generator".to_owned(),
        }
    }

    /// Ready inputs, each with a name: the sample pictures as tensors, or made-up token ids. Not all of the same shape
    /// where the network takes several.
    pub fn sample_inputs(&self) -> Result<Vec<(String, Inputs)>, ProcessError> {
        Processor::samples(self)
    }
    /// Inputs to set something by, such as how much values may be rounded: the samples, and more of their kind.
    pub fn calibration_inputs(&self) -> Result<Vec<(String, Inputs)>, ProcessError> {
        let more = Processor::printed(self, &calibration_lines().collect::<Vec<_>>(), 1)?;
        Ok(self.sample_inputs()?.into_iter().chain(more).collect())
    }

    /// Inputs that are none of [`Entry::calibration_inputs`], to try on them what was set. A line of print has the name of its
    /// sample.
    pub fn trial_inputs(&self) -> Result<Vec<(String, Inputs)>, ProcessError> {
        Processor::printed(self, &trial_lines().collect::<Vec<_>>(), 2)
    }
}
