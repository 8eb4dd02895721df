//! From single results to a status: thresholds against flapping.

use super::Status;

/// How many results in a row change a status. 1 = the first one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Good results until a failing target counts as up again. Least 1, default 1.
    pub success: u32,
    /// Bad results until a target counts as down. Least 1, default 1.
    pub failure: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { success: 1, failure: 1 }
    }
}

/// A change of status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: Status,
    pub to: Status,
}

/// Follows one target. Starts from the status that is known already (of the catalog), so that whoever takes a target over
/// starts no alarm: its first bad result is the first of `failure`, not an immediate change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    thresholds: Thresholds,
    status: Status,
    /// Results in a row that point away from `status`, to better or to worse.
    streak: u32,
    towards: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Better,
    Worse,
}

impl Tracker {
    pub fn new(thresholds: Thresholds, status: Status) -> Self {
        let thresholds =
            Thresholds { success: thresholds.success.max(1), failure: thresholds.failure.max(1) };
        Self { thresholds, status, streak: 0, towards: Direction::Worse }
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// Takes a result in; `Some` when the status changes with it. The new status is the last result's.
    pub fn observe(&mut self, result: Status) -> Option<Transition> {
        if result == self.status {
            self.streak = 0;
            return None;
        }
        let direction = if result > self.status { Direction::Worse } else { Direction::Better };
        if self.streak > 0 && direction == self.towards {
            self.streak += 1;
        } else {
            (self.streak, self.towards) = (1, direction);
        }
        let needed = match direction {
            Direction::Worse => self.thresholds.failure,
            Direction::Better => self.thresholds.success,
        };
        if self.streak < needed {
            return None;
        }
        let transition = Transition { from: self.status, to: result };
        self.status = result;
        self.streak = 0;
        Some(transition)
    }

    /// The status was changed or refused elsewhere (another writer won): go on from there.
    pub fn adopt(&mut self, status: Status) {
        if status != self.status {
            self.status = status;
            self.streak = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Status::{Critical, Passing, Warning};
    use super::*;

    #[test]
    fn counts_in_a_row() {
        let mut tracker = Tracker::new(Thresholds { success: 2, failure: 3 }, Passing);
        for result in [Critical, Critical, Passing, Critical, Critical] {
            assert_eq!(tracker.observe(result), None);
        }
        assert_eq!(tracker.observe(Critical), Some(Transition { from: Passing, to: Critical }));
        assert_eq!(tracker.observe(Passing), None);
        assert_eq!(tracker.observe(Passing), Some(Transition { from: Critical, to: Passing }));
    }

    #[test]
    fn warning_lies_between() {
        let mut tracker = Tracker::new(Thresholds { success: 1, failure: 2 }, Passing);
        assert_eq!(tracker.observe(Warning), None);
        assert_eq!(tracker.observe(Critical), Some(Transition { from: Passing, to: Critical }));
        assert_eq!(tracker.observe(Warning), Some(Transition { from: Critical, to: Warning }));
    }

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![Just(Passing), Just(Warning), Just(Critical)]
    }

    proptest! {
        /// Never fewer than `failure` results in a row worse than the status before it gets worse, and the same for better.
        #[test]
        fn a_change_needs_its_streak(
            start in any_status(), success in 0_u32..5, failure in 0_u32..5,
            results in proptest::collection::vec(any_status(), 0..200),
        ) {
            let mut tracker = Tracker::new(Thresholds { success, failure }, start);
            for (at, result) in results.iter().enumerate() {
                let before = tracker.status();
                match tracker.observe(*result) {
                    None => prop_assert_eq!(tracker.status(), before),
                    Some(transition) => {
                        prop_assert_eq!(transition, Transition { from: before, to: *result });
                        prop_assert_ne!(before, *result);
                        let worse = *result > before;
                        let needed = if worse { failure.max(1) } else { success.max(1) } as usize;
                        prop_assert!(at + 1 >= needed);
                        prop_assert!(results[at + 1 - needed..=at].iter().all(|r| (*r > before) == worse && *r != before));
                    }
                }
            }
        }

        /// A result held long enough is always adopted.
        #[test]
        fn a_lasting_result_wins(start in any_status(), end in any_status(), success in 1_u32..5, failure in 1_u32..5) {
            let mut tracker = Tracker::new(Thresholds { success, failure }, start);
            for _ in 0..success.max(failure) {
                tracker.observe(end);
            }
            prop_assert_eq!(tracker.status(), end);
        }
    }
}
