//! What stayed the same from one configuration to the next. The loader gives unchanged entities their old `Arc`, so that pointers
//! are all there is to compare.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// For each entity of `new`, where the same one stands in `old`.
///
/// Lists mostly differ in few places: as long as they go along with each other nothing is looked up.
pub fn unchanged<T>(old: &[Arc<T>], new: &[Arc<T>]) -> Vec<Option<usize>> {
    let mut places: Option<HashMap<*const T, usize, RandomState>> = None;
    let mut next = 0;
    new.iter()
        .map(|entity| {
            if old.get(next).is_some_and(|before| Arc::ptr_eq(before, entity)) {
                next += 1;
                return Some(next - 1);
            }
            let places = places.get_or_insert_with(|| {
                old.iter().enumerate().map(|(at, before)| (Arc::as_ptr(before), at)).collect()
            });
            let found = places.get(&Arc::as_ptr(entity)).copied();
            if let Some(found) = found {
                next = found + 1;
            }
            found
        })
        .collect()
}

/// The entities of `old` that `kept` (from [`unchanged`]) does not name.
pub fn gone<'o, T>(old: &'o [Arc<T>], kept: &[Option<usize>]) -> impl Iterator<Item = &'o Arc<T>> {
    let mut stays = vec![false; old.len()];
    for place in kept.iter().flatten() {
        if let Some(stays) = stays.get_mut(*place) {
            *stays = true;
        }
    }
    old.iter().zip(stays).filter(|(_, stays)| !stays).map(|(entity, _)| entity)
}

/// The same entities in the same order.
pub fn same<T>(old: &[Arc<T>], new: &[Arc<T>]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(one, other)| Arc::ptr_eq(one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_found_wherever_it_went() {
        let old: Vec<Arc<u32>> = (0..6).map(Arc::new).collect();
        let pick = |places: &[usize]| places.iter().map(|at| old[*at].clone()).collect::<Vec<_>>();
        let mut new = pick(&[0, 1, 3, 2, 5]);
        new.insert(2, Arc::new(9));
        let kept = unchanged(&old, &new);
        assert_eq!(kept, [Some(0), Some(1), None, Some(3), Some(2), Some(5)]);
        assert_eq!(gone(&old, &kept).map(|gone| **gone).collect::<Vec<_>>(), [4]);
        assert!(same(&old, &pick(&[0, 1, 2, 3, 4, 5])) && !same(&old, &new));
    }
}
