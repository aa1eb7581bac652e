//! Sets of small numbers as rows of bits.

pub(super) fn words(bits: usize) -> usize {
    bits.div_ceil(64)
}

pub(super) fn set(row: &mut [u64], bit: usize) {
    row[bit / 64] |= 1 << (bit % 64);
}

pub(super) fn has(row: &[u64], bit: usize) -> bool {
    row[bit / 64] >> (bit % 64) & 1 == 1
}

pub(super) fn any(row: &[u64]) -> bool {
    row.iter().any(|word| *word != 0)
}

pub(super) fn or(row: &mut [u64], other: &[u64]) {
    row.iter_mut().zip(other).for_each(|(word, more)| *word |= more);
}

/// Adds what is in `one` and in `other`.
pub(super) fn or_both(row: &mut [u64], one: &[u64], other: &[u64]) {
    row.iter_mut().zip(one).zip(other).for_each(|((word, one), other)| *word |= one & other);
}

pub(super) fn and(row: &mut [u64], other: &[u64]) {
    row.iter_mut().zip(other).for_each(|(word, keep)| *word &= keep);
}

/// Whether `inner` has nothing that `outer` lacks.
pub(super) fn within(inner: &[u64], outer: &[u64]) -> bool {
    inner.iter().zip(outer).all(|(inner, outer)| inner & !outer == 0)
}

pub(super) fn highest(row: &[u64]) -> Option<usize> {
    let at = row.iter().rposition(|word| *word != 0)?;
    Some(at * 64 + 63 - row[at].leading_zeros() as usize)
}

pub(super) fn ones(row: &[u64]) -> impl Iterator<Item = usize> + '_ {
    row.iter().enumerate().flat_map(|(at, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(at * 64 + bit)
        })
    })
}

/// For numbers with a value each: those whose value is among the smallest.
pub(super) struct Smallest {
    /// Distinct values, ascending.
    values: Vec<f64>,
    /// Row k: whose value is among the first k distinct ones.
    rows: Vec<u64>,
    words: usize,
}

impl Smallest {
    pub fn new(values: &[f64]) -> Self {
        let words = words(values.len());
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        let mut row = vec![0; words];
        let mut this = Self { values: Vec::new(), rows: row.clone(), words };
        for (at, &number) in order.iter().enumerate() {
            set(&mut row, number);
            if order.get(at + 1).is_none_or(|next| values[*next] != values[number]) {
                this.values.push(values[number]);
                this.rows.extend_from_slice(&row);
            }
        }
        this
    }

    /// Those whose value `fits`, which holds for all values up to some size.
    pub fn up_to(&self, fits: impl Fn(f64) -> bool) -> &[u64] {
        let count = self.values.partition_point(|value| fits(*value));
        &self.rows[count * self.words..][..self.words]
    }
}
