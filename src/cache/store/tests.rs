//! A store is a list of records that can be found by id, and that snapshots can share.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Set(u64, usize, u8),
    Remove(u64),
    Overwrite(u64, usize),
    Share,
    Shrink,
    Reload,
}

fn steps(ids: u64, longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        60 => (0..ids, 0..longest, any::<u8>()).prop_map(|(id, length, byte)| Step::Set(id, length, byte)),
        30 => (1..ids).prop_map(Step::Remove),
        4 => (1..ids, any::<usize>()).prop_map(|(id, at)| Step::Overwrite(id, at)),
        1 => Just(Step::Share),
        1 => Just(Step::Shrink),
        1 => Just(Step::Reload),
    ];
    prop::collection::vec(step, 0..600)
}

fn all(store: &Store) -> Vec<(u64, Vec<u8>)> {
    store.iter().map(|(id, record)| (id, record.to_vec())).collect()
}

fn together(store: &Store) -> Vec<u8> {
    store.share_chunks().iter().flat_map(|chunk| chunk.iter().copied()).collect()
}

fn check(steps: Vec<Step>) {
    let mut store = Store::default();
    let mut model: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut shared = Vec::new();
    for step in steps {
        let find = |model: &[(u64, Vec<u8>)], id| model.iter().position(|(other, _)| *other == id && id != 0);
        match step {
            Step::Set(id, length, byte) => {
                let record = vec![byte; length];
                match (store.find(id), find(&model, id)) {
                    (Some(location), Some(at)) => {
                        assert_eq!(store.record(location), model[at].1);
                        let before = at.checked_sub(1).and_then(|at| store.find(model[at].0));
                        assert_eq!(store.find_after(before, id), Some(location));
                        assert_eq!(store.find_after(Some(location), id), Some(location));
                        store.replace(location, &record);
                        model[at].1 = record;
                    }
                    (None, None) => {
                        store.push(id, &record);
                        model.push((id, record));
                    }
                    other => panic!("{id}: {other:?}"),
                }
            }
            Step::Remove(id) => match (store.find(id), find(&model, id)) {
                (Some(location), Some(at)) => {
                    store.remove(location);
                    model.remove(at);
                }
                (None, None) => {}
                other => panic!("{id}: {other:?}"),
            },
            Step::Overwrite(id, at) => {
                if let (Some(location), Some(number)) = (store.find(id), find(&model, id)) {
                    let record = &mut model[number].1;
                    let at = at % (record.len() + 1);
                    if let Some(byte) = record.get_mut(at) {
                        *byte ^= 1;
                        let byte = *byte;
                        store.overwrite(location, at, &[byte]);
                    } else {
                        store.overwrite(location, at, b"beyond");
                    }
                }
            }
            Step::Share => shared.push((store.share_chunks(), model.clone())),
            Step::Shrink => store.shrink_to_fit(),
            Step::Reload => {
                let bytes = together(&store);
                store = Store::from_records(&bytes).expect("its own records");
                assert!(together(&store) == bytes && store.chunks.iter().all(Option::is_some));
            }
        }
        assert_eq!(store.len(), model.len());
    }
    assert_eq!(all(&store), model);
    for (chunks, model) in shared {
        let records: Vec<_> =
            chunks.iter().flat_map(|chunk| Records::new(chunk, 0)).map(|(id, record)| (id, record.to_vec())).collect();
        assert_eq!(records, model, "a snapshot was disturbed");
    }
    let bytes: usize = store.iter().map(|(_, record)| 8 + varint(record.len() as u64).1 + record.len()).sum();
    assert_eq!(store.bytes, bytes);
    assert_eq!(store.allocated, store.chunks.iter().flatten().map(|chunk| chunk.capacity()).sum::<usize>());
    assert_eq!(store.holes as usize, store.chunks.iter().filter(|chunk| chunk.is_none()).count());
}

proptest! {
    #[test]
    fn small_records(steps in steps(600, 60)) {
        check(steps);
    }

    #[test]
    fn large_records(steps in steps(40, 3_000)) {
        check(steps);
    }

    #[test]
    fn huge_records(steps in steps(8, 20_000)) {
        check(steps);
    }

    #[test]
    fn broken_chunks_never_panic(bytes: Vec<u8>) {
        Records::new(&bytes, 0).for_each(drop);
        if let Some(store) = Store::from_records(&bytes) {
            prop_assert_eq!(together(&store), bytes);
        }
    }
}

#[test]
fn a_store_from_outside_has_normal_chunks_and_no_id_twice() {
    let mut store = Store::default();
    (1..=60_000).for_each(|id| store.push(id, &[7; 300]));
    store.push(0, &[1]);
    store.push(0, &[1]);
    store.shrink_to_fit();
    let bytes = together(&store);
    let same = Store::from_records(&bytes).expect("its own records");
    assert_eq!((same.len(), same.bytes), (60_002, bytes.len()));
    assert!(same.chunks.iter().flatten().all(|chunk| chunk.len() <= same.limit()));
    assert!(same.heap() <= store.heap(), "{} and {}", same.heap(), store.heap());
    assert!((1..=60_000).all(|id| same.find(id).is_some()));
    store.push(60_001, &[]);
    assert!(Store::from_records(&[&bytes[..], &bytes[..310]].concat()).is_none());
    assert!(Store::from_records(&bytes[..bytes.len() - 1]).is_none());
}

#[test]
fn memory_is_proportional_to_the_records() {
    let mut store = Store::default();
    let record = [7; 60];
    for id in 1..=50_000 {
        store.push(id, &record);
    }
    store.shrink_to_fit();
    let each = store.heap() as f64 / 50_000.0;
    assert!(each < 60.0 + 9.0 + 8.0, "{each} bytes a record");
    // Remove and add many records, as when members leave and join.
    for round in 0..4u64 {
        for id in 0..50_000 {
            if id % 3 != round % 3 {
                continue;
            }
            let location = store.find(round * 50_000 + id + 1).or_else(|| store.find(id + 1));
            if let Some(location) = location {
                store.remove(location);
                store.push((round + 1) * 50_000 + id + 1, &record);
            }
        }
    }
    let each = store.heap() as f64 / store.len() as f64;
    assert!(each < 120.0, "{each} bytes a record after churn");
    let ids: Vec<u64> = store.iter().map(|(id, _)| id).collect();
    for id in ids {
        let location = store.find(id).expect("every record is found");
        store.remove(location);
    }
    assert_eq!(store.len(), 0);
    assert!(store.heap() < 1_000, "{}", store.heap());
}

#[test]
fn tags_of_ids_are_spread_evenly_with_every_seed() {
    let sequence: Vec<u64> = (0..100_000).map(|id| 1_000 + id).collect();
    let snowflakes: Vec<u64> = (0..100_000).map(|id| ((id * 7_919_331 + 1_000_000_000) << 22) | (id % 3)).collect();
    for _ in 0..40 {
        let state = DefaultHashBuilder::default();
        for ids in [&sequence, &snowflakes] {
            let mut counts = vec![0usize; 1 << 16];
            ids.iter().for_each(|id| counts[usize::from(spread(state.hash_one(id)))] += 1);
            // If tags were spread evenly, an entry would share its tag with 100,000 / 65,536 others on average: 2.53 in
            // total.
            let seen = counts.iter().map(|count| count * count).sum::<usize>() as f64 / ids.len() as f64;
            assert!(seen < 2.7, "{seen} entries have the tag of an id");
        }
    }
}
