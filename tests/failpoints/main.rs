//! Stopped, failed or slowed at every place between two durable steps.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod every_step;
mod lost_answers;
#[path = "../faults/scene.rs"]
#[allow(dead_code, reason = "shared with the other tests of faults")]
mod scene;
mod slow_steps;
