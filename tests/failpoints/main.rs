//! Stopped, failed or slowed at every place between two durable steps.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod every_step;
#[path = "../changes/followed.rs"]
#[allow(dead_code, reason = "two test binaries share it, and neither needs all of it")]
mod followed;
mod lost_answers;
#[path = "../faults/scene.rs"]
#[allow(dead_code, reason = "two test binaries share it, and neither needs all of it")]
mod scene;
mod slow_steps;
mod stops;
