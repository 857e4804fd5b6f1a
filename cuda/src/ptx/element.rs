//! The element-wise kernel of a recorded rule.
//!
//! The shape: one warp works on one chunk, in steps of 256 elements of which lane `l` holds the eight from
//! `8 l`, so that every format is moved 128 bits at a time. A step that is whole and aligned goes straight
//! through; any other branches to the same step's masked loads, terms and stores, which stand behind the
//! loop. The arithmetic between them is there only once, and the map from elements to lanes never changes.

mod access;
mod blocks;
mod broadcast;
mod codec;
mod evaluate;
mod stochastic;
mod sums;

pub(super) use access::zero;
pub(super) use evaluate::instruction;

use blocks::Blocks;
use broadcast::Repeated;
use stochastic::Chance;

use super::formula::{self, Line};
use super::{Builder, Class, Ptx, Reg, Space, Target, Type, Value};
use fallline_core::sums::{SEGMENT, STEP};
use fallline_core::{Compute, Format, Graph, Node};

/// Elements of a step that one lane holds.
const PER_LANE: usize = STEP / 32;
/// Elements of a lane that are computed side by side: enough to hide the latency of arithmetic, few enough
/// to keep the intermediate values of a rule in registers. Even, for 16-bit formats are encoded in pairs.
const ABREAST: usize = 2;
/// Registers for a lane's loaded elements of a step beyond which it takes the step in two parts.
const HELD: usize = 32;

/// How an operand is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Its format.
    pub format: Format,
    /// Whether what is stored as bfloat16 is rounded up or down by chance.
    pub chance: bool,
    /// The format in which what is stored is stored once more.
    pub copy: Option<Format>,
    /// Whether each run of elements is several times, as [`Repeat`](fallline_core::backend::Repeat) says.
    pub repeated: bool,
}

impl From<Format> for Stored {
    fn from(format: Format) -> Stored {
        Stored { format, chance: false, copy: None, repeated: false }
    }
}

/// The element-wise kernel of a recorded rule, for these formats of its operands.
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
/// | `keys` | u64 | only where something is rounded by chance: for each tensor a key for each operand, u64 |
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

/// As [`element_kernel`], with one more parameter behind the others: `skip` (u64), the address of a number (f64) above 0
/// where the pass is left out, with sums of 0.
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

/// One operand of the rule, as the kernel sees it, or its copy.
struct Stream {
    name: String,
    format: Format,
    /// The place of its address in the tensor's record.
    word: usize,
    blocks: Option<Blocks>,
    chance: Option<Chance>,
    repeated: Option<Repeated>,
    /// Whether the rule uses what is stored.
    loaded: bool,
    /// The node that is stored back.
    store: Option<u32>,
    /// The address of the lane's first element in this step, or of the first of all where they are repeated.
    address: Option<Reg>,
    /// The lane's elements of this step, as they are stored: a register each, or one for a pair of 16 bits.
    raw: Vec<Reg>,
    /// The same for what is stored back.
    new: Vec<Value>,
}

impl Stream {
    fn touched(&self) -> bool {
        self.loaded || self.store.is_some()
    }
}

/// What is known while an element-wise kernel is printed.
struct Element<'a> {
    b: Builder,
    graph: &'a Graph,
    live: Vec<bool>,
    lines: Vec<Line>,
    compute: Type,
    target: Target,
    /// The operands, then the copies.
    streams: Vec<Stream>,
    /// Where the lane's elements are, counted in fours of the tensor's.
    quarter: Option<Reg>,
    /// Which of the tensor's elements the lane's first is, where one is repeated.
    element: Option<Reg>,
    /// Values that are the same for all elements, by node.
    uniform: Vec<Option<Value>>,
    /// How many of the lane's elements are loaded, computed and stored together.
    part: usize,
    /// For each sum the lane's eight terms of this step.
    terms: Vec<Vec<Reg>>,
    /// For each sum the accumulators that the lane owns.
    accumulators: Vec<[Reg; sums::OWNED]>,
    /// Whether a number says that the pass is left out.
    skips: bool,
}

/// How many of its elements a lane takes together: all, or half of them where all would take too many registers (a rule
/// of five operands in single precision, of three in double) and half of them still fill accesses of 128 bits. Repeated
/// ones are loaded one by one in any case.
fn part(streams: &[Stream]) -> usize {
    let moved = |stream: &&Stream| stream.touched() && stream.repeated.is_none();
    let touched = || streams.iter().filter(moved).map(|stream| stream.format.bytes());
    let held = PER_LANE * touched().sum::<usize>() / 4;
    if held > HELD && touched().all(|bytes| PER_LANE / 2 * bytes >= 16) { PER_LANE / 2 } else { PER_LANE }
}

/// Elements of a lane that are taken together, from `first` on, and the places in the code where they are moved.
struct Part {
    first: usize,
    loads: String,
    loaded: String,
    stores: String,
    stored: String,
}

impl Part {
    fn new(b: &mut Builder, first: usize) -> Part {
        let [loads, loaded, stores, stored] =
            ["masked_loads", "loaded", "masked_stores", "stored"].map(|name| b.label(name));
        Part { first, loads, loaded, stores, stored }
    }
}

/// Registers of a warp's place in the work.
struct Place {
    lane: Reg,
    /// Elements of the chunk that are not done.
    rest: Reg,
    /// The segment's place among all partials.
    segment: Option<Reg>,
    /// How many elements a step must have for the straight way; more than any has when something is
    /// misaligned.
    whole: Reg,
}

impl<'a> Element<'a> {
    fn new(graph: &'a Graph, name: &str, compute: Compute, stored: &[Stored], target: Target) -> Self {
        let live = graph.live();
        let used = |operand: usize| {
            let place = graph.nodes().iter().position(|node| *node == Node::Operand(operand as u32));
            place.is_some_and(|place| live[place])
        };
        let stream = |name: String, format: Format, word: usize| {
            let (loaded, store, address, chance, repeated, raw, new) = Default::default();
            let blocks = Blocks::of(format);
            Stream { name, format, word, blocks, chance, repeated, loaded, store, address, raw, new }
        };
        // The written operands come first, as the stores do.
        let store_of = |operand: usize| graph.stores().get(operand).copied();
        let operands = || graph.operands().iter().zip(stored).enumerate();
        let mut streams: Vec<Stream> = operands()
            .map(|(i, (operand, stored))| {
                let chance = stored.chance && stored.format == Format::Bf16 && store_of(i).is_some();
                let plain = store_of(i).is_none() && stored.format.block().is_none();
                assert!(plain || !stored.repeated, "{name}: a repeated operand that is written or in blocks");
                Stream {
                    loaded: used(i),
                    store: store_of(i),
                    chance: chance.then(Chance::new),
                    repeated: stored.repeated.then(Repeated::default),
                    ..stream(operand.name.to_owned(), stored.format, 2 * i)
                }
            })
            .collect();
        streams.extend(operands().filter_map(|(i, (operand, stored))| {
            let (format, store) = (stored.copy?, Some(store_of(i)?));
            assert!(stored.format.block().or(format.block()).is_none(), "{name}: a copy of or in blocks");
            Some(Stream { store, ..stream(format!("{}_copy", operand.name), format, 2 * i + 1) })
        }));
        Element {
            b: Builder::new(name),
            graph,
            lines: formula::lines(graph),
            compute: match compute {
                Compute::F32 => Type::F32,
                Compute::F64 => Type::F64,
            },
            target,
            part: part(&streams),
            streams,
            quarter: None,
            element: None,
            uniform: vec![None; graph.nodes().len()],
            live,
            terms: Vec::new(),
            accumulators: Vec::new(),
            skips: false,
        }
    }

    fn finish(mut self) -> Ptx {
        self.notes();
        self.print();
        self.b.finish(self.target)
    }

    /// The comment above the kernel: what it computes from what.
    fn notes(&mut self) {
        let b = &mut self.b;
        b.note(&format!("One pass over all tensors, computed in {}:", self.compute.suffix()));
        b.note("");
        for line in &self.lines {
            b.note(&format!("    {}", line.text));
        }
        b.note("");
        for (operand, stream) in self.graph.operands().iter().zip(&self.streams) {
            let does = match (stream.loaded, stream.store.is_some()) {
                (true, true) => "read and written",
                (true, false) => "read",
                (false, true) => "written",
                (false, false) => "not touched",
            };
            let what = formula::describe(operand);
            let by_chance = if stream.chance.is_some() { ", rounded by chance" } else { "" };
            let repeated = if stream.repeated.is_some() { ", repeated" } else { "" };
            b.note(&format!(
                "    {}: {what} in {}, {does}{by_chance}{repeated}",
                operand.name, stream.format
            ));
        }
        for stream in &self.streams[self.graph.operands().len()..] {
            b.note(&format!("    {}: a copy in {}, written", stream.name, stream.format));
        }
        b.note("");
        b.note("A warp works on one chunk, 256 elements a step; lane l holds the eight from 8 l.");
    }

    fn print(&mut self) {
        let [tensors, chunks, rows, partials] =
            ["tensors", "chunks", "rows", "partials"].map(|name| self.b.param(Type::U64, name));
        let chunk_count = self.b.param(Type::U32, "chunk_count");
        let keys = self.has_chance().then(|| self.b.param(Type::U64, "keys"));
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
        let writes = self.streams.iter().any(|stream| stream.store.is_some());
        let parts: Vec<Part> =
            (0..PER_LANE / self.part).map(|i| Part::new(&mut self.b, i * self.part)).collect();
        let b = &mut self.b;
        b.comment("steps of 256 elements");
        b.place(&step);
        let whole = b.setp("ge", Type::U32, place.rest, place.whole);
        self.name_terms();
        self.name_values();
        for part in &parts {
            self.b.unless(whole).bra(&part.loads);
            self.whole_loads(part.first);
            self.b.place(&part.loaded);
            self.load_scales(&place);
            self.elements(part.first);
            if codes {
                self.b.unless(whole).bra(&values);
                self.b.place(&coded);
                self.encode_blocks(&place);
            }
            if writes {
                self.b.unless(whole).bra(&part.stores);
                self.whole_stores(part.first);
                self.b.place(&part.stored);
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
        for part in &parts {
            self.b.place(&part.loads);
            self.masked_loads(&place, part.first);
            self.b.bra(&part.loaded);
            if writes {
                self.b.place(&part.stores);
                self.masked_stores(&place, part.first);
                self.b.bra(&part.stored);
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
        let moved = |stream: &&mut Stream| stream.touched() && stream.repeated.is_none();
        for stream in self.streams.iter_mut().filter(moved) {
            let base = b.ld(Space::Constant, Type::U64, 1, record, 8 * stream.word)[0];
            let offset = match stream.format {
                Format::Q4(_) => b.shr(Type::U64, lane_first, 1),
                format => b.mul(Type::U64, lane_first, format.bytes() as i64),
            };
            let address = b.named(Class::B64, &format!("{}_at", stream.name));
            stream.address = Some(b.to(address).add(Type::U64, base, offset));
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
        for stream in self.streams.iter().filter(|stream| stream.repeated.is_none()) {
            if let Some(address) = stream.address {
                b.to(address).add(Type::U64, address, stream.format.size(STEP) as i64);
            }
        }
        self.next_scales();
        self.next_quarter();
        self.next_element();
        let b = &mut self.b;
        // Elements that are there and not done: the last step may have had fewer than 256.
        let more = b.setp("gt", Type::U32, place.rest, STEP as i64);
        b.to(place.rest).sub(Type::U32, place.rest, STEP as i64);
        b.when(more).bra(step);
    }
}

/// The lane of this thread, and the place of its warp in the grid.
pub(super) fn warp_of_grid(b: &mut Builder) -> (Reg, Reg) {
    b.comment("the lane, and the warp's place in the grid");
    let thread = b.mov(Type::U32, "%tid.x");
    let lane = b.named(Class::B32, "lane");
    b.to(lane).and(Type::B32, thread, 31);
    let own = b.shr(Type::U32, thread, 5);
    let threads = b.mov(Type::U32, "%ntid.x");
    let warps = b.shr(Type::U32, threads, 5);
    let block = b.mov(Type::U32, "%ctaid.x");
    let before = b.mul(Type::U32, block, warps);
    let warp = b.named(Class::B32, "warp");
    b.to(warp).add(Type::U32, before, own);
    (lane, warp)
}
