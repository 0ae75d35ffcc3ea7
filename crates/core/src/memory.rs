//! The memory budget: one number of bytes that batches and open writers share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// Permits are counted in this unit, so that a `u32` of them reaches 4 TiB.
const UNIT: usize = 1024;

/// Bytes that may be in flight at once. Clones share the same budget.
///
/// A request above the whole budget is charged the whole budget, so it runs alone instead of never.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    permits: Arc<Semaphore>,
    total: u32,
}

impl MemoryBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .clamp(1, (Semaphore::MAX_PERMITS >> 1).min(u32::MAX as usize) as u32);
        Self { permits: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> usize {
        self.total as usize * UNIT
    }

    /// The part that becomes free by itself, whatever open units (a half of it) and transactions in progress (an
    /// eighth) hold until the next checkpoint: more than that must not be waited for.
    pub fn sure(&self) -> usize {
        self.total() / 8 * 3
    }

    /// Bytes not taken at this moment.
    pub fn available(&self) -> usize {
        self.permits.available_permits() * UNIT
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total)
    }

    /// Waits until `bytes` are free and takes them until the reservation is dropped.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation> {
        let permit = self.permits.clone().acquire_many_owned(self.units(bytes)).await;
        permit.map(Reservation).map_err(|_| Error::bug("the memory budget was closed"))
    }

    /// Takes `bytes` if they are free now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        self.permits.clone().try_acquire_many_owned(self.units(bytes)).ok().map(Reservation)
    }
}

/// A share of the budget, given back on drop.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.num_permits() * UNIT
    }

    /// Adds another share of the same budget to this one.
    pub fn merge(&mut self, other: Reservation) {
        self.0.merge(other.0);
    }

    /// Takes up to `bytes` out of it as a share of their own.
    #[must_use]
    pub fn split_off(&mut self, bytes: usize) -> Option<Reservation> {
        self.0.split(bytes.div_ceil(UNIT).min(self.0.num_permits())).map(Reservation)
    }

    /// Gives back what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let keep = bytes.div_ceil(UNIT);
        if let Some(excess) = self.0.num_permits().checked_sub(keep) {
            drop(self.0.split(excess));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_above_the_budget_takes_all_of_it() -> Result<()> {
        let budget = MemoryBudget::new(10 * UNIT);
        let all = budget.reserve(1 << 40).await?;
        assert_eq!(all.bytes(), 10 * UNIT);
        assert!(budget.try_reserve(1).is_none());
        drop(all);
        assert_eq!(budget.available(), 10 * UNIT);
        Ok(())
    }

    #[tokio::test]
    async fn shrinking_gives_back_the_excess() -> Result<()> {
        let budget = MemoryBudget::new(10 * UNIT);
        let mut some = budget.reserve(8 * UNIT).await?;
        some.shrink_to(3 * UNIT);
        assert_eq!(budget.available(), 7 * UNIT);
        some.shrink_to(5 * UNIT);
        assert_eq!(some.bytes(), 3 * UNIT);
        let part = some.split_off(UNIT).map(|part| part.bytes());
        assert_eq!((part, some.bytes(), budget.available()), (Some(UNIT), 2 * UNIT, 8 * UNIT));
        Ok(())
    }
}
