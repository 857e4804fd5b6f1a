//! Barriers, shuffles, votes, reductions in a warp.

use super::line::{Decoded, Line};
use super::program::{Atomic, Op, Shuffle, Vote};
use super::types::Type::*;

impl Line<'_, '_> {
    fn synchronous(&mut self) -> Decoded<()> {
        if self.takes("sync") { Ok(()) } else { self.refuse("needs .sync") }
    }

    pub fn barrier(&mut self) -> Decoded<Op> {
        if self.takes("warp") {
            self.synchronous()?;
            self.count(1)?;
            return Ok(Op::WarpBarrier { mask: self.src(0, B32)? });
        }
        self.takes("cta");
        self.takes("aligned");
        if !self.takes("sync") {
            return Ok(Op::Unknown);
        }
        if self.operands.is_empty() || self.operands.len() > 2 {
            return self.refuse("needs a barrier and at most a number of threads");
        }
        let id = self.src(0, U32)?;
        let threads = if self.operands.len() == 2 { Some(self.src(1, U32)?) } else { None };
        Ok(Op::Barrier { id, threads })
    }

    pub fn shuffle(&mut self) -> Decoded<Op> {
        self.synchronous()?;
        self.one_type(&[B32])?;
        let shuffle = self.one_of(&[
            ("up", Shuffle::Up),
            ("down", Shuffle::Down),
            ("bfly", Shuffle::Butterfly),
            ("idx", Shuffle::Index),
        ]);
        let Some(shuffle) = shuffle else { return self.refuse("needs .up, .down, .bfly or .idx") };
        self.count(5)?;
        let (Some(d), p) = self.pair(0, B32, Pred)? else { return self.refuse("needs a destination") };
        let (a, b, c) = (self.src(1, B32)?, self.src(2, B32)?, self.src(3, B32)?);
        Ok(Op::Shuffle { shuffle, d, p, a, b, c, mask: self.src(4, B32)? })
    }

    pub fn vote(&mut self) -> Decoded<Op> {
        self.synchronous()?;
        let vote = self.one_of(&[
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uniform),
            ("ballot", Vote::Ballot),
        ]);
        let Some(vote) = vote else { return self.refuse("needs .all, .any, .uni or .ballot") };
        let ty = self.one_type(if vote == Vote::Ballot { &[B32] } else { &[Pred] })?;
        self.count(3)?;
        let (negate, name) = match self.operands[1].strip_prefix('!') {
            Some(name) => (true, name),
            None => (false, self.operands[1]),
        };
        let (d, p) = (self.dst(0, ty)?, self.source(name, Pred)?);
        Ok(Op::Vote { vote, d, p, negate, mask: self.src(2, B32)? })
    }

    pub fn redux(&mut self) -> Decoded<Op> {
        self.synchronous()?;
        self.needs(80, (7, 0))?;
        use Atomic::*;
        let names = [("add", Add), ("min", Min), ("max", Max), ("and", And), ("or", Or), ("xor", Xor)];
        let Some(atomic) = self.one_of(&names) else { return self.refuse("needs an operation") };
        let ty = self.one_type(match atomic {
            Add | Min | Max => &[U32, S32],
            _ => &[B32],
        })?;
        self.count(3)?;
        let (d, a) = (self.dst(0, ty)?, self.src(1, ty)?);
        Ok(Op::Redux { atomic, ty, d, a, mask: self.src(2, B32)? })
    }

    pub fn active_mask(&mut self) -> Decoded<Op> {
        self.one_type(&[B32])?;
        self.count(1)?;
        Ok(Op::ActiveMask { d: self.dst(0, B32)? })
    }
}
