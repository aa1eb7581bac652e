//! Generations that are made, committed, given up and dropped; the dispatcher's death and its next life.

use super::*;

impl World {
    /// Runs changes and everything else to a first active generation.
    pub(super) fn go_on(&mut self) {
        while !self.life.generations.iter().any(|one| one.state == State::Active) {
            let nodes = self.record.map(|(_, nodes)| nodes);
            if !self.life.generations.iter().any(|one| matches!(one.state, State::Preparing(_))) {
                self.begin_change(nodes);
            }
            self.prepare_all();
            self.commit(true);
        }
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..NODES).filter(|&node| !self.nodes[node].dead).collect()
    }

    pub(super) fn begin_change(&mut self, wanted: Option<Homes>) {
        let busy = |one: &Generation| !matches!(one.state, State::Active | State::Draining);
        if self.life.generations.iter().any(busy) {
            return;
        }
        let alive = self.alive();
        if alive.len() < STAGES {
            return;
        }
        let first = self.below(alive.len());
        // Any stage may have a second node, whatever else that runs.
        let seconds: [Option<usize>; STAGES] =
            std::array::from_fn(|_| (self.below(4) == 0).then(|| alive[self.below(alive.len())]));
        let nodes = wanted.filter(|nodes| nodes.as_flattened().iter().all(|&node| !self.nodes[node].dead));
        let nodes: Homes = nodes.unwrap_or_else(|| {
            std::array::from_fn(|stage| {
                let node = alive[(first + stage) % alive.len()];
                [node, seconds[stage].unwrap_or(node)]
            })
        });
        let known = nodes
            .as_flattened()
            .iter()
            .flat_map(|&node| self.nodes[node].loaded.iter().map(|(number, _)| *number))
            .max();
        let recorded = self.record.map_or(0, |(number, _)| number);
        let known = known.unwrap_or(0).max(recorded);
        let number = if self.flaw == Flaw::ReusesNumbers { known + 1 } else { known.max(self.life.highest) + 1 };
        self.life.highest = self.life.highest.max(number);
        self.places.insert((self.life.incarnation, number), nodes);
        let state = State::Preparing(nodes.as_flattened().to_vec());
        self.life.generations.push(Generation { number, nodes, state, feed: VecDeque::new() });
    }

    /// One node says that it is ready, or cannot be.
    pub(super) fn prepare_one(&mut self) {
        let incarnation = self.life.incarnation;
        let Some(at) = self.life.generations.iter().position(|one| matches!(one.state, State::Preparing(_))) else {
            return;
        };
        let one = &mut self.life.generations[at];
        let number = one.number;
        let State::Preparing(left) = &mut one.state else { return };
        let node = left.pop();
        let ready = left.is_empty();
        match node {
            // Or has no room.
            Some(node) if self.nodes[node].dead || self.random.below(6) == 0 => self.give_up(at),
            Some(node) => {
                self.nodes[node].loaded.insert((number, incarnation));
                if ready {
                    self.life.generations[at].state = State::Prepared;
                }
            }
            None => {}
        }
    }

    pub(super) fn prepare_all(&mut self) {
        for _ in 0..=STAGES {
            self.prepare_one();
        }
    }

    /// Drops a generation that was never used.
    pub(super) fn give_up(&mut self, at: usize) {
        let one = self.life.generations.remove(at);
        let own = Some(self.life.incarnation);
        self.drops.extend(one.nodes.as_flattened().iter().map(|&node| (node, one.number, own)));
    }

    /// The next phase of what is prepared; all of them where `through`.
    pub(super) fn commit(&mut self, through: bool) {
        for _ in 0..if through { 2 } else { 1 } {
            let is = |one: &Generation| matches!(one.state, State::Prepared | State::Recorded);
            let Some(at) = self.life.generations.iter().position(is) else { return };
            let (number, nodes, state) = {
                let one = &self.life.generations[at];
                (one.number, one.nodes, one.state.clone())
            };
            // With the flaw, in the other order.
            let records = (state == State::Prepared) != (self.flaw == Flaw::TurnsFirst);
            if records {
                self.record = Some((number, nodes));
            } else {
                self.turn(number);
            }
            self.life.generations[at].state = match state {
                State::Prepared => State::Recorded,
                _ => State::Active,
            };
        }
    }

    pub(super) fn turn(&mut self, number: u64) {
        let turning = self.life.generations.iter().find(|one| one.number == number);
        let first = self.life.ledger.turn(number, turning.map_or(Order::Kept, Generation::order));
        assert!(first > self.life.last_seq, "generation {number} begins with a number that was given out");
        self.made.insert(number);
        for other in self.life.generations.iter_mut().filter(|other| other.number != number) {
            if matches!(other.state, State::Active | State::Trial) {
                other.state = State::Draining;
            }
        }
    }

    /// Tries a prepared generation out, or ends the trial.
    pub(super) fn trial(&mut self) {
        let choice = self.below(3);
        let ledger = Arc::clone(&self.life.ledger);
        for one in &mut self.life.generations {
            match (&one.state, choice) {
                (State::Prepared, 0) => {
                    ledger.open(one.number, one.order());
                    self.made.insert(one.number);
                    one.state = State::Trial;
                }
                (State::Trial, 1) => {
                    ledger.shut(one.number);
                    one.state = State::Draining;
                }
                // Promoted.
                (State::Trial, 2) => one.state = State::Prepared,
                _ => {}
            }
        }
    }

    /// A generation that drains goes: when it is empty, and sometimes before that.
    pub(super) fn retire(&mut self, patient: bool) {
        let life = &mut self.life;
        let Some(active) = life.generations.iter().position(|one| one.state == State::Active) else { return };
        let Some(at) = life.generations.iter().position(|one| one.state == State::Draining) else { return };
        let (from, to) = (life.generations[at].number, life.generations[active].number);
        if patient && life.ledger.pending_in(from) > 0 {
            return;
        }
        if self.flaw != Flaw::ForgetsToRestart {
            let again = life.ledger.restart(from, to, |parts| Ok(Arc::clone(parts)));
            life.generations[active].feed.extend(again);
        }
        life.ledger.close(from);
        self.give_up(at);
    }

    pub(super) fn drop_late(&mut self) {
        if self.drops.is_empty() {
            return;
        }
        let at = self.below(self.drops.len());
        let (node, number, whose) = self.drops.swap_remove(at);
        if !self.nodes[node].dead {
            self.nodes[node].loaded.retain(|(loaded, by)| *loaded != number || whose.is_some_and(|own| own != *by));
        }
    }

    pub(super) fn dispatcher_dies(&mut self) {
        let recorded = self.record.map_or(0, |(number, _)| number);
        // Clients see their connections end.
        self.closed += self.life.waiting.len();
        let active = self.life.generations.iter().filter(|one| self.life.ledger_is_open(one)).map(|one| one.number);
        let turned: Vec<u64> = active.collect();
        assert!(turned.iter().all(|&number| number <= recorded), "generation {turned:?} was in use and not recorded");
        let next = Life::new(self.life.incarnation + 1, self.patience);
        self.latest.clear();
        self.life = next;
        self.life.highest = recorded;
        self.go_on();
        // What is left on its nodes is swept, whoever made it.
        let own = self.life.highest;
        for &node in self.record.map_or([[0; 2]; STAGES], |(_, nodes)| nodes).as_flattened() {
            let left = self.nodes[node].loaded.iter().filter(|(number, _)| *number < own);
            self.drops.extend(left.map(|(number, _)| (node, *number, None)));
        }
    }
}
