//! The largest element of a scratch, found with passes of a rule, so that no device needs a separate kernel.

use super::OpAt;
use fallline_core::backend::View;
use fallline_core::builtins::FAN_IN;
use fallline_core::{Link, Result, Storage};

impl OpAt<'_> {
    /// Remembers the largest element of `x`, which must have one, for the parameter at this place of
    /// [`Algorithm::MEMORY`](crate::Algorithm::MEMORY). Where that is on the device, nothing waits for it. What `x`
    /// holds afterwards is of no use. Where an element is NaN, any of them may come out.
    ///
    /// # Errors
    /// When the backend fails, or nothing is remembered at this place.
    pub fn remember_largest<K: Link>(&mut self, x: &mut Storage, place: usize) -> Result<()> {
        let rules = K::builtins();
        let mut left = x.len();
        let mut other = self.take(left.div_ceil(FAN_IN))?;
        let mut sides = [&mut *x, &mut other];
        while left > 1 {
            let next = left.div_ceil(FAN_IN);
            // The last parts overlap where the length is no multiple: comparing a number twice changes nothing.
            let start = |part: usize| (part * next).min(left - next);
            let [from, to] = sides;
            let parts = (0..FAN_IN).map(|part| Some(View::read(from).slice(start(part), next)));
            let mut views: Vec<_> = [Some(View::write(to).slice(0, next))].into_iter().chain(parts).collect();
            self.on.run(rules.largest(), &(), &[], &mut views)?;
            drop(views);
            sides = [to, from];
            left = next;
        }
        let found = View::read(sides[0]).slice(0, 1);
        match self.memory.on_device(place) {
            Some(to) => _ = self.on.run(rules.param_copy(), &(), &[], &mut [Some(to), Some(found)])?,
            None => {
                // A sum of one element is that element.
                let found = self.on.run(rules.total(), &(), &[], &mut [Some(found)])?;
                self.memory.set(place, found[0])?;
            }
        }
        self.workspace.release([other]);
        Ok(())
    }
}
