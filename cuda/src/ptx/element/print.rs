//! The course of an element-wise kernel: its chunk, its steps, and what follows the loop.

use super::kernel::{Element, Place, SubStep};
use super::operand::{Operand, PER_LANE, Stored};
use crate::ptx::grid::warp_of_grid;
use crate::ptx::{Class, Ptx, Reg, Space, Target, Type, Value, formula};
use fallline_core::reduction::{SEGMENT, STEP};
use fallline_core::{Compute, Format, Graph};

/// Returns the element-wise kernel of a recorded rule, for these formats of its operands.
///
/// Launched in blocks of any multiple of 32 threads; warp `w` of block `b` takes the chunk
/// `b · (threads / 32) + w`. Parameters, all addresses in device memory:
///
/// | parameter | type | what it points at |
/// |---|---|---|
/// | `tensors` | u64 | for each tensor: two addresses for each operand, in the order of [`Graph::operands`]: its elements', and its scales' or its copy's, if it has any, or, where it is repeated, `times · run << 32 \| run`; its count of elements; `first_segment << 32 \| row`: all u64 |
/// | `chunks` | u64 | for each chunk: first element (u64), tensor (u32), count of elements (u32) |
/// | `rows` | u64 | rows of scalars in the compute type: `grad_scale`, then [`Graph::scalars`] |
/// | `partials` | u64 | f64: for each segment of a tensor, from its `first_segment`, one for each sum |
/// | `chunk_count` | u32 | |
/// | `keys` | u64 | only where something is rounded stochastically: for each tensor a key for each operand, and the fours of elements before its first, u64 |
///
/// A chunk begins at a multiple of 256 elements, and its count is one but for a tensor's last chunk. For a
/// rule with sums a chunk is a segment: it begins at a multiple of 4,096 and has at most so many. An operand
/// that the rule neither uses nor writes is never touched. Two chunks must not have an element in common, nor
/// two operands an address. A tensor with a repeated operand has less than 2³² elements. Blocks of 128 threads have registers enough for any rule.
///
/// # Panics
/// When `stored` has not one entry for each operand, or one is repeated that is written or in blocks.
pub fn element_kernel(
    graph: &Graph,
    name: &str,
    compute: Compute,
    stored: &[impl Into<Stored> + Copy],
    target: Target,
) -> Ptx {
    assert_eq!(stored.len(), graph.operands().len(), "{name}: one format for each operand");
    let stored: Vec<Stored> = stored.iter().map(|&stored| stored.into()).collect();
    Element::new(graph, name, compute, &stored, target).finish()
}

/// Prints as [`element_kernel`], with one more parameter behind the others: `skip` (u64), the address of a number
/// (f64). It is above 0 where the pass is left out, with sums of 0.
///
/// # Panics
/// As [`element_kernel`].
pub fn skippable_kernel(
    graph: &Graph,
    name: &str,
    compute: Compute,
    stored: &[impl Into<Stored> + Copy],
    target: Target,
) -> Ptx {
    assert_eq!(stored.len(), graph.operands().len(), "{name}: one format for each operand");
    let stored: Vec<Stored> = stored.iter().map(|&stored| stored.into()).collect();
    Element { skips: true, ..Element::new(graph, name, compute, &stored, target) }.finish()
}

impl Element<'_> {
    /// Prints the kernel.
    fn finish(mut self) -> Ptx {
        self.notes();
        self.print();
        self.b.finish(self.target)
    }

    /// Writes the comment above the kernel: what it computes from what.
    fn notes(&mut self) {
        let b = &mut self.b;
        b.note(&format!("One pass over all tensors, computed in {}:", self.compute.suffix()));
        b.note("");
        for line in &self.lines {
            b.note(&format!("    {}", line.text));
        }
        b.note("");
        for (declared, operand) in self.graph.operands().iter().zip(&self.operands) {
            let does = match (operand.loaded, operand.store.is_some()) {
                (true, true) => "read and written",
                (true, false) => "read",
                (false, true) => "written",
                (false, false) => "not touched",
            };
            let what = formula::describe(declared);
            let rounding = if operand.stochastic.is_some() { ", rounded stochastically" } else { "" };
            let repeated = if operand.repeated.is_some() { ", repeated" } else { "" };
            b.note(&format!(
                "    {}: {what} in {}, {does}{rounding}{repeated}",
                operand.name, operand.format
            ));
        }
        for operand in &self.operands[self.graph.operands().len()..] {
            b.note(&format!("    {}: a copy in {}, written", operand.name, operand.format));
        }
        b.note("");
        b.note("A warp works on one chunk, 256 elements a step; lane l holds the eight from 8 l.");
    }

    fn print(&mut self) {
        let [tensors, chunks, rows, partials] =
            ["tensors", "chunks", "rows", "partials"].map(|name| self.b.param(Type::U64, name));
        let chunk_count = self.b.param(Type::U32, "chunk_count");
        let keys = self.rounds_stochastically().then(|| self.b.param(Type::U64, "keys"));
        let skip = self.skips.then(|| self.b.param(Type::U64, "skip"));
        self.copy_tables();
        let end = self.b.label("end");
        let (lane, warp) = warp_of_grid(&mut self.b);
        let outside = self.b.setp("ge", Type::U32, warp, chunk_count);
        self.b.when(outside).bra(&end);

        let place = self.find_chunk(lane, warp, [tensors, chunks, rows], keys);
        self.uniform_values();
        self.zero_accumulators();
        let left_out = self.b.label("left_out");
        if let Some(skip) = skip {
            self.b.comment("whether the pass is left out");
            let flag = self.b.ld(Space::Constant, Type::F64, 1, skip, 0)[0];
            let skips = self.b.setp("gt", Type::F64, flag, Value::F64(0.0));
            self.b.when(skips).bra(&left_out);
        }

        let [step, terms, added, values, coded] =
            ["step", "masked_terms", "added", "masked_values", "coded"].map(|name| self.b.label(name));
        let codes = self.stores_blocks();
        let writes = self.operands.iter().any(|operand| operand.store.is_some());
        let substeps: Vec<SubStep> =
            (0..PER_LANE / self.substep).map(|i| SubStep::new(&mut self.b, i * self.substep)).collect();
        let b = &mut self.b;
        b.comment("steps of 256 elements");
        b.place(&step);
        let whole = b.setp("ge", Type::U32, place.rest, place.whole);
        self.name_terms();
        self.name_values();
        for substep in &substeps {
            self.b.unless(whole).bra(&substep.loads);
            self.whole_loads(substep.first);
            self.b.place(&substep.loaded);
            self.load_scales(&place);
            self.elements(substep.first);
            if codes {
                self.b.unless(whole).bra(&values);
                self.b.place(&coded);
                self.encode_blocks(&place);
            }
            if writes {
                self.b.unless(whole).bra(&substep.stores);
                self.whole_stores(substep.first);
                self.b.place(&substep.stored);
            }
        }
        if !self.terms.is_empty() {
            self.b.unless(whole).bra(&terms);
            self.b.place(&added);
            self.add_terms(lane);
        }
        self.next_step(&place, &step);
        if skip.is_some() {
            self.b.place(&left_out);
        }
        if let Some(segment) = place.segment {
            self.store_partials(segment, partials, lane);
        }
        self.b.bra(&end);

        self.b.comment("a step that is not whole or not aligned: element by element, those that are there");
        for substep in &substeps {
            self.b.place(&substep.loads);
            self.masked_loads(&place, substep.first);
            self.b.bra(&substep.loaded);
            if writes {
                self.b.place(&substep.stores);
                self.masked_stores(&place, substep.first);
                self.b.bra(&substep.stored);
            }
        }
        if codes {
            self.b.place(&values);
            self.masked_values(&place);
            self.b.bra(&coded);
        }
        if !self.terms.is_empty() {
            self.b.place(&terms);
            self.masked_terms(&place);
            self.b.bra(&added);
        }
        self.b.place(&end);
    }

    /// Reads the warp's chunk and its tensor's record; addresses, alignment and scalars follow from them.
    fn find_chunk(
        &mut self,
        lane: Reg,
        warp: Reg,
        [tensors, chunks, rows]: [Reg; 3],
        keys: Option<Reg>,
    ) -> Place {
        let b = &mut self.b;
        b.comment("the chunk: its first element, its tensor, how many elements");
        let chunk = b.mad_wide(warp, 16, chunks);
        let first = b.named(Class::B64, "first");
        b.to(first).ld(Space::Constant, Type::U64, 1, chunk, 0);
        let tensor = b.ld(Space::Constant, Type::U32, 2, chunk, 8);
        let rest = b.named(Class::B32, "rest");
        b.to(rest).mov(Type::U32, tensor[1]);

        b.comment("the tensor: addresses of the lane's first elements, and whether all are aligned");
        let words = 2 * self.graph.operands().len() as i64 + 2;
        let record = b.mad_wide(tensor[0], 8 * words, tensors);
        let lane_first = b.mad_wide(lane, PER_LANE as i64, first);
        let mut low_bits: Option<Reg> = None;
        let moved = |operand: &&mut Operand| operand.touched() && operand.repeated.is_none();
        for operand in self.operands.iter_mut().filter(moved) {
            let base = b.ld(Space::Constant, Type::U64, 1, record, 8 * operand.word)[0];
            let offset = match operand.format {
                Format::Q4(_) => b.shr(Type::U64, lane_first, 1),
                format => b.mul(Type::U64, lane_first, format.bytes() as i64),
            };
            let address = b.named(Class::B64, &format!("{}_at", operand.name));
            operand.address = Some(b.to(address).add(Type::U64, base, offset));
            // The offset is a multiple of a lane's bytes in every format, so the base alone decides.
            let bits = b.cvt("", Type::U32, Type::U64, base);
            low_bits = Some(match low_bits {
                Some(low) => b.or(Type::B32, low, bits),
                None => bits,
            });
        }
        let whole = b.named(Class::B32, "whole");
        match low_bits {
            Some(low) => {
                let low = b.and(Type::B32, low, 15);
                let aligned = b.setp("eq", Type::U32, low, 0);
                b.to(whole).selp(Type::U32, STEP as i64, Value::Bits(u32::MAX), aligned);
            }
            None => _ = b.to(whole).mov(Type::U32, STEP as i64),
        }

        self.find_scales(lane, first, record);
        self.find_repeated(lane_first, record);
        if let Some(keys) = keys {
            self.find_keys(lane, first, tensor[0], keys);
        }
        let b = &mut self.b;
        let meta = b.ld(Space::Constant, Type::U32, 1, record, 8 * (words as usize - 1))[0];
        let row_bytes = ((1 + self.graph.scalars().len()) * self.compute.bytes()) as i64;
        let row = b.mad_wide(meta, row_bytes, rows);
        self.load_scalars(row);

        let segment = (!self.graph.sums().is_empty()).then(|| {
            let b = &mut self.b;
            let before = b.ld(Space::Constant, Type::U32, 1, record, 8 * (words as usize - 1) + 4)[0];
            let own = b.shr(Type::U64, first, i64::from(SEGMENT.ilog2()));
            let own = b.cvt("", Type::U32, Type::U64, own);
            let segment = b.named(Class::B32, "segment");
            b.to(segment).add(Type::U32, before, own)
        });
        Place { lane, rest, segment, whole }
    }

    /// Moves on by 256 elements and goes back to `step` while some are left.
    fn next_step(&mut self, place: &Place, step: &str) {
        let b = &mut self.b;
        b.comment("on to the next 256 elements");
        for operand in self.operands.iter().filter(|operand| operand.repeated.is_none()) {
            if let Some(address) = operand.address {
                b.to(address).add(Type::U64, address, operand.format.size(STEP) as i64);
            }
        }
        self.next_scales();
        self.next_counter4();
        self.next_element();
        let b = &mut self.b;
        // Elements that are there and not done: the last step may have had fewer than 256.
        let more = b.setp("gt", Type::U32, place.rest, STEP as i64);
        b.to(place.rest).sub(Type::U32, place.rest, STEP as i64);
        b.when(more).bra(step);
    }
}
