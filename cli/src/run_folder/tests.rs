//! Tests of a run's folder and of its record.

use super::*;
use std::fs::File;
use std::{collections::BTreeSet, thread, time::Duration};

/// Returns the record of a step, with a loss that a decimal cannot hold exactly.
fn step(step: u64) -> Record {
    Record::Step {
        step,
        epoch: 1,
        loss: 1.0 / step as f32,
        lr: 5e-3 / 3.0,
        skipped: false,
        kind: Kind::Train,
        time: Some(0.25 * step as f64),
        examples_per_second: Some(128.0),
        grad_norm: None,
    }
}

/// Numbers go on above the largest, gaps and other configurations aside, and eight at once get eight.
#[test]
fn folders_are_numbered_upward() {
    let temporary = tempfile::tempdir().unwrap();
    let base = temporary.path().join("deep/runs");
    assert_eq!(next_free(&base, "digits").unwrap(), base.join("digits-1"));
    for other in ["digits-9", "digits-sgd-40", "digits-+50", "digits-", "digits-x", "Digits-60"] {
        fs::create_dir(base.join(other)).unwrap();
    }
    assert_eq!(next_free(&base, "digits").unwrap(), base.join("digits-10"));
    let threads: Vec<_> =
        (0..8).map(|_| base.clone()).map(|b| thread::spawn(move || next_free(&b, "n"))).collect();
    let made: BTreeSet<_> = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
    assert_eq!(made.len(), 8);
    for wrong in ["", ".", "..", "a/b", "/a", "a/"] {
        assert_eq!(next_free(&base, wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    fs::write(base.join("file"), "").unwrap();
    assert!(next_free(&base.join("file"), "a").unwrap_err().to_string().contains("runs/file: "));
    fs::create_dir(base.join(format!("full-{}", u64::MAX))).unwrap();
    assert!(next_free(&base, "full").is_err());
}

/// The last checkpoint written decides, not the number of the folder.
#[test]
fn the_newest_checkpoint_is_found() {
    let temporary = tempfile::tempdir().unwrap();
    let base = temporary.path();
    assert_eq!(newest(&base.join("none")), None);
    assert_eq!(newest(base), None);
    for (name, age) in [("a-3", 50), ("a-1", 10), ("a-2", 30)] {
        let checkpoint = next_free(base, name).unwrap().join(CHECKPOINT);
        let written = std::time::SystemTime::now() - Duration::from_secs(age);
        File::create_new(checkpoint).unwrap().set_modified(written).unwrap();
    }
    next_free(base, "empty").unwrap();
    assert_eq!(newest(base), Some(base.join("a-1-1")));
}

/// What was appended comes back, up to the step asked for; a torn line and later lines do not.
#[test]
fn metrics_resume_where_the_checkpoint_is() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("metrics.jsonl");
    let mut metrics = Metrics::create(&path).unwrap();
    let (kind, time) = (Kind::Test, Some(1.5));
    let end = Record::Epoch { step: 3, epoch: 1, test_accuracy: 0.985, test_loss: f32::INFINITY, kind, time };
    for record in [step(1), step(2), step(3), end, step(4), step(5)] {
        metrics.append(&record).unwrap();
    }
    metrics.flush().unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let line = r#"{"step":3,"epoch":1,"test_accuracy":0.985,"test_loss":null,"kind":"test","time":1.5}"#;
    assert_eq!(whole.lines().nth(3), Some(line));
    let line = r#"{"step":1,"epoch":1,"loss":1.0,"lr":0.0016666666666666668,"kind":"train","time":0.25,"examples_per_second":128.0}"#;
    assert_eq!(whole.lines().next(), Some(line));
    fs::write(&path, whole.clone() + r#"{"step":6,"epo"#).unwrap();
    let (mut metrics, kept) = Metrics::resume(&path, 4).unwrap();
    assert_eq!((kept.len(), kept[2], kept[4]), (5, step(3), step(4)));
    assert!(matches!(kept[3], Record::Epoch { test_loss, .. } if test_loss.is_nan()));
    metrics.append(&step(5)).unwrap();
    drop(metrics);
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    // A last line without its end of line is whole all the same.
    fs::write(&path, whole.trim_end()).unwrap();
    assert_eq!(Metrics::resume(&path, 5).unwrap().1.len(), 6);
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
}

/// Records of earlier versions, which had less in them, are read.
#[test]
fn earlier_metrics_are_read() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("metrics.jsonl");
    let lines = "{\"step\":1,\"epoch\":0,\"loss\":1.0,\"lr\":0.5}\n\
                 {\"step\":1,\"epoch\":0,\"test_accuracy\":0.5,\"test_loss\":2.0}\n";
    fs::write(&path, lines).unwrap();
    let (_, records) = Metrics::resume(&path, 1).unwrap();
    assert!(matches!(records[0], Record::Step { kind: Kind::Train, time: None, grad_norm: None, .. }));
    assert!(matches!(records[1], Record::Epoch { kind: Kind::Test, time: None, .. }));
    assert_eq!(fs::read_to_string(&path).unwrap(), lines);
}

/// A second start, and a record that ends before the checkpoint, are errors that leave the file as it is.
#[test]
fn metrics_are_not_lost() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("metrics.jsonl");
    assert_eq!(Metrics::resume(&path, 7).unwrap().1, [], "without the file, the record begins anew");
    assert_eq!(Metrics::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let line = |number: u64| serde_json::to_string(&step(number)).unwrap() + "\n";
    for (short, ends) in [(String::new(), 0), (line(1) + &line(4), 4), ("{}\n".into(), 0)] {
        fs::write(&path, &short).unwrap();
        let message = Metrics::resume(&path, 7).unwrap_err().to_string();
        let parts =
            [format!("metrics.jsonl: it ends at step {ends}, "), "the checkpoint is of step 7".into()];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), short);
    }
}

/// Lines that no run wrote are dropped: a run resumes without them.
#[test]
fn damaged_metrics_are_mended() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("metrics.jsonl");
    let line = |number: u64| serde_json::to_string(&step(number)).unwrap() + "\n";
    let zeros = "\0".repeat(50);
    for (damaged, kept) in [
        (line(1) + "{\"step\":1}\n" + &line(2), vec![1, 2]),
        (line(1) + "\n" + &line(2) + "not a record\n", vec![1, 2]),
        // The checkpoint's own step was written, and cannot be read any more.
        (line(1) + &zeros, vec![1]),
        (line(1) + &zeros + "\n", vec![1]),
        (line(1) + "\u{fffd}\n" + &line(3), vec![1]),
    ] {
        fs::write(&path, &damaged).unwrap();
        let (_, records) = Metrics::resume(&path, 2).unwrap();
        assert_eq!(records.iter().map(Record::step).collect::<Vec<_>>(), kept, "{damaged}");
        assert_eq!(fs::read_to_string(&path).unwrap(), kept.into_iter().map(line).collect::<String>());
    }
}

/// What a start left is taken up only where it is all there is.
#[test]
fn only_a_record_of_ours_is_abandoned() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    assert_eq!(abandoned(&folder.join("none")), None);
    assert_eq!(abandoned(folder), Some(0), "before there was a record");
    let mut metrics = Metrics::create(&folder.join(METRICS)).unwrap();
    metrics.append(&step(1)).unwrap();
    metrics.flush().unwrap();
    drop(metrics);
    for left in [".lock", ".fallline-Xy12ab"] {
        fs::write(folder.join(left), "").unwrap();
    }
    assert_eq!(abandoned(folder), Some(1));
    fs::write(folder.join("notes.txt"), "").unwrap();
    assert_eq!(abandoned(folder), None);
    fs::remove_file(folder.join("notes.txt")).unwrap();
    fs::write(folder.join(METRICS), "another program's\n").unwrap();
    assert_eq!(abandoned(folder), None);
}

/// A run has diverged where its loss has not become finite again.
#[test]
fn a_run_that_diverged_is_told() {
    let with = |number: u64, value: f32| match step(number) {
        Record::Step { step, epoch, lr, skipped, kind, time, examples_per_second, grad_norm, .. } => {
            Record::Step { step, epoch, loss: value, lr, skipped, kind, time, examples_per_second, grad_norm }
        }
        other => other,
    };
    assert_eq!(diverged(&[]), None);
    assert_eq!(diverged(&[with(1, f32::INFINITY), step(2)]), None);
    let records = [step(1), with(2, f32::INFINITY), with(3, f32::NAN)];
    assert_eq!(diverged(&records), Some((2, f32::INFINITY)));
}
