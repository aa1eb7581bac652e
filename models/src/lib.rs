//! Catalogue of networks: where each comes from, its digest and licence, the inputs it takes, how a picture becomes
//! those inputs and how its outputs become an answer. Knows nothing of hosts, stages or engines.
//!
//! ```no_run
//! let entry = defer_models::find("ocr-rec").expect("it is in the catalogue");
//! let file = entry.fetch(&mut |line| eprintln!("{line}"))?;
//! let processor = defer_models::Processor::for_file(entry, &file)?;
//! let inputs = processor.input(&defer_models::open_picture("label.png".as_ref())?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod catalogue;
mod fetch;
mod generate;
mod metadata;
mod process;
mod resolve;
mod samples;
mod wheel;

pub use cache::{Cache, CacheError};
pub use catalogue::{Entry, Generator, Input, Origin, Task, catalogue, find};
pub use fetch::FetchError;
pub use metadata::{DICTIONARY_KEY, MetadataError, metadata_of, read_metadata};
pub use process::{Answer, Class, Inputs, ProcessError, Processor, Region, open_picture, read_picture};
pub use resolve::{Model, ResolveError, Source, resolve};
pub use samples::{Sample, calibration_lines, page, samples, trial_lines};
pub use wheel::WheelError;
