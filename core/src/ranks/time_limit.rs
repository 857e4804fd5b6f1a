//! A time limit that a pause of the process does not use up.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long is waited before the clock is looked at again, at most.
const SLICE: Duration = Duration::from_millis(100);

/// The time that is left for an exchange. For communicators.
///
/// Only time in which this process runs counts. Where it was stopped (`SIGSTOP`, a machine that was suspended), the others
/// get at least one more look: ranks that are threads of one process would lose each other otherwise.
///
/// Wait no longer than [`wait`](TimeLimit::wait) says, look for the others, and ask again.
#[derive(Debug)]
pub struct TimeLimit {
    left: Duration,
    slice: Duration,
    /// When the clock was looked at.
    seen: Instant,
    /// Whether time was added, since the limit was over just after a pause.
    extended: bool,
}

impl TimeLimit {
    /// Starts the time.
    pub fn new(limit: Duration) -> TimeLimit {
        TimeLimit { left: limit, slice: (limit / 8).min(SLICE), seen: Instant::now(), extended: false }
    }

    /// Returns how long to wait before asking again; none once the time is over.
    pub fn wait(&mut self) -> Option<Duration> {
        self.wait_at(Instant::now())
    }

    fn wait_at(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.seen);
        self.seen = now;
        self.left = self.left.saturating_sub(passed.min(self.slice));
        if self.left.is_zero() && passed > 2 * self.slice && !self.extended {
            (self.extended, self.left) = (true, self.slice);
        }
        (!self.left.is_zero()).then(|| self.left.min(self.slice))
    }
}

/// Receives what another thread sends, within a [`TimeLimit`]. For communicators.
///
/// # Errors
/// [`RecvTimeoutError`], as the receiver has it.
pub fn receive<T>(from: &Receiver<T>, limit: Duration) -> Result<T, RecvTimeoutError> {
    let mut limit = TimeLimit::new(limit);
    while let Some(wait) = limit.wait() {
        match from.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            received => return received,
        }
    }
    Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::Communicator;

    /// Waits as long as it is told, and returns how long that is until the time is over.
    fn waited(limit: &mut TimeLimit, mut now: Instant) -> Duration {
        let begin = now;
        while let Some(wait) = limit.wait_at(now) {
            now += wait;
        }
        now - begin
    }

    #[test]
    fn time_in_which_the_process_runs_counts() {
        for seconds in [1, 300] {
            let mut limit = TimeLimit::new(Duration::from_secs(seconds));
            let begin = limit.seen;
            assert_eq!(waited(&mut limit, begin), Duration::from_secs(seconds));
        }
        assert_eq!(TimeLimit::new(Duration::ZERO).wait(), None);
        assert_eq!(TimeLimit::new(Duration::MAX).wait(), Some(SLICE));
    }

    #[test]
    fn ranks_wait_without_an_end() {
        let ranks = crate::ranks::threads(2, Duration::MAX);
        std::thread::scope(|scope| {
            let waiting = ranks.into_iter().map(|rank| scope.spawn(move || rank.barrier()));
            waiting.collect::<Vec<_>>().into_iter().for_each(|rank| rank.join().unwrap().unwrap());
        });
    }

    #[test]
    fn what_is_sent_is_received() {
        let (to, from) = std::sync::mpsc::channel();
        assert_eq!(receive(&from, Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
        to.send(7).unwrap();
        assert_eq!(receive(&from, Duration::MAX), Ok(7));
        drop(to);
        assert_eq!(receive(&from, Duration::MAX), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_pause_does_not_count() {
        let mut limit = TimeLimit::new(Duration::from_secs(1));
        let begin = limit.seen;
        // An hour's pause costs a slice.
        let later = begin + Duration::from_secs(3600);
        assert_eq!(limit.wait_at(later), Some(SLICE));
        assert_eq!(waited(&mut limit, later), Duration::from_secs(1) - SLICE);
        // At the end there is one more look, and no second one.
        let mut limit = TimeLimit::new(Duration::from_secs(1));
        let mut now = limit.seen;
        for _ in 0..9 {
            now += SLICE;
            assert_eq!(limit.wait_at(now), Some(SLICE));
        }
        now += Duration::from_secs(3600);
        assert_eq!(limit.wait_at(now), Some(SLICE));
        assert_eq!(limit.wait_at(now + Duration::from_secs(3600)), None);
    }
}
