//! From a picture to a network's inputs, and from its outputs to an answer.

mod answer;
mod classes;
mod detect;
mod direction;
mod line;
mod text;
mod tokens;

pub use answer::{Answer, Class, Region};

use crate::catalogue::{Entry, Task};
use crate::metadata::{DICTIONARY_KEY, MetadataError, read_metadata};
use crate::samples::{Sample, page, samples};
use defer_partition::Tensor;
use image::{DynamicImage, Rgb, RgbImage};
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
    #[error("model {model} takes token ids, no pictures; give its inputs as .npy files")]
    NoPictures { model: &'static str },
    #[error("expected {want}, got {got}; is this the model that was asked?")]
    Output { want: String, got: String },
    #[error("the model knows {classes} characters and its dictionary {dictionary}; they are not of one model")]
    Dictionary { classes: usize, dictionary: usize },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Pages that are put together hold so many lines, …
const LINES_ON_A_PAGE: usize = 4;
/// … with so many pixels between them.
const GAP: u32 = 24;

/// Turns pictures into inputs of one network, and its outputs into answers.
#[derive(Clone, Debug)]
pub struct Processor {
    entry: &'static Entry,
    decoder: Decoder,
}

#[derive(Clone, Debug)]
enum Decoder {
    Text(text::Dictionary),
    Regions,
    Direction,
    Classes,
    Embedding,
}

impl Processor {
    /// The processor of `entry`, whose model file carries `metadata`: text recognition finds its characters there.
    pub fn for_model(entry: &'static Entry, metadata: &[(String, String)]) -> Result<Self, ProcessError> {
        let decoder = match entry.task {
            Task::TextRecognition => {
                let lines = metadata.iter().find(|(key, _)| key == DICTIONARY_KEY).ok_or(ProcessError::NoDictionary)?;
                Decoder::Text(text::Dictionary::parse(&lines.1))
            }
            Task::TextDetection => Decoder::Regions,
            Task::TextDirection => Decoder::Direction,
            Task::Classification => Decoder::Classes,
            Task::TokenEmbedding => Decoder::Embedding,
        };
        Ok(Self { entry, decoder })
    }

    /// The processor of `entry`, whose model file is at `path`.
    pub fn for_file(entry: &'static Entry, path: &Path) -> Result<Self, ProcessError> {
        // The others need nothing of their files, which may be large.
        let metadata = if entry.task == Task::TextRecognition { read_metadata(path)? } else { Vec::new() };
        Self::for_model(entry, &metadata)
    }

    /// The network's inputs for `picture`: FP32 \[1,3,48,W\] to read text, W growing with the picture from 320 on;
    /// FP32 \[1,3,H,W\], multiples of 32 up to 960, to find text; FP32 \[1,3,48,192\] for its direction;
    /// FP32 \[1,3,224,224\] for classification. An error for networks that take no pictures.
    pub fn input(&self, picture: &DynamicImage) -> Result<Inputs, ProcessError> {
        Self::inputs(self.entry, picture)
    }

    /// See [`Entry::sample_inputs`].
    pub(crate) fn samples(entry: &Entry) -> Result<Vec<(String, Inputs)>, ProcessError> {
        let mut pictures = Vec::new();
        match entry.task {
            Task::TokenEmbedding => return Ok(tokens::samples(entry)),
            Task::TextDetection => pictures.push((page().name.to_owned(), read_picture(page().png)?)),
            _ => {}
        }
        for sample in samples() {
            let picture = read_picture(sample.png)?;
            // One that stands on its head, to tell apart from the same upright.
            let turned = (entry.task == Task::TextDirection).then(|| picture.rotate180());
            pictures.push((sample.name.to_owned(), picture));
            pictures.extend(turned.map(|turned| (format!("{}-turned", sample.name), turned)));
        }
        pictures.into_iter().map(|(name, picture)| Ok((name, Self::inputs(entry, &picture)?))).collect()
    }

    /// Inputs of printed lines: each by itself, or, where text is to be found, some on a page; token ids by `seed` for networks
    /// that take those.
    pub(crate) fn printed(
        entry: &Entry,
        lines: &[&Sample],
        seed: usize,
    ) -> Result<Vec<(String, Inputs)>, ProcessError> {
        let mut pictures = Vec::new();
        match entry.task {
            Task::TokenEmbedding => return Ok(tokens::made_up(entry, seed)),
            Task::TextDetection => {
                for (index, lines) in lines.chunks(LINES_ON_A_PAGE).enumerate() {
                    pictures.push((format!("page-{}", index + 1), page_of(lines)?));
                }
            }
            _ => {
                for line in lines {
                    let picture = read_picture(line.png)?;
                    let turned = (entry.task == Task::TextDirection).then(|| picture.rotate180());
                    pictures.push((line.name.to_owned(), picture));
                    pictures.extend(turned.map(|turned| (format!("{}-turned", line.name), turned)));
                }
            }
        }
        pictures.into_iter().map(|(name, picture)| Ok((name, Self::inputs(entry, &picture)?))).collect()
    }

    fn inputs(entry: &Entry, picture: &DynamicImage) -> Result<Inputs, ProcessError> {
        let (width, height) = (picture.width(), picture.height());
        if width == 0 || height == 0 {
            return Err(ProcessError::Empty { width, height });
        }
        let picture = on_white(picture);
        let tensor = match entry.task {
            Task::TextRecognition => text::input(&picture)?,
            Task::TextDetection => detect::input(&picture),
            Task::TextDirection => direction::input(&picture),
            Task::Classification => classes::input(&picture),
            Task::TokenEmbedding => return Err(ProcessError::NoPictures { model: entry.name }),
        };
        Ok(entry.inputs.iter().map(|input| input.name.to_owned()).zip([tensor]).collect())
    }

    /// What `outputs`, all outputs of the network for one request, say.
    pub fn answer(&self, outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
        match &self.decoder {
            Decoder::Text(dictionary) => dictionary.decode(outputs),
            Decoder::Regions => detect::answer(outputs),
            Decoder::Direction => direction::answer(outputs),
            Decoder::Classes => classes::answer(outputs),
            Decoder::Embedding => tokens::answer(outputs),
        }
    }
}

/// Lines one below the other on white paper, each further to the right.
fn page_of(lines: &[&Sample]) -> Result<DynamicImage, ProcessError> {
    let lines = lines.iter().map(|line| read_picture(line.png)).collect::<Result<Vec<_>, _>>()?;
    let indent = |index: usize| GAP + index as u32 * GAP / 2;
    let width = lines.iter().enumerate().map(|(index, line)| indent(index) + line.width() + GAP).max().unwrap_or(GAP);
    let height = lines.iter().map(|line| line.height() + GAP).sum::<u32>() + GAP;
    let mut page = DynamicImage::ImageRgb8(RgbImage::from_pixel(width, height, Rgb([255; 3])));
    let mut top = GAP;
    for (index, line) in lines.iter().enumerate() {
        image::imageops::overlay(&mut page, line, i64::from(indent(index)), i64::from(top));
        top += line.height() + GAP;
    }
    Ok(page)
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
    Err(unexpected(format!("one output FP32 {want}"), outputs))
}

fn unexpected(want: String, outputs: &[(String, Tensor)]) -> ProcessError {
    let got: Vec<String> = outputs.iter().map(|(name, t)| format!("\"{name}\" {}{:?}", t.dtype, t.shape)).collect();
    ProcessError::Output { want, got: if got.is_empty() { "none".to_owned() } else { got.join(", ") } }
}
