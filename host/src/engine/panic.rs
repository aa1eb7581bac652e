//! Panics of what is written in Rust in an engine: each becomes the error of the call in which it happened.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it is an error, and nothing is written to stderr. What `work` was changing must be fit to be
/// dropped or used again after it.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                report(info);
            }
        }));
    });
    let before = EXPECTED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    result.unwrap_or_else(|payload| Err(format!("it panicked: {}", message(payload.as_ref()))))
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let error = caught::<()>(|| panic!("index {} out of range", 7)).unwrap_err();
        assert_eq!(error, "it panicked: index 7 out of range");
        assert_eq!(caught(|| Ok(3)), Ok(3));
        assert_eq!(caught::<()>(|| Err("no".into())), Err("no".into()));
    }
}
