//! What the ledger promises.

use super::*;

const GENERATION: u64 = 3;

fn ledger(patience: Duration) -> Arc<Ledger> {
    let ledger = Ledger::new("p", 7, patience);
    ledger.open(GENERATION, Order::Kept);
    ledger
}

fn enter(ledger: &Arc<Ledger>) -> (Tag, Entry, oneshot::Receiver<Reply>) {
    enter_into(ledger, GENERATION)
}

fn enter_into(ledger: &Arc<Ledger>, generation: u64) -> (Tag, Entry, oneshot::Receiver<Reply>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (outgoing, entry, answer) = ledger.enter(generation, Vec::new(), 0, deadline).expect("an open generation");
    (outgoing.tag, entry, answer)
}

#[test]
fn an_answer_counts_once_and_only_if_everything_in_its_tag_matches() {
    let ledger = ledger(Duration::from_secs(5));
    let (tag, _entry, mut answer) = enter(&ledger);
    for wrong in [
        Tag { pipeline: PipelineId::of("q"), ..tag },
        Tag { incarnation: 8, ..tag },
        Tag { generation: 2, ..tag },
        Tag { seq: tag.seq + 1, ..tag },
        Tag { attempt: 1, ..tag },
    ] {
        assert!(!ledger.answer(&wrong, Ok(Vec::new())), "{wrong:?}");
    }
    assert!(answer.try_recv().is_err());
    assert!(ledger.answer(&tag, Ok(Vec::new())));
    assert!(!ledger.answer(&tag, Ok(Vec::new())));
    assert!(answer.try_recv().is_ok());
}

#[test]
fn an_answer_tells_when_its_request_first_went_in_and_came_out() {
    let ledger = ledger(Duration::from_secs(5));
    let entered = Instant::now();
    let (first, _entry, mut answer) = enter(&ledger);
    ledger.sent(&first, 0);
    let sent = Instant::now();
    let again = ledger.replay_sent(GENERATION).remove(0).tag;
    ledger.sent(&again, 0);
    assert!(ledger.arrived(&again));
    assert!(ledger.answer(&again, Ok(Vec::new())));
    let Reply { sent: first_sent, arrived, .. } = answer.try_recv().unwrap();
    assert!((entered..=sent).contains(&first_sent.unwrap()) && arrived.unwrap() >= sent);
}

#[test]
fn whichever_attempt_answers_first_counts_and_no_other() {
    for answering in [0, 1] {
        let ledger = ledger(Duration::from_secs(5));
        let (first, _entry, mut answer) = enter(&ledger);
        ledger.sent(&first, 0);
        let again = ledger.replay_sent(GENERATION);
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].tag.seq, again[0].tag.attempt), (first.seq, 1));
        assert!(ledger.answer(&Tag { attempt: answering, ..first }, Ok(Vec::new())));
        assert!(!ledger.answer(&Tag { attempt: 1 - answering, ..first }, Ok(Vec::new())));
        assert!(answer.try_recv().is_ok());
    }
}

#[test]
fn a_silent_chain_is_asked_again_ever_more_patiently() {
    let ledger = ledger(Duration::from_millis(20));
    let (tag, _entry, _answer) = enter(&ledger);
    ledger.sent(&tag, 0);
    let mut attempts = Vec::new();
    let start = Instant::now();
    while attempts.len() < 4 {
        for frame in ledger.replay_lost(GENERATION) {
            ledger.sent(&frame.tag, 0);
            attempts.push(start.elapsed());
        }
    }
    // 20, then 40, 80 and 160 ms after one another, at least.
    for (i, gap) in [20, 40, 80, 160].into_iter().enumerate() {
        let before = if i == 0 { Duration::ZERO } else { attempts[i - 1] };
        assert!(attempts[i] - before >= Duration::from_millis(gap), "{attempts:?}");
    }
}

#[test]
fn an_overtaken_request_is_sent_again_and_one_that_waits_is_not() {
    let ledger = ledger(Duration::from_secs(5));
    let [(lost, ..), (answered, ..), (in_chain, ..), (queued, ..)] = [0; 4].map(|_| {
        let (tag, entry, answer) = enter(&ledger);
        // Struck out only at the end of the test.
        std::mem::forget(entry);
        (tag, answer)
    });
    for tag in [&lost, &answered, &in_chain] {
        ledger.sent(tag, 0);
    }
    assert!(ledger.replay_lost(GENERATION).is_empty());
    assert!(ledger.answer(&answered, Ok(Vec::new())));
    let again: Vec<u64> = ledger.replay_lost(GENERATION).iter().map(|frame| frame.tag.seq).collect();
    assert_eq!(again, [lost.seq]);
    assert!(ledger.expects(&in_chain) && ledger.expects(&queued));
}

#[test]
fn where_frames_may_overtake_each_other_one_is_sent_again_when_it_is_late() {
    let late = Duration::from_millis(300);
    let ledger = Ledger::new("p", 7, late * LEAST_LATE);
    ledger.open(GENERATION, Order::Free);
    let (slow, _e1, mut answer) = enter(&ledger);
    let (answered, _e2, _a2) = enter(&ledger);
    let (last, _e3, _a3) = enter(&ledger);
    let start = Instant::now();
    [&slow, &answered, &last].into_iter().for_each(|tag| ledger.sent(tag, 0));
    assert!(ledger.answer(&answered, Ok(Vec::new())));
    let next = || loop {
        if let Some(frame) = ledger.replay_lost(GENERATION).first() {
            break (frame.tag, start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let (again, after) = next();
    assert!(again == Tag { attempt: 1, ..slow } && after >= late, "{again:?} after {after:?}");
    // It was only slow.
    assert!(ledger.answer(&slow, Ok(Vec::new())) && answer.try_recv().is_ok());
    assert!(!ledger.answer(&again, Ok(Vec::new())));
    // What nothing has overtaken is given more time.
    let (again, after) = next();
    assert!(again == Tag { attempt: 1, ..last } && after >= late * 2, "{again:?} after {after:?}");
}

#[test]
fn a_request_whose_client_left_is_struck_out() {
    let ledger = ledger(Duration::from_secs(5));
    let (tag, entry, _answer) = enter(&ledger);
    assert_eq!(ledger.pending(), 1);
    drop(entry);
    assert_eq!(ledger.pending(), 0);
    assert!(!ledger.answer(&tag, Ok(Vec::new())));
}

#[test]
fn a_turn_lets_requests_into_one_generation_only_from_one_number_on() {
    let ledger = ledger(Duration::from_secs(5));
    let (before, _entry, _answer) = enter(&ledger);
    let first = ledger.turn(4, Order::Kept);
    let deadline = Instant::now() + Duration::from_secs(60);
    assert!(ledger.enter(GENERATION, Vec::new(), 0, deadline).is_err());
    let (after, _entry, _answer) = enter_into(&ledger, 4);
    assert!(before.seq < first && after.seq == first && after.generation == 4);
    assert_eq!((ledger.pending_in(GENERATION), ledger.pending_in(4)), (1, 1));
    // Each is answered by its own generation only.
    assert!(!ledger.answer(&Tag { generation: 4, ..before }, Ok(Vec::new())));
    assert!(!ledger.answer(&Tag { generation: GENERATION, ..after }, Ok(Vec::new())));
    assert!(ledger.answer(&before, Ok(Vec::new())) && ledger.answer(&after, Ok(Vec::new())));
}

#[test]
fn a_request_whose_generation_goes_starts_again_in_another_and_only_that_one_answers() {
    let ledger = ledger(Duration::from_secs(5));
    let (sent, _e1, mut answer) = enter(&ledger);
    let (queued, _e2, _a2) = enter(&ledger);
    ledger.sent(&sent, 0);
    ledger.turn(4, Order::Kept);
    let again: Vec<Tag> =
        ledger.restart(GENERATION, 4, |parts| Ok(Arc::clone(parts))).iter().map(|frame| frame.tag).collect();
    let tags: Vec<_> = again.iter().map(|tag| (tag.seq, tag.generation, tag.attempt)).collect();
    assert_eq!(tags, [(sent.seq, 4, 1), (queued.seq, 4, 1)]);
    ledger.close(GENERATION);
    // What the old chain still says, or still sends, is an echo.
    ledger.sent(&queued, 0);
    assert!(!ledger.answer(&sent, Ok(Vec::new())));
    assert!(ledger.answer(&again[0], Ok(Vec::new())));
    assert!(answer.try_recv().is_ok_and(|reply| reply.answer.is_ok()));
    let (moved, mut failed) = (again[1], _a2);
    assert!(ledger.restart(4, 5, |_| Err("it needs another input".to_owned())).is_empty());
    assert!(failed.try_recv().is_ok_and(|reply| reply.answer.is_err()));
    assert!(!ledger.expects(&moved));
}

#[test]
fn a_broken_link_loses_what_went_over_it_and_nothing_else() {
    let ledger = ledger(Duration::from_secs(5));
    let [(one, ..), (two, ..), (queued, ..)] = &[enter(&ledger), enter(&ledger), enter(&ledger)];
    ledger.sent(one, 0);
    ledger.sent(two, 1);
    let seqs =
        |frames: Vec<Outgoing>| frames.iter().map(|frame| (frame.tag.seq, frame.tag.attempt)).collect::<Vec<_>>();
    assert_eq!(seqs(ledger.replay_sent_over(GENERATION, 1)), [(two.seq, 1)]);
    assert_eq!(seqs(ledger.replay_sent_over(GENERATION, 1)), [], "it is not in the chain any more");
    assert_eq!(seqs(ledger.replay_sent(GENERATION)), [(one.seq, 1)], "and {queued:?} was never in it");
}
