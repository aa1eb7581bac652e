//! What codecs are made of: layers, each of which hands what it makes of a tensor to the next one.

use crate::buffer::Pool;
use defer_partition::DType;

/// What a layer is given to encode, and has to give back when it decodes: `count` cells of `width` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'a> {
    /// Of the tensor.
    pub dtype: DType,
    pub shape: &'a [usize],
    /// Bytes of a cell: the element's, until a layer above has made it narrower.
    pub width: usize,
    /// Number of cells: the tensor's elements, until a layer above has left some out.
    pub count: usize,
}

impl Form<'_> {
    /// Bytes of all cells.
    pub fn len(&self) -> usize {
        self.width * self.count
    }
}

/// This codec cannot carry this tensor; another one must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Only 32-bit floats can be rounded.
    NotFloats,
    /// NaN, an infinity, or what would become one.
    NotFinite,
    /// Its lengths do not fit the codec's fields, or ZFP's.
    TooLarge,
    /// The codec is too coarse for the error that it is given.
    TooFine,
    /// It would not become smaller.
    NotSmaller,
}

/// Why bytes are no encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Length { got: usize, want: usize },
    Malformed(String),
}

impl Fault {
    pub fn new(cause: impl ToString) -> Self {
        Self::Malformed(cause.to_string())
    }
}

/// One way to write cells down. `Sparse(Planes(Zstd))` is a codec of three layers.
pub(super) trait Layer: Sync {
    /// Appends the encoding of `cells`, which are `form.len()` bytes, to `out`. On an error `out` may hold a part of it.
    fn encode(&self, cells: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Unfit>;

    /// Appends exactly the `form.len()` bytes that `data` is an encoding of to `out`, or fails. Total: `data` may be any
    /// bytes. Allocates no more than a few times `form.len()`.
    fn decode(&self, data: &[u8], form: &Form<'_>, out: &mut Vec<u8>, pool: &Pool) -> Result<(), Fault>;

    /// Whether an encoding is nothing but the cells, so that the layer above can do without a copy.
    fn is_raw(&self) -> bool {
        false
    }
}
