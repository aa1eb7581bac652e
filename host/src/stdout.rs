//! What a command answers on standard output.

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
