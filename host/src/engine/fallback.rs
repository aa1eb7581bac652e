//! The engine that `auto` means: onnxruntime, and the built-in one where its library turns out not to load.

use super::onnxruntime::OnnxRuntime;
use super::{Engine, EngineError, Model, Options, Prepacking, Session};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// onnxruntime until it has failed to open, `second` from then on.
pub(super) struct Fallback {
    first: OnnxRuntime,
    second: Arc<dyn Engine>,
    fallen: AtomicBool,
}

impl Fallback {
    pub fn new(first: OnnxRuntime, second: Arc<dyn Engine>) -> Self {
        Self { first, second, fallen: AtomicBool::new(false) }
    }

    fn current(&self) -> &dyn Engine {
        if self.fallen.load(Ordering::Relaxed) { self.second.as_ref() } else { &self.first }
    }
}

impl Engine for Fallback {
    fn name(&self) -> &'static str {
        self.current().name()
    }

    fn version(&self) -> String {
        self.current().version()
    }

    fn prepacking(&self, wish: Prepacking) -> Prepacking {
        self.current().prepacking(wish)
    }

    fn open(&self) -> Result<(), EngineError> {
        if let Err(error) = self.current().open()
            && !self.fallen.swap(true, Ordering::Relaxed)
        {
            super::warn_of_fallback(&error);
        }
        self.current().open()
    }

    fn load(&self, model: Model<'_>, options: Options) -> Result<Box<dyn Session>, EngineError> {
        self.open()?;
        self.current().load(model, options)
    }
}
