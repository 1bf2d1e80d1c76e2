//! Starts the threads for blocking work.

use super::Failure;

/// Starts a thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
        .map_err(|source| Failure::Thread { name: name.to_owned(), source })
}
