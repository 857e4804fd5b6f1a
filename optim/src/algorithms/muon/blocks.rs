//! The iteration on blocks of rows, each a matrix of its own.

use super::newton_schulz::LeastNorm;
use super::{NewtonSchulz, Split};
use crate::op::OpAt;
use core::any::Any;
use fallline_core::backend::{AxisReduction, View};
use fallline_core::{Arithmetic, Kernel, Link, Result, rule};

rule! {
    /// A block divided by its norm.
    pub MuonBlockNormRule(h: LeastNorm, t) {
        let eps = h.eps();
    }
    element(from: Scratch, norm2: Scratch) -> (x: Scratch) {
        let root = norm2.sqrt();
        // Not `max`: it would hide that the norm is not a number.
        x = from / Arithmetic::select(root.lt(eps), eps, root);
    }
}

rule! {
    /// A block in its place, in the length that its shape asks for.
    pub MuonBlockRule(h: (), t) {}
    per_tensor(ratio)
    element(from: Scratch) -> (x: Scratch) {
        x = ratio * from;
    }
}

/// The iteration on each block of rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub(in crate::algorithms) struct Blocks<'a> {
    /// That of the whole matrix.
    pub(in crate::algorithms) iteration: NewtonSchulz<'a>,
    pub(in crate::algorithms) split: &'a Split,
}

impl Blocks<'_> {
    /// Returns the rules that it runs.
    pub(in crate::algorithms) fn rules<K: Link>() -> Vec<&'static Kernel> {
        vec![K::kernel::<MuonBlockNormRule>(), K::kernel::<MuonBlockRule>()]
    }

    /// Iterates on each block of the scratch, divided by its norm or `eps` to begin with, and puts the result there,
    /// times the `ratio` of the block's rows.
    ///
    /// # Errors
    /// When the matrix cannot be split so, or the backend fails.
    pub(in crate::algorithms) fn run<K: Link>(
        &self,
        at: &mut OpAt<'_>,
        eps: f64,
        ratio: impl Fn(usize) -> f64,
    ) -> Result<()> {
        let NewtonSchulz { rows, columns, format, .. } = self.iteration;
        if rows * columns == 0 {
            return Ok(());
        }
        let blocks = self.split.blocks(rows)?.filter(|(_, rows)| *rows > 0);
        let (on, least) = (at.on, LeastNorm::new(eps));
        // Row by row first: sums of few terms.
        let (mut row2, mut norm2) = (at.take(rows)?, at.take(1)?);
        on.backend.reductions().reduce_axis(AxisReduction {
            from: View::read(at.scratch.get("x")?),
            squares: true,
            outer: rows,
            count: columns,
            inner: 1,
            to: &mut row2,
        })?;
        for (first, rows) in blocks {
            let (start, elements) = (first * columns, rows * columns);
            let (mut x, mut y) = (at.take_as(format, elements)?, at.take_as(format, elements)?);
            on.backend.reductions().reduce_axis(AxisReduction {
                from: View::read(&row2).slice(first, rows),
                squares: false,
                outer: 1,
                count: rows,
                inner: 1,
                to: &mut norm2,
            })?;
            let scratch = at.scratch.get_mut("x")?;
            let from = View::read(scratch).slice(start, elements);
            let norm = View::read(&norm2).broadcast(1, elements);
            let views = &mut [View::write(&mut x), from, norm].map(Some);
            on.run(K::kernel::<MuonBlockNormRule>(), &least, &[], views)?;
            NewtonSchulz { rows, ..self.iteration }.iterate::<K>(on, at.workspace, &mut x, &mut y)?;
            let to = View::write(scratch).slice(start, elements);
            let views = &mut [to, View::read(&x)].map(Some);
            on.run(K::kernel::<MuonBlockRule>(), &() as &dyn Any, &[ratio(rows)], views)?;
            at.workspace.release([x, y]);
        }
        at.workspace.release([row2, norm2]);
        Ok(())
    }
}
