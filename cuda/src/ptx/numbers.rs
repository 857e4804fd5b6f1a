//! Numbers between two passes, computed where the sums are.

use super::grid::warp_of_grid;
use super::nodes::instruction;
use super::{Builder, Class, Ptx, Reg, Space, Target, Type, Value};
use fallline_core::between::{Declared, Formulas, Over};
use fallline_core::{Compute, Kernel, Node, NumberGraph};

/// Bytes before the tables of powers.
const HEAD: usize = 16;

/// Returns what the printed formulas need of the host: which powers, by the place of their base in
/// [`Declared::once`](fallline_core::between::Declared::once), each once.
pub fn bases(kernel: &Kernel) -> Vec<usize> {
    let powers = kernel.between.record().powers(&kernel.between.declared).unwrap_or_default();
    let mut bases = Vec::new();
    for power in powers {
        if !bases.contains(&power.base) {
            bases.push(power.base);
        }
    }
    bases
}

/// Where a rule's numbers are among others of their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumberPlaces {
    /// [`Declared::reads`], among the sums of the pass before.
    pub reads: Vec<usize>,
    /// [`Declared::shared`], among what is remembered for all parameters together.
    pub shared: Vec<usize>,
    /// [`Declared::memory`], among what is remembered for a parameter.
    pub memory: Vec<usize>,
}

/// Returns the bytes of a tensor's record in the order of totals.
fn record_bytes(declared: &Declared) -> usize {
    if declared.memory.is_empty() { 8 } else { 16 }
}

/// Returns the kernel that computes the numbers of a rule. From the sums of the pass before, what the host computed
/// and what is remembered, it computes the tensors' own scalars. What is remembered is for all parameters together
/// or for each. The scalars go to the rows of scalars that the rule's pass reads. The formulas are those of
/// [`Between::record`](fallline_core::between::Between::record), in double precision; totals fold in the order of
/// [`fallline_core::reduction::tree_reduce`].
///
/// Launched in blocks of any multiple of 32 threads: of one block if the rule is
/// [global](fallline_core::between::Declared::global), else of any number. There is at least one tensor. Parameters, all
/// addresses in device memory:
///
/// | parameter | type | what it points at |
/// |---|---|---|
/// | `rows` | u64 | rows of scalars, one for each tensor of the pass |
/// | `inputs` | u64 | the address of what is remembered for all parameters together (f64), and nothing (u64 both); for each of [`bases`] the address of its powers (u64) and the last that there is (f64); `once`; for each tensor `each` (f64) |
/// | `order` | u64 | for each tensor, in the order of totals: which one of the pass it is, and its group (u32); where numbers are remembered for it also where (u64), f64 |
/// | `sums` | u64 | f64: for each tensor of the pass before one for each sum |
/// | `work` | u64 | f64: whether the pass is left out; the totals, a row for each group; then each tensor's terms of them |
/// | `tensors`, `groups` | u32 | how many |
/// | `found` | u32 | sums of the pass before |
pub fn numbers_kernel(
    kernel: &Kernel,
    name: &str,
    compute: Compute,
    places: &NumberPlaces,
    target: Target,
) -> Ptx {
    let formulas = kernel.between.record();
    let mut b = Builder::new(name);
    b.note(&format!("The numbers of {}, in double precision.", kernel.name));
    let [rows, inputs, order, sums, work] =
        ["rows", "inputs", "order", "sums", "work"].map(|name| b.param(Type::U64, name));
    let [tensors, groups, found] = ["tensors", "groups", "found"].map(|name| b.param(Type::U32, name));
    let shared_at = b.named(Class::B64, "shared");
    b.to(shared_at).ld(Space::Constant, Type::U64, 1, inputs, 0);
    let (lane, warp) = warp_of_grid(&mut b);
    b.comment("warps of the grid");
    let [threads, blocks] = ["%ntid.x", "%nctaid.x"].map(|name| b.mov(Type::U32, name));
    let warps = b.shr(Type::U32, threads, 5);
    let warps = b.mul(Type::U32, warps, blocks);
    let numbers = Numbers {
        declared: kernel.between.declared,
        bases: bases(kernel),
        at: [rows, inputs, order, sums, work, shared_at],
        counts: [tensors, groups, found],
        lane,
        warp,
        warps,
        places,
        formulas: &formulas,
        b,
        once: Vec::new(),
        powers: Vec::new(),
        shared: Vec::new(),
    };
    numbers.print(kernel, compute, target)
}

/// What is known while the kernel is printed.
struct Numbers<'a> {
    b: Builder,
    declared: Declared,
    formulas: &'a Formulas,
    bases: Vec<usize>,
    /// Rows, inputs, order, sums, work, shared.
    at: [Reg; 6],
    /// Tensors, groups, sums of the pass before.
    counts: [Reg; 3],
    lane: Reg,
    warp: Reg,
    warps: Reg,
    places: &'a NumberPlaces,
    once: Vec<Value>,
    /// For each base the address of its powers, and the last that there is.
    powers: Vec<[Reg; 2]>,
    shared: Vec<Value>,
}

/// A tensor that a lane works on.
struct Own {
    there: Reg,
    /// Its place in the order, and in the pass.
    at: Reg,
    tensor: Reg,
    group: Reg,
    /// Where is what is remembered for it, if anything is.
    memory: Option<Reg>,
}

impl Numbers<'_> {
    fn print(mut self, kernel: &Kernel, compute: Compute, target: Target) -> Ptx {
        self.uniform();
        if !self.declared.totals.is_empty() {
            self.terms();
            self.b.bar_sync();
            self.totals();
        }
        if self.declared.global {
            // Everyone has read what one is about to write.
            self.b.bar_sync();
            self.update();
        }
        if self.declared.may_skip {
            self.skip();
        }
        if !(kernel.tensor_scalars.is_empty() && self.declared.memory.is_empty()) {
            self.tensor(kernel, compute);
        }
        self.b.finish(target)
    }

    /// Loads what all tensors have.
    fn uniform(&mut self) {
        let [_, inputs, .., shared] = self.at;
        let b = &mut self.b;
        b.comment("what the host computed, and what is remembered");
        for i in 0..self.bases.len() {
            let table = HEAD + 16 * i;
            let address = b.ld(Space::Constant, Type::U64, 1, inputs, table)[0];
            let last = b.ld(Space::Constant, Type::F64, 1, inputs, table + 8)[0];
            self.powers.push([address, last]);
        }
        let first = HEAD + 16 * self.bases.len();
        for (i, def) in self.declared.once.iter().enumerate() {
            let reg = b.named(Class::F64, def.name);
            self.once.push(b.to(reg).ld(Space::Constant, Type::F64, 1, inputs, first + 8 * i)[0].into());
        }
        for (name, &place) in self.declared.shared.iter().zip(&self.places.shared) {
            let reg = b.named(Class::F64, name);
            self.shared.push(b.to(reg).ld(Space::Global, Type::F64, 1, shared, 8 * place)[0].into());
        }
    }

    /// Goes over all tensors, a lane each.
    fn each(&mut self, mut work: impl FnMut(&mut Self, &Own)) {
        let b = &mut self.b;
        let [round, end] = ["round", "all"].map(|name| b.label(name));
        let first = b.temp(Class::B32);
        b.to(first).shl(Type::B32, self.warp, 5);
        b.place(&round);
        let done = b.setp("ge", Type::U32, first, self.counts[0]);
        b.when(done).bra(&end);
        let own = b.add(Type::U32, first, self.lane);
        let there = b.setp("lt", Type::U32, own, self.counts[0]);
        // Lanes behind the end do what the last one does, and store nothing.
        let last = b.sub(Type::U32, self.counts[0], 1);
        let at = b.min(Type::U32, own, last);
        let record = b.mad_wide(at, record_bytes(&self.declared) as i64, self.at[2]);
        let placed = b.ld(Space::Constant, Type::U32, 2, record, 0);
        let remembers = !self.declared.memory.is_empty();
        let memory = remembers.then(|| b.ld(Space::Constant, Type::U64, 1, record, 8)[0]);
        let own = Own { there, at, tensor: placed[0], group: placed[1], memory };
        work(self, &own);
        let b = &mut self.b;
        let step = b.shl(Type::B32, self.warps, 5);
        b.to(first).add(Type::U32, first, step);
        b.bra(&round);
        b.place(&end);
    }

    /// Computes each tensor's terms of the totals.
    fn terms(&mut self) {
        self.b.comment("each tensor's terms of the totals");
        let count = self.declared.totals.len();
        self.each(|n, own| {
            let found = n.evaluate(&n.formulas.terms, Some(own), None);
            let terms = n.terms_at();
            let to = n.b.mad_wide(own.at, 8 * count as i64, terms);
            for (i, value) in found.into_iter().enumerate() {
                n.b.when(own.there).st(Space::Global, Type::F64, to, 8 * i, &[value]);
            }
        });
    }

    /// Returns where the terms are: behind the totals.
    fn terms_at(&mut self) -> Reg {
        let count = self.declared.totals.len() as i64;
        let rows = if self.declared.over == Over::Group { self.counts[1].into() } else { Value::Int(1) };
        let rows = self.b.mov(Type::U32, rows);
        let start = self.b.mad_wide(rows, 8 * count, self.at[4]);
        self.b.add(Type::U64, start, 8)
    }

    /// Computes the totals: a warp for each, which adds up the terms of those that count, others being +0.
    fn totals(&mut self) {
        let count = self.declared.totals.len() as i64;
        let terms = self.terms_at();
        let by_group = self.declared.over == Over::Group;
        let in_turn = self.declared.over == Over::InTurn;
        let b = &mut self.b;
        b.comment(match in_turn {
            true => "the totals: the terms one after the other",
            false => {
                "the totals: lane l adds the terms l, l + 32, ... to +0, then lanes 16, 8, 4, 2 and 1 apart add up"
            }
        });
        let [next, round, folded, end] = ["total", "term", "folded", "totals_end"].map(|name| b.label(name));
        let pair = b.temp(Class::B32);
        b.to(pair).mov(Type::U32, self.warp);
        let rows = if by_group { self.counts[1].into() } else { Value::Int(1) };
        let rows = b.mov(Type::U32, rows);
        let pairs = b.mul(Type::U32, rows, count);
        b.place(&next);
        let done = b.setp("ge", Type::U32, pair, pairs);
        b.when(done).bra(&end);
        let row = b.div(Type::U32, pair, count);
        let which = b.rem(Type::U32, pair, count);
        let from = b.mad_wide(which, 8, terms);
        let total = b.temp(Class::F64);
        b.to(total).mov(Type::F64, Value::F64(0.0));
        let first = b.temp(Class::B32);
        b.to(first).mov(Type::U32, 0);
        b.place(&round);
        let done = b.setp("ge", Type::U32, first, self.counts[0]);
        b.when(done).bra(&folded);
        // In turn every lane adds up all of them.
        let lane = if in_turn { b.mov(Type::U32, 0) } else { self.lane };
        let own = b.add(Type::U32, first, lane);
        let there = b.setp("lt", Type::U32, own, self.counts[0]);
        let at = b.mad_wide(own, 8 * count, from);
        let term = b.mov(Type::F64, Value::F64(0.0));
        b.when(there).to(term).ld(Space::Global, Type::F64, 1, at, 0);
        if by_group {
            let record = b.mad_wide(own, record_bytes(&self.declared) as i64, self.at[2]);
            let group = b.mov(Type::U32, 0);
            b.when(there).to(group).ld(Space::Constant, Type::U32, 1, record, 4);
            let counts = b.setp("eq", Type::U32, group, row);
            b.to(term).selp(Type::F64, term, Value::F64(0.0), counts);
        }
        b.when(there).to(total).add(Type::F64, total, term);
        b.to(first).add(Type::U32, first, if in_turn { 1 } else { 32 });
        b.bra(&round);
        b.place(&folded);
        let tree: &[i64] = if in_turn { &[] } else { &[16, 8, 4, 2, 1] };
        for &distance in tree {
            let other = b.shfl_bfly(total, distance);
            b.to(total).add(Type::F64, total, other);
        }
        let to = b.mad_wide(pair, 8, self.at[4]);
        let first = b.setp("eq", Type::U32, self.lane, 0);
        b.when(first).st(Space::Global, Type::F64, to, 8, &[total.into()]);
        b.to(pair).add(Type::U32, pair, self.warps);
        b.bra(&next);
        b.place(&end);
    }

    /// Computes what is remembered for all parameters together: every thread computes it, and one writes it.
    fn update(&mut self) {
        self.b.comment("what is remembered for all parameters together");
        let row = self.at[4];
        let found = self.evaluate(&self.formulas.update, None, Some(row));
        let first = self.is_first();
        let changed: Vec<(usize, Value)> = found.iter().copied().enumerate().collect();
        for (i, value) in changed {
            if value != self.shared[i] {
                let place = self.places.shared[i];
                self.b.when(first).st(Space::Global, Type::F64, self.at[5], 8 * place, &[value]);
            }
        }
        self.shared = found;
    }

    /// Computes whether the pass is left out.
    fn skip(&mut self) {
        self.b.comment("whether the pass is left out");
        let found = self.evaluate(&self.formulas.skips, None, None);
        let first = self.is_first();
        self.b.when(first).st(Space::Global, Type::F64, self.at[4], 0, &[found[0]]);
    }

    /// Returns whether this is the first thread of all.
    fn is_first(&mut self) -> Reg {
        let place = self.b.or(Type::B32, self.lane, self.warp);
        self.b.setp("eq", Type::U32, place, 0)
    }

    /// Computes the tensors' own scalars, and what is remembered for each.
    fn tensor(&mut self, kernel: &Kernel, compute: Compute) {
        self.b.comment("the tensors' own scalars");
        let (before, own) = (1 + kernel.scalars.len(), kernel.tensor_scalars.len());
        let ty = match compute {
            Compute::F32 => Type::F32,
            Compute::F64 => Type::F64,
        };
        let totals = self.declared.totals.len() as i64;
        self.each(|n, tensor| {
            let row = match n.declared.over {
                Over::Group if totals > 0 => n.b.mad_wide(tensor.group, 8 * totals, n.at[4]),
                _ => n.at[4],
            };
            let found = n.evaluate(&n.formulas.tensor, Some(tensor), Some(row));
            let to = n.b.mad_wide(tensor.tensor, ((before + own) * ty.bytes()) as i64, n.at[0]);
            for (i, &value) in found.iter().take(own).enumerate() {
                let value = match ty {
                    Type::F64 => value,
                    _ => n.b.cvt("rn", ty, Type::F64, value).into(),
                };
                n.b.when(tensor.there).st(Space::Global, ty, to, (before + i) * ty.bytes(), &[value]);
            }
            let Some(memory) = tensor.memory else { return };
            for (i, &value) in found.iter().skip(own).enumerate() {
                if !n.is_memory(&n.formulas.tensor, own + i, i) {
                    let at = 8 * n.places.memory[i];
                    n.b.when(tensor.there).st(Space::Global, Type::F64, memory, at, &[value]);
                }
            }
        });
    }

    /// Returns whether an output of a graph is what is remembered for the tensor at this place, unchanged.
    fn is_memory(&self, graph: &NumberGraph, output: usize, place: usize) -> bool {
        let Node::Scalar(input) = graph.nodes()[graph.outputs()[output].1 as usize] else { return false };
        input as usize == graph.inputs().len() - self.declared.memory.len() + place
    }

    /// Returns the outputs of a graph. `own` is the tensor that it is about, `totals` where the totals are that it
    /// reads, behind the first number.
    fn evaluate(&mut self, graph: &NumberGraph, own: Option<&Own>, totals: Option<Reg>) -> Vec<Value> {
        let live = graph.live();
        let mut values: Vec<Option<Value>> = vec![None; live.len()];
        let (mut each, mut sums) = (None, None);
        for (place, node) in graph.nodes().iter().enumerate().filter(|(place, _)| live[*place]) {
            let get = |input: u32| values[input as usize].expect("earlier");
            let value = match *node {
                Node::Scalar(i) => self.input(i as usize, own, totals, (&mut each, &mut sums)),
                // In a register: not every instruction takes a number.
                Node::Literal(bits) => self.b.mov(Type::F64, Value::F64(f64::from_bits(bits))).into(),
                Node::Power(base, count) => {
                    let Node::Scalar(base) = graph.nodes()[base as usize] else {
                        unreachable!("the host knows the bases")
                    };
                    self.power(base as usize, get(count)).into()
                }
                _ => instruction(&mut self.b, Type::F64, node, get).into(),
            };
            values[place] = Some(value);
        }
        graph.outputs().iter().map(|(_, place)| values[*place as usize].expect("an output is live")).collect()
    }

    /// Returns an input of a graph.
    fn input(
        &mut self,
        mut i: usize,
        own: Option<&Own>,
        totals: Option<Reg>,
        (each, sums): (&mut Option<Reg>, &mut Option<Reg>),
    ) -> Value {
        let d = self.declared;
        if i < d.once.len() {
            return self.once[i];
        }
        i -= d.once.len();
        let own = || own.expect("of a tensor");
        if i < d.each.len() {
            let (width, before) = (d.each.len(), HEAD + 16 * self.bases.len() + 8 * d.once.len());
            let row = *each.get_or_insert_with(|| self.b.mad_wide(own().at, 8 * width as i64, self.at[1]));
            return self.b.ld(Space::Constant, Type::F64, 1, row, before + 8 * i)[0].into();
        }
        i -= d.each.len();
        if i < d.reads.len() {
            let row = *sums.get_or_insert_with(|| {
                let first = self.b.mul(Type::U32, own().tensor, self.counts[2]);
                self.b.mad_wide(first, 8, self.at[3])
            });
            return self.b.ld(Space::Constant, Type::F64, 1, row, 8 * self.places.reads[i])[0].into();
        }
        i -= d.reads.len();
        if i < d.totals.len() {
            let row = totals.expect("behind the totals");
            return self.b.ld(Space::Global, Type::F64, 1, row, 8 + 8 * i)[0].into();
        }
        i -= d.totals.len();
        if i < d.shared.len() {
            return self.shared[i];
        }
        let own = own();
        let memory = own.memory.expect("a tensor has what is remembered for it");
        let at = 8 * self.places.memory[i - d.shared.len()];
        // Lanes behind the end do not read what the last one writes.
        let value = self.b.mov(Type::F64, Value::F64(0.0));
        self.b.when(own.there).to(value).ld(Space::Global, Type::F64, 1, memory, at);
        value.into()
    }

    /// Returns a power out of its base's table. A count beyond it does not come; one that is no count is 0, as on
    /// the host.
    fn power(&mut self, base: usize, count: Value) -> Reg {
        let place = self.bases.iter().position(|known| *known == base).expect("a base has a table");
        let [table, last] = self.powers[place];
        let b = &mut self.b;
        let above = b.setp("gt", Type::F64, count, Value::F64(0.0));
        let count = b.selp(Type::F64, count, Value::F64(0.0), above);
        let within = b.setp("lt", Type::F64, count, last);
        let count = b.selp(Type::F64, count, last, within);
        let count = b.cvt("rzi", Type::U32, Type::F64, count);
        let at = b.mad_wide(count, 8, table);
        b.ld(Space::Constant, Type::F64, 1, at, 0)[0]
    }
}
