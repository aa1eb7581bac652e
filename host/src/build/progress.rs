//! What a build says while it works.

/// What a build is busy with, in this order; loading and timing take turns: the whole network, runs of fusion groups, the
/// stages of each plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Fetching the model if need be, and reading it.
    Reading,
    /// Folding constants and normalisations.
    Folding,
    /// Running the whole network to learn what crosses cuts; a step per run.
    Shapes,
    /// Timing codecs on what crosses cuts, in rounds; a step per round.
    Coding,
    /// Loading parts of the network as networks of their own; a step per part.
    Loading,
    /// Timing the parts, in rounds; a step per round.
    Timing,
    /// Writing the artifacts; a step per stage.
    Writing,
    /// Trying lossy codecs on one hop after the other; a step per try.
    Calibrating,
    /// Trying those that are left on all hops at once.
    Checking,
}

/// Takes note of how a build goes on. `()` ignores it all.
pub trait Progress {
    /// A phase begins, of `steps` steps; 0 where it has none.
    fn phase(&self, phase: Phase, steps: usize);

    /// One more step of the phase is done.
    fn step(&self);

    /// Something that a person may want to know, in one line.
    fn note(&self, line: &str);

    /// Something that only who asks for more wants to know, in one line.
    fn detail(&self, _line: &str) {}

    /// Something that a person should know, in one line.
    fn warning(&self, line: &str);
}

impl Progress for () {
    fn phase(&self, _: Phase, _: usize) {}
    fn step(&self) {}
    fn note(&self, _: &str) {}
    fn warning(&self, _: &str) {}
}
