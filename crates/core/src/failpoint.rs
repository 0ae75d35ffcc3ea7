//! Places between durable steps where a test may stop the process or make a step fail.
//!
//! Compiled to nothing without the `failpoints` feature, which releases never have. With it, the environment
//! variable `LAKEWARD_FAILPOINT` holds `name[:n]=action` pairs separated by `;`: at the n-th passage (default
//! the first) of the place `name`, `abort` ends the process at once as a crash would, `error` makes the step
//! fail, and `sleep(ms)` makes it slow.

use crate::Result;

/// Passes the place `name`.
///
/// # Errors
/// `Destination`, where a test asked for the step to fail.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &'static str) -> Result<()> {
    Ok(())
}

/// Passes the place `name`.
///
/// # Errors
/// `Destination`, where a test asked for the step to fail.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) -> Result<()> {
    imp::hit(name)
}

#[cfg(feature = "failpoints")]
mod imp {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::{Error, ErrorKind, Result};

    enum Action {
        Abort,
        Fail,
        Sleep(Duration),
    }

    struct Failpoint {
        name: String,
        passage: u64,
        passed: AtomicU64,
        action: Action,
    }

    static FAILPOINTS: LazyLock<Vec<Failpoint>> = LazyLock::new(|| {
        std::env::var("LAKEWARD_FAILPOINT").unwrap_or_default().split(';').filter_map(parse).collect()
    });

    fn parse(text: &str) -> Option<Failpoint> {
        let (place, action) = text.split_once('=')?;
        let (name, passage) = match place.split_once(':') {
            Some((name, n)) => (name, n.parse().ok()?),
            None => (place, 1),
        };
        let action = match action {
            "abort" => Action::Abort,
            "error" => Action::Fail,
            other => {
                let ms = other.strip_prefix("sleep(")?.strip_suffix(')')?.parse().ok()?;
                Action::Sleep(Duration::from_millis(ms))
            }
        };
        Some(Failpoint { name: name.to_owned(), passage, passed: AtomicU64::new(0), action })
    }

    pub(super) fn hit(name: &'static str) -> Result<()> {
        for point in FAILPOINTS.iter().filter(|point| point.name == name) {
            if point.passed.fetch_add(1, Ordering::SeqCst) + 1 != point.passage {
                continue;
            }
            match point.action {
                Action::Abort => std::process::abort(),
                Action::Sleep(time) => std::thread::sleep(time),
                Action::Fail => {
                    return Err(Error::new(ErrorKind::Destination, "a failpoint made the step fail")
                        .at("failpoint", name));
                }
            }
        }
        Ok(())
    }
}
