//! Waiting on conditions, never on time.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Asks `probe` again and again until it gives a value; an error when `limit` is over.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, probe()).await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if !left.is_zero() => {}
            Ok(None) | Err(_) => {
                return Err(Error::Timeout { what: what.to_owned(), limit });
            }
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// As [`until`], for a plain condition.
pub async fn until_true<F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    until(what, limit, || {
        let answer = probe();
        async { answer.await.then_some(()) }
    })
    .await
}
