//! A run's events, as people and programs see them.

mod bars;
mod lines;
mod summary;
mod throttle;

use std::sync::Arc;

use lakeward_engine::EventSink;

use crate::messages::{Console, Presentation};

pub(crate) use summary::report;

/// Where a run's events go on this console.
pub(crate) fn sink(console: &Console) -> Arc<dyn EventSink> {
    match console.presentation() {
        Presentation::Bars => Arc::new(bars::Bars::new(console.clone())),
        Presentation::Lines(detail) => Arc::new(lines::Lines::text(console.clone(), detail)),
        Presentation::Json(detail) => Arc::new(lines::Lines::json(console.clone(), detail)),
    }
}
