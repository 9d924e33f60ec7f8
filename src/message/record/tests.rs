use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

/// The store time of a sequence in a stream that never lost anything.
fn time(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap() * SECOND
}

fn record(seen: &[u64]) -> Record {
    let mut record = Record::new(7);
    for sequence in seen {
        record.saw(*sequence, time(*sequence));
    }
    record
}

fn done(record: &Record, sequence: u64) -> bool {
    record.says(sequence, time(sequence)) == Says::Done
}

#[test]
fn it_says_what_was_seen() {
    let mut record = record(&[5, 7]);
    assert!(done(&record, 5) && done(&record, 7));
    assert!(!done(&record, 6) && !done(&record, 4) && !done(&record, 8));
    assert_eq!(record.saw(6, time(6)), Saw::New);
    assert_eq!(record.saw(6, time(6)), Saw::Known);
    assert_eq!(record.ranges(), 1);
}

#[test]
fn the_floor_takes_in_what_lies_at_it() {
    let mut record = record(&[5, 6, 9]);
    record.raise_floor(4, time(4));
    assert_eq!((record.floor(), record.ranges()), (4, 2));
    record.raise_floor(5, time(5));
    assert_eq!((record.floor(), record.ranges()), (7, 1));
    record.raise_floor(1, time(1));
    assert_eq!(record.floor(), 7);
    record.saw(8, time(8));
    record.saw(7, time(7));
    assert_eq!((record.floor(), record.ranges()), (10, 0));
    assert_eq!(record.saw(3, time(3)), Saw::Known);
}

#[test]
fn the_version_only_rises() {
    let mut record = record(&[]);
    record.advance(10);
    record.advance(9);
    assert_eq!(record.version(), 10);
}

#[test]
fn after_a_gap_what_was_handed_out_is_in_doubt() {
    let mut record = record(&[3]);
    record.raise_floor(2, time(2));
    assert!(!record.in_doubt(2));
    record.mark_gap(10);
    assert_eq!(record.gaps(), 1);
    assert!(record.in_doubt(4) && record.in_doubt(10));
    assert!(!record.in_doubt(1), "below the floor");
    assert!(!record.in_doubt(3), "seen");
    assert!(!record.in_doubt(11), "handed out later");
    record.saw(4, time(4));
    assert!(!record.in_doubt(4));
    record.raise_floor(11, time(11));
    record.mark_gap(0);
    assert!(!record.in_doubt(10) && !record.in_doubt(11));
    assert_eq!(record.gaps(), 2);
}

#[test]
fn at_its_bound_it_says_so_and_doubts() {
    let mut record = Record::new(1);
    let most = u64::try_from(MAX_RANGES).unwrap();
    for i in 1..=most {
        assert_eq!(record.saw(i * 10, time(i)), Saw::New);
    }
    assert!(!record.is_full());
    let beyond = most * 10 + 10;
    assert_eq!(record.saw(beyond, time(most + 1)), Saw::Full);
    assert!(record.is_full() && record.in_doubt(beyond) && !record.in_doubt(beyond + 1));
    assert_eq!(record.ranges(), MAX_RANGES);
    // What touches a run needs no room.
    assert_eq!(record.saw(11, time(1)), Saw::New);
    // The doubt ends when the floor has passed it; and room is made on the way.
    record.raise_floor(beyond, time(beyond));
    assert!(record.is_full());
    record.raise_floor(beyond + 1, time(beyond));
    assert!(!record.is_full() && !record.in_doubt(beyond) && record.ranges() == 0);
}

#[test]
fn its_size_is_bounded() {
    let mut record = Record::new(i64::MIN);
    let step = u64::MAX / u64::try_from(MAX_RANGES).unwrap();
    for i in 1..=u64::try_from(MAX_RANGES).unwrap() + 5 {
        record.saw((i % 5_000).wrapping_mul(step) | 1, 0);
    }
    record.mark_gap(u64::MAX);
    record.advance(u64::MAX);
    assert_eq!(record.ranges(), MAX_RANGES);
    assert!(record.encode().unwrap().len() <= MAX_ENCODED_BYTES);
}

#[test]
fn a_stream_that_lost_its_end_is_noticed_by_its_length() {
    let mut record = record(&[1, 2, 3, 4, 5]);
    record.raise_floor(3, time(3));
    assert!(!record.stream_ends_at(5, record.reach()));
    assert!(record.stream_ends_at(3, record.reach()));
    assert!(!done(&record, 4) && !done(&record, 1));
    assert!(record.in_doubt(4) && record.in_doubt(5) && !record.in_doubt(6));
    assert_eq!(record.gaps(), 1);
}

#[test]
fn a_lost_end_is_noticed_by_the_floor_too() {
    // What was acknowledged without an object, as dead letters are, was never seen.
    let mut record = record(&[1, 2]);
    record.raise_floor(8, time(8));
    assert!(!record.stream_ends_at(7, record.reach()), "the floor is one beyond the last");
    assert!(record.stream_ends_at(6, record.reach()));
    assert_eq!(record.says(7, time(100)), Says::NotYet, "the stream gives 7 to another message");
    assert!(record.in_doubt(7) && !record.in_doubt(8));
}

#[test]
fn a_sequence_with_a_later_time_is_another_message() {
    let mut record = record(&[890, 900, 901, 1_000]);
    // The stream went back to 895 and gives 900 again, an hour later.
    let later = time(1_000) + 3_600 * SECOND;
    assert_eq!(record.says(900, later), Says::NotYet);
    assert_eq!(record.says(900, time(900)), Says::Done);
    assert_eq!(record.saw(900, later), Saw::StreamRegressed);
    assert_eq!(record.says(900, later), Says::Done);
    assert_eq!(record.says(901, later + SECOND), Says::NotYet);
    assert_eq!(record.says(899, later - SECOND), Says::NotYet);
    assert_eq!(record.gaps(), 1);
}

#[test]
fn a_clock_that_is_set_back_a_little_is_no_lost_end() {
    let mut record = Record::new(1);
    record.saw(101, 40 * SECOND);
    assert_eq!(record.saw(100, 40 * SECOND + SECOND / 2), Saw::New);
    assert_eq!(record.says(101, 40 * SECOND), Says::Done);
}

#[test]
fn another_encoding_is_refused() {
    let bytes = record(&[1, 3]).encode().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(
        text,
        "{\"v\":1,\"stream_created_ns\":7,\"floor\":0,\"version\":0,\"gaps\":0,\"gap_upto\":0,\
         \"newest\":[3,3000000000],\"done\":[1,0,2,0]}"
    );
    let error = Record::decode(text.replace("\"v\":1", "\"v\":2,\"new\":1").as_bytes()).unwrap_err();
    assert!(matches!(error, RecordError::Encoding { found: 2 }));
    assert!(error.to_string().contains("version 2"));
    for (broken, why) in
        [("[1,0,2]", "length"), ("[1,0,1,0]", "touch"), ("[1,5,0,5]", "touch"), ("[1,18446744073709551615]", "large")]
    {
        let error = Record::decode(text.replace("[1,0,2,0]", broken).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(why), "{broken}: {error}");
    }
    for bytes in [&b""[..], b"{}", b"null", b"{\"v\":1}"] {
        assert!(matches!(Record::decode(bytes), Err(RecordError::Json(_))));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Saw(u64),
    Floor(u64),
    Advance(u64),
    Gap(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..200_u64).prop_map(Step::Saw),
        1 => (1..200_u64).prop_map(Step::Floor),
        1 => (1..200_u64).prop_map(Step::Advance),
        1 => (1..200_u64).prop_map(Step::Gap),
    ];
    prop::collection::vec(step, 0..80)
}

fn apply(record: &mut Record, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Saw(s) => assert_ne!(record.saw(s, time(s)), Saw::StreamRegressed),
            Step::Floor(f) => record.raise_floor(f, time(f)),
            Step::Advance(v) => record.advance(v),
            Step::Gap(upto) => record.mark_gap(upto),
        }
    }
}

proptest! {
    #[test]
    fn done_is_seen_or_below_the_floor(steps in steps()) {
        let mut record = Record::new(1);
        let mut seen = std::collections::BTreeSet::new();
        let mut floor = 0;
        for step in &steps {
            match *step {
                Step::Saw(s) => { seen.insert(s); }
                Step::Floor(f) => floor = floor.max(f),
                Step::Advance(_) | Step::Gap(_) => {}
            }
            apply(&mut record, std::slice::from_ref(step));
            for s in 0..210 {
                prop_assert_eq!(done(&record, s), s < floor || seen.contains(&s));
                prop_assert!(!(record.in_doubt(s) && done(&record, s)));
            }
        }
        prop_assert_eq!(&Record::decode(&record.encode().unwrap()).unwrap(), &record);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), done in prop::collection::vec(any::<u64>(), 0..8)) {
        prop_assert!(Record::decode(&bytes).is_err());
        let text = format!("{{\"v\":1,\"stream_created_ns\":7,\"floor\":0,\"version\":0,\"gaps\":0,\"gap_upto\":0,\"newest\":[0,0],\"done\":{done:?}}}");
        if let Ok(record) = Record::decode(text.as_bytes()) {
            prop_assert_eq!(&Record::decode(&record.encode().unwrap()).unwrap(), &record);
        }
    }
}
