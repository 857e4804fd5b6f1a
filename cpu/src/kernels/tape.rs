//! Rules that were never compiled: a recorded graph, interpreted.
//!
//! A [`Tape`] processes a few hundred elements operation by operation, over temporaries that stay in L1, with the
//! same vectors as compiled rules. Every operation is exact, so that the bits are those of a compiled kernel. What
//! follows from scalars alone is computed once.

#[cfg(test)]
mod tests;

use fallline_core::{Binary, Comparison, Graph, Node, Unary};

/// Where a value is while a tape runs: a row of elements.
pub(super) type Row = u16;

/// A graph in an order and with rows in which it can be interpreted.
#[derive(Debug)]
pub(crate) struct Tape {
    /// What is the same for all elements, in order: operations of the graph, whose inputs are places in this list.
    pub(super) uniform: Vec<Node>,
    /// Which of these are asked for by element, and get a row: from [`first_uniform`](Tape::first_uniform) on.
    pub(super) spread: Vec<u32>,
    pub(super) code: Vec<Step>,
    /// Which operands are written.
    pub(super) written: Vec<bool>,
    /// Values to be copied to operands when all else is done.
    pub(super) copies: Vec<(Row, Row)>,
    /// The row of each sum's terms.
    pub(super) sums: Vec<Row>,
    pub(super) temporaries: usize,
    /// Rows that are another one's, chosen by a flag.
    pub(super) aliases: usize,
}

/// An operation on rows of elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Unary(Unary, Row, Row),
    Binary(Binary, [Row; 2], Row),
    /// Compares the first two and chooses between the others.
    Select(Comparison, [Row; 4], Row),
    /// Chooses by a number of the uniform ones, which is 1 or 0. Nothing moves.
    Alias(u32, [Row; 2], Row),
    Move(Row, Row),
}

impl Step {
    fn inputs(&self) -> impl Iterator<Item = Row> {
        let (rows, count) = match *self {
            Step::Unary(_, a, _) | Step::Move(a, _) => ([a; 4], 1),
            Step::Binary(_, [a, b], _) | Step::Alias(_, [a, b], _) => ([a, b, b, b], 2),
            Step::Select(_, rows, _) => (rows, 4),
        };
        rows.into_iter().take(count)
    }

    fn renamed(self, name: impl Fn(Row) -> Row) -> Step {
        match self {
            Step::Unary(does, a, to) => Step::Unary(does, name(a), name(to)),
            Step::Move(a, to) => Step::Move(name(a), name(to)),
            Step::Binary(does, of, to) => Step::Binary(does, of.map(&name), name(to)),
            Step::Alias(flag, of, to) => Step::Alias(flag, of.map(&name), name(to)),
            Step::Select(does, of, to) => Step::Select(does, of.map(&name), name(to)),
        }
    }
}

/// What a node of the graph has become.
#[derive(Clone, Copy)]
enum Value {
    /// A place among the uniform values.
    Uniform(u32),
    /// A row, before rows have their numbers: an operand, or behind these one for each step.
    Row(Row),
    /// A comparison by element, made where it is asked for.
    Compare(Comparison, u32, u32),
    Dead,
}

impl Tape {
    /// Makes the tape of a rule's graph.
    pub(crate) fn new(graph: &Graph) -> Tape {
        let mut maker = Maker::new(graph);
        let values = maker.translate();
        let row = |maker: &mut Maker<'_>, place: u32| match values[place as usize] {
            Value::Row(row) => row,
            Value::Uniform(place) => maker.spread(place),
            Value::Compare(..) | Value::Dead => unreachable!("a value is stored"),
        };
        let operands = graph.operands().len();
        let mut stores = Vec::new();
        for (operand, &place) in graph.stores().iter().enumerate() {
            let from = row(&mut maker, place);
            if usize::from(from) != operand {
                stores.push((from, operand as Row));
            }
        }
        // An operand that is written before another takes its old value has to be kept, and what is chosen may be one.
        for (from, _) in &mut stores {
            let place = usize::from(*from);
            let replaced = place < graph.stores().len();
            let chosen = (operands..operands + maker.code.len()).contains(&place)
                && matches!(maker.code[place - operands], Step::Alias(..));
            if replaced || chosen {
                let kept = maker.next();
                maker.code.push(Step::Move(*from, kept));
                *from = kept;
            }
        }
        let sums: Vec<Row> = graph.sums().iter().map(|(_, place)| row(&mut maker, *place)).collect();
        maker.finish(operands, stores, sums)
    }

    /// Returns the first row of temporaries. The rows of elements are: operands first, then temporaries, what is
    /// the same for all elements, and those that are others'.
    pub(super) fn first_temporary(&self) -> usize {
        self.written.len()
    }

    pub(super) fn first_uniform(&self) -> usize {
        self.first_temporary() + self.temporaries
    }

    fn first_alias(&self) -> usize {
        self.first_uniform() + self.spread.len()
    }

    pub(super) fn rows(&self) -> usize {
        self.first_alias() + self.aliases
    }
}

/// A tape that is being made. Rows are numbered operands first, then steps, then uniform values.
struct Maker<'g> {
    graph: &'g Graph,
    uniform: Vec<Node>,
    spread: Vec<u32>,
    code: Vec<Step>,
}

/// Rows of uniform values have numbers from here on until all are known.
const UNIFORM: Row = 1 << 15;

impl<'g> Maker<'g> {
    fn new(graph: &'g Graph) -> Maker<'g> {
        Maker { graph, uniform: Vec::new(), spread: Vec::new(), code: Vec::new() }
    }

    /// Returns the row of the step that comes next.
    fn next(&self) -> Row {
        (self.graph.operands().len() + self.code.len()) as Row
    }

    /// Returns the row of a uniform value.
    fn spread(&mut self, place: u32) -> Row {
        let known = self.spread.iter().position(|known| *known == place);
        let index = known.unwrap_or_else(|| {
            self.spread.push(place);
            self.spread.len() - 1
        });
        UNIFORM + index as Row
    }

    fn translate(&mut self) -> Vec<Value> {
        let live = self.graph.live();
        let mut values: Vec<Value> = Vec::with_capacity(live.len());
        for (node, live) in self.graph.nodes().iter().zip(live) {
            let value = match live {
                true => self.value(*node, &values),
                false => Value::Dead,
            };
            values.push(value);
        }
        values
    }

    fn value(&mut self, node: Node, values: &[Value]) -> Value {
        let at = |place: u32| values[place as usize];
        if let Node::Operand(operand) = node {
            return Value::Row(operand as Row);
        }
        let uniform = |place: u32| match at(place) {
            Value::Uniform(place) => Some(place),
            _ => None,
        };
        if let Some(node) = placed(node, uniform) {
            self.uniform.push(node);
            return Value::Uniform(self.uniform.len() as u32 - 1);
        }
        let to = self.next();
        let mut row = |place: u32| match at(place) {
            Value::Row(row) => row,
            Value::Uniform(place) => self.spread(place),
            Value::Compare(..) | Value::Dead => unreachable!("an operation on a value"),
        };
        let step = match node {
            Node::Unary(does, a) => Step::Unary(does, row(a), to),
            Node::Binary(does, a, b) => Step::Binary(does, [row(a), row(b)], to),
            Node::Compare(does, a, b) => return Value::Compare(does, a, b),
            Node::Select(mask, yes, no) => match at(mask) {
                Value::Uniform(flag) => Step::Alias(flag, [row(yes), row(no)], to),
                Value::Compare(does, a, b) => Step::Select(does, [row(a), row(b), row(yes), row(no)], to),
                Value::Row(_) | Value::Dead => unreachable!("a choice without a comparison"),
            },
            _ => unreachable!("leaves are values already, and rules have no powers"),
        };
        self.code.push(step);
        Value::Row(to)
    }

    /// Allocates rows to values. A value that ends up in an operand gets its memory, if the old value is not needed
    /// any more. The others get as few temporaries as possible.
    fn finish(self, operands: usize, stores: Vec<(Row, Row)>, sums: Vec<Row>) -> Tape {
        let Maker { graph, uniform, spread, code } = self;
        let count = operands + code.len();
        // The last step that reads a row. What is chosen by a flag lasts as long as its choice.
        let end = code.len();
        let mut last = vec![0; count];
        let is_row = |row: Row| row < UNIFORM;
        for row in stores.iter().map(|(from, _)| *from).chain(sums.iter().copied()).filter(|row| is_row(*row))
        {
            last[usize::from(row)] = end;
        }
        for (at, step) in code.iter().enumerate().rev() {
            let until = match step {
                Step::Alias(.., to) => last[usize::from(*to)],
                _ => at,
            };
            for row in step.inputs().filter(|row| is_row(*row)) {
                let last = &mut last[usize::from(row)];
                *last = until.max(*last);
            }
        }
        let mut names: Vec<Row> = (0..count as Row).collect();
        let mut copies = Vec::new();
        let mut there = vec![false; count];
        for (from, to) in stores {
            let made = is_row(from).then(|| usize::from(from)).and_then(|row| row.checked_sub(operands));
            let free = |at: usize| {
                !matches!(code[at], Step::Alias(..)) && last[usize::from(to)] <= at && !there[operands + at]
            };
            match made.filter(|at| free(*at)) {
                Some(at) => {
                    names[operands + at] = to;
                    there[operands + at] = true;
                }
                None => copies.push((from, to)),
            }
        }
        let (mut temporaries, mut aliases): (Row, Row) = (0, 0);
        let mut free: Vec<Row> = Vec::new();
        for (at, step) in code.iter().enumerate() {
            // What is read for the last time leaves its place to the result: elements follow each other in both.
            for (row, ends) in last.iter().enumerate().skip(operands) {
                let mine = row < operands + at && *ends == at && !there[row];
                if mine && !matches!(code[row - operands], Step::Alias(..)) {
                    free.push(names[row]);
                }
            }
            let row = operands + at;
            if there[row] {
                continue;
            }
            names[row] = match step {
                // Behind all others, which are not counted yet.
                Step::Alias(..) => {
                    aliases += 1;
                    aliases - 1
                }
                _ => free.pop().unwrap_or_else(|| {
                    temporaries += 1;
                    (operands + usize::from(temporaries) - 1) as Row
                }),
            };
        }
        let temporaries = usize::from(temporaries);
        let first_uniform = operands + temporaries;
        let first_alias = first_uniform + spread.len();
        let name = |row: Row| match is_row(row) {
            false => first_uniform as Row + (row - UNIFORM),
            true => {
                let place = usize::from(row);
                let alias = place >= operands && matches!(code[place - operands], Step::Alias(..));
                if alias { first_alias as Row + names[place] } else { names[place] }
            }
        };
        Tape {
            uniform,
            spread,
            written: graph.operands().iter().map(|operand| operand.written).collect(),
            copies: copies.into_iter().map(|(from, to)| (name(from), to)).collect(),
            sums: sums.into_iter().map(name).collect(),
            code: code.iter().map(|step| step.renamed(name)).collect(),
            temporaries,
            aliases: usize::from(aliases),
        }
    }
}

/// Returns a node whose inputs are all the same for all elements, with their places among these.
fn placed(node: Node, uniform: impl Fn(u32) -> Option<u32>) -> Option<Node> {
    Some(match node {
        Node::GradScale | Node::Scalar(_) | Node::Literal(_) => node,
        Node::Operand(_) => return None,
        Node::Unary(does, a) => Node::Unary(does, uniform(a)?),
        Node::Binary(does, a, b) => Node::Binary(does, uniform(a)?, uniform(b)?),
        Node::Compare(does, a, b) => Node::Compare(does, uniform(a)?, uniform(b)?),
        Node::Select(a, b, c) => Node::Select(uniform(a)?, uniform(b)?, uniform(c)?),
        _ => unreachable!("rules have no powers"),
    })
}
