//! From a picture to a network's inputs, and from its outputs to an answer.

mod classes;
mod text;

use crate::catalogue::{Entry, Task};
use crate::metadata::{DICTIONARY_KEY, MetadataError, read_metadata};
use defer_partition::Tensor;
use image::{DynamicImage, Rgb, RgbImage};
use std::fmt;
use std::path::{Path, PathBuf};

/// Tensors by name, as a network takes them in one request.
pub type Inputs = Vec<(String, Tensor)>;

/// A picture cannot become inputs, or outputs no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot read picture {}: {cause}", path.display())]
    Open { path: PathBuf, cause: std::io::Error },
    #[error("cannot decode the picture: {cause}; give a PNG or JPEG file")]
    Picture { cause: image::ImageError },
    #[error("a picture of {width} × {height} pixels holds nothing to read")]
    Empty { width: u32, height: u32 },
    #[error(
        "a picture of {width} × {height} pixels is no single line of text: it would become {scaled} pixels wide, {limit} is the limit; cut it up"
    )]
    TooWide { width: u32, height: u32, scaled: u64, limit: usize },
    #[error("the model's metadata has no \"{DICTIONARY_KEY}\": give the metadata of the uncut model file")]
    NoDictionary,
    #[error("expected one output FP32 {want}, got {got}; is this the model that was asked?")]
    Output { want: String, got: String },
    #[error("the model knows {classes} characters and its dictionary {dictionary}; they are not of one model")]
    Dictionary { classes: usize, dictionary: usize },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// One class and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    pub index: usize,
    /// From 0 to 1.
    pub probability: f32,
}

/// What a network said of one picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The text, and the mean probability of its characters (0 when there are none).
    Text { text: String, confidence: f32 },
    /// The most likely classes, best first.
    Classes(Vec<Class>),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Text { text, confidence } => write!(f, "\"{text}\" ({confidence:.2})"),
            Answer::Classes(classes) => {
                for (i, class) in classes.iter().enumerate() {
                    let separator = if i == 0 { "" } else { ", " };
                    write!(f, "{separator}class {} ({:.3})", class.index, class.probability)?;
                }
                Ok(())
            }
        }
    }
}

/// Turns pictures into inputs of one network, and its outputs into answers.
#[derive(Clone, Debug)]
pub struct Processor {
    entry: &'static Entry,
    decoder: Decoder,
}

#[derive(Clone, Debug)]
enum Decoder {
    Text(text::Dictionary),
    Classes,
}

impl Processor {
    /// The processor of `entry`, whose model file carries `metadata`: text recognition finds its characters there.
    pub fn for_model(entry: &'static Entry, metadata: &[(String, String)]) -> Result<Self, ProcessError> {
        let decoder = match entry.task {
            Task::TextRecognition => {
                let lines = metadata.iter().find(|(key, _)| key == DICTIONARY_KEY).ok_or(ProcessError::NoDictionary)?;
                Decoder::Text(text::Dictionary::parse(&lines.1))
            }
            Task::Classification => Decoder::Classes,
        };
        Ok(Self { entry, decoder })
    }

    /// The processor of `entry`, whose model file is at `path`.
    pub fn for_file(entry: &'static Entry, path: &Path) -> Result<Self, ProcessError> {
        // A classifier needs nothing of its file, which may be large.
        let metadata = match entry.task {
            Task::TextRecognition => read_metadata(path)?,
            Task::Classification => Vec::new(),
        };
        Self::for_model(entry, &metadata)
    }

    /// The network's inputs for `picture`: FP32 \[1,3,48,W\] for text, W growing with the picture from 320 on;
    /// FP32 \[1,3,224,224\] for classification.
    pub fn input(&self, picture: &DynamicImage) -> Result<Inputs, ProcessError> {
        Self::inputs(self.entry, picture)
    }

    pub(crate) fn inputs(entry: &Entry, picture: &DynamicImage) -> Result<Inputs, ProcessError> {
        let (width, height) = (picture.width(), picture.height());
        if width == 0 || height == 0 {
            return Err(ProcessError::Empty { width, height });
        }
        let picture = on_white(picture);
        let tensor = match entry.task {
            Task::TextRecognition => text::input(&picture)?,
            Task::Classification => classes::input(&picture),
        };
        Ok(vec![(entry.input.to_owned(), tensor)])
    }

    /// What `outputs`, all outputs of the network for one picture, say.
    pub fn answer(&self, outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
        match &self.decoder {
            Decoder::Text(dictionary) => dictionary.decode(outputs),
            Decoder::Classes => classes::answer(outputs),
        }
    }
}

/// The picture in the file at `path`, PNG or JPEG by its content.
pub fn open_picture(path: &Path) -> Result<DynamicImage, ProcessError> {
    let bytes = std::fs::read(path).map_err(|cause| ProcessError::Open { path: path.to_owned(), cause })?;
    read_picture(&bytes)
}

/// The picture in `bytes`, PNG or JPEG by their content.
pub fn read_picture(bytes: &[u8]) -> Result<DynamicImage, ProcessError> {
    image::load_from_memory(bytes).map_err(|cause| ProcessError::Picture { cause })
}

/// Colours as on white paper: what is transparent would otherwise come out black, and so would print on it.
fn on_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let mut flat = RgbImage::new(picture.width(), picture.height());
    for (to, from) in flat.pixels_mut().zip(picture.to_rgba8().pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        let blend = |c: u32| ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        *to = Rgb([blend(r), blend(g), blend(b)]);
    }
    flat
}

/// The values of the only output, which must be FP32 with the shape that `fits`.
fn only_output<'a>(
    outputs: &'a [(String, Tensor)],
    want: &str,
    fits: impl Fn(&[usize]) -> bool,
) -> Result<(&'a [usize], Vec<f32>), ProcessError> {
    if let [(_, tensor)] = outputs
        && fits(&tensor.shape)
        && let Some(values) = tensor.to_f32()
    {
        return Ok((&tensor.shape, values));
    }
    let got: Vec<String> = outputs.iter().map(|(name, t)| format!("\"{name}\" {}{:?}", t.dtype, t.shape)).collect();
    Err(ProcessError::Output {
        want: want.to_owned(),
        got: if got.is_empty() { "none".to_owned() } else { got.join(", ") },
    })
}
