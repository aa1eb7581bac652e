//! Requests, their frames on the way, and their answers.

use super::*;

impl World {
    pub(super) fn request(&mut self) {
        let open = |one: &&mut Generation| matches!(one.state, State::Active | State::Trial | State::Recorded);
        let trial = self.below(4) == 0;
        let life = &mut self.life;
        let mut choices: Vec<&mut Generation> = life.generations.iter_mut().filter(open).collect();
        choices.sort_by_key(|one| (one.state == State::Trial) != trial);
        let Some(one) = choices.into_iter().next() else { return };
        let deadline = Instant::now() + NEVER;
        // Between the two phases of a turn the one that was picked may be shut: the request then asks again.
        let Ok((frame, entry, answer)) = life.ledger.enter(one.number, Vec::new(), 0, deadline) else { return };
        assert!(frame.tag.seq > life.last_seq, "a request's number was given out before");
        life.last_seq = frame.tag.seq;
        life.waiting.push((frame.tag.seq, entry, answer));
        one.feed.push_back(frame);
        self.accepted += 1;
    }

    /// A frame goes onto the first link of its generation.
    pub(super) fn feed(&mut self) {
        let at = self.below(self.life.generations.len().max(1));
        let link = self.below(2);
        let Some(one) = self.life.generations.get_mut(at) else { return };
        let Some(frame) = one.feed.pop_front() else { return };
        // As many links as nodes.
        let link = if one.nodes[0][0] == one.nodes[0][1] { 0 } else { link };
        self.life.ledger.sent(&frame.tag, link);
        self.latest.insert(frame.tag.seq, frame.tag.attempt);
        self.net.push(Frame { tag: frame.tag, link, made: Vec::new() });
    }

    /// The `at`-th frame on its way is computed by its next stage, or comes out.
    pub(super) fn advance(&mut self, at: usize) {
        let replica = self.below(2);
        let frame = &mut self.net[at];
        let stage = frame.made.len();
        let replica = if stage == 0 { frame.link } else { replica };
        if stage == STAGES {
            let frame = self.net.remove(at);
            return self.result(&frame);
        }
        let tag = frame.tag;
        let place = self.places.get(&(tag.incarnation, tag.generation)).map(|nodes| nodes[stage][replica]);
        let home = place.filter(|&node| {
            !self.nodes[node].dead && self.nodes[node].loaded.contains(&(tag.generation, tag.incarnation))
        });
        match home {
            Some(_) => frame.made.push(tag.generation as f32),
            // Refused, or nobody is there.
            None => drop(self.net.remove(at)),
        }
    }

    pub(super) fn result(&mut self, frame: &Frame) {
        let life = &mut self.life;
        let tensor = Tensor::from_f32(vec![STAGES], &frame.made).expect("as many values as stages");
        life.ledger.arrived(&frame.tag);
        let counted = life.ledger.answer(&frame.tag, Ok(vec![("made".to_owned(), tensor)]));
        if counted {
            assert_eq!(frame.tag.incarnation, life.incarnation, "a result of an earlier life counts");
            assert!(life.answered.insert(frame.tag.seq), "request {} is answered twice", frame.tag.seq);
        }
    }

    /// Clients take their answers.
    pub(super) fn collect(&mut self) {
        let made = &self.made;
        let mut ended = 0;
        self.life.waiting.retain_mut(|(seq, _, answer)| match answer.try_recv() {
            Ok(Reply { answer: Ok(outputs), generation, .. }) => {
                let by = outputs[0].1.to_f32().expect("FP32");
                assert!(by.iter().all(|&by| by == generation as f32), "request {seq} was made by {by:?}");
                assert!(made.contains(&generation), "generation {generation} answers, and was never in use");
                ended += 1;
                false
            }
            Ok(Reply { answer: Err(failure), .. }) => panic!("request {seq} failed: {failure:?}"),
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => panic!("request {seq} was forgotten"),
        });
        self.answered += ended;
    }

    /// The links of a generation break; what was in them may be gone, and is sent again.
    pub(super) fn break_links(&mut self, at: usize, all_is_lost: bool) {
        let Some(one) = self.life.generations.get_mut(at) else { return };
        if all_is_lost {
            self.net.retain(|frame| frame.tag.generation != one.number);
        }
        one.feed.extend(self.life.ledger.replay_sent(one.number));
    }

    /// A link to a node of the first stage breaks: what that node had is gone, and that, at least, is sent again.
    pub(super) fn break_feed(&mut self, at: usize) {
        let (link, had_left) = (self.below(2), self.below(2) == 0);
        let incarnation = self.life.incarnation;
        let Some(one) = self.life.generations.get_mut(at) else { return };
        let number = one.number;
        let is_own = |frame: &Frame| frame.tag.generation == number && frame.tag.incarnation == incarnation;
        let is_latest = |frame: &&Frame| is_own(frame) && self.latest.get(&frame.tag.seq) == Some(&frame.tag.attempt);
        let waits = |seq: &u64| self.life.waiting.iter().any(|(waiting, ..)| waiting == seq);
        let before: Vec<u64> = self.net.iter().filter(is_latest).map(|frame| frame.tag.seq).filter(waits).collect();
        let inside = if had_left { 0 } else { 1 };
        self.net.retain(|frame| !is_own(frame) || frame.link != link || frame.made.len() > inside);
        let over = if self.flaw == Flaw::TakesTheOtherLink { 1 - link } else { link };
        one.feed.extend(self.life.ledger.replay_sent_over(number, over));
        for seq in before {
            let is_there = self.net.iter().any(|frame| is_own(frame) && frame.tag.seq == seq);
            assert!(
                is_there || one.feed.iter().any(|frame| frame.tag.seq == seq),
                "request {seq} is lost with its link"
            );
        }
    }

    pub(super) fn replay(&mut self, at: usize) {
        let Some(one) = self.life.generations.get_mut(at) else { return };
        one.feed.extend(self.life.ledger.replay_lost(one.number));
    }
}
