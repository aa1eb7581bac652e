//! What a command answers on standard output.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

/// Writes `text`. A reader that has closed the pipe, such as `head`, has read what it wanted: that is no error.
pub fn write(text: &str) -> io::Result<()> {
    // Not `print!`, which panics there.
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Adds `rows` as a table to `text`. All columns but the last are padded: those in `left` start at the left, all others end
/// at the right.
pub fn align<const N: usize>(text: &mut String, rows: &[[String; N]], left: &[usize]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                last if last + 1 == N => writeln!(text, "{cell}"),
                column if left.contains(&column) => write!(text, "{cell:width$}  "),
                _ => write!(text, "{cell:>width$}  "),
            };
        }
    }
}
