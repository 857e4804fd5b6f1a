//! The largest element of a scratch, found with passes of a rule, so that every device finds it without a line of its own.

use super::OpAt;
use crate::builtins::{Builtins, WAYS};
use fallline_core::backend::View;
use fallline_core::{Link, Result, Storage};

impl OpAt<'_> {
    /// The largest element of `x`, which must have one; what `x` holds afterwards is of no use. Where an element is NaN,
    /// any of them may come out.
    ///
    /// # Errors
    /// When the backend fails.
    pub fn largest<K: Link>(&mut self, x: &mut Storage) -> Result<f64> {
        let rules = Builtins::of::<K>();
        let mut left = x.len();
        let mut other = self.take(left.div_ceil(WAYS))?;
        let mut sides = [&mut *x, &mut other];
        while left > 1 {
            let next = left.div_ceil(WAYS);
            // The last parts overlap where the length is no multiple: comparing a number twice changes nothing.
            let start = |part: usize| (part * next).min(left - next);
            let [from, to] = sides;
            let parts = (0..WAYS).map(|part| Some(View::read(from).part(start(part), next)));
            let mut views: Vec<_> = [Some(View::write(to).part(0, next))].into_iter().chain(parts).collect();
            self.on.run(rules.largest(), &(), &[], &mut views)?;
            drop(views);
            sides = [to, from];
            left = next;
        }
        // A sum of one element is that element.
        let mut view = [Some(View::read(sides[0]).part(0, 1))];
        let found = self.on.run(rules.total(), &(), &[], &mut view)?;
        self.workspace.give([other]);
        Ok(found[0])
    }
}
