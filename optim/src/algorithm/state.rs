//! What is unusual about a state: what it starts from, its shape, its sign, whose it is.

use crate::op::matrices;
use fallline_core::Shape;

/// What is unusual about a state of algorithm `A`, or about scratch of that name. A state that no row names starts
/// from 0, has the parameter's shape and any sign, and is the same on all ranks.
///
/// ```
/// use fallline_optim::algorithms::Rprop;
/// use fallline_optim::{Extent, State};
/// const STEP: State<Rprop> = State::new("step_size").non_negative().starts_at(|h: &Rprop| h.lr);
/// assert!(STEP.non_negative && STEP.extent == Extent::Param);
/// ```
#[derive(Debug)]
pub struct State<A> {
    /// Its name as an operand, and in checkpoints.
    pub name: &'static str,
    /// What its elements start from.
    pub init: Init<A>,
    /// Its shape, and how it broadcasts.
    pub extent: Extent,
    /// Of how many elements of the parameter it has one, where not of each: see [`Extent::Every`].
    pub every: Option<fn(&A) -> u64>,
    /// Whether no element is ever negative: quantised, it has no use for codes of both signs.
    pub non_negative: bool,
    /// Whether it is stored in full precision, as a copy of the parameter or an average of some. What such a state
    /// loses, an update that is measured from it moves the parameter by.
    pub full_precision: bool,
    /// Whether it moves little from step to step, as an average with a decay of 0.999 or a sum does. In 16 bits,
    /// round-to-nearest would lose that, so it is rounded stochastically.
    pub slow: bool,
    /// Whether it may diverge between ranks for a while, and the parameter with it.
    pub rank_local: bool,
}

/// What the elements of a state start from.
#[derive(Debug)]
pub enum Init<A> {
    /// Zero.
    Zero,
    /// A number that the hyperparameters give.
    Value(fn(&A) -> f64),
    /// A copy of the parameter, as it is when it gets its first gradient.
    Param,
}

/// The shape of a state or of scratch, and how it broadcasts where it is an operand of a rule over the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Those of the parameter: an element for each of its elements.
    Param,
    /// One element for each row of the parameter's matrices, broadcast along the columns.
    Rows,
    /// One element for each column of the parameter's matrices, broadcast along the rows.
    Columns,
    /// One element for each index of the parameter's first dimension, broadcast along all the others.
    First,
    /// One element for the first of every so many elements of the parameter, in their order, and no dimensions. It is an
    /// operand of passes over such elements only.
    Every(usize),
}

/// A [`State`] with its type erased, and its first value worked out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateSpec {
    /// What its elements start from.
    pub start: Start,
    /// As [`State::extent`].
    pub extent: Extent,
    /// As [`State::non_negative`].
    pub non_negative: bool,
    /// As [`State::full_precision`].
    pub full_precision: bool,
    /// As [`State::slow`].
    pub slow: bool,
    /// As [`State::rank_local`].
    pub rank_local: bool,
}

/// An [`Init`] with its number worked out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// A number.
    Value(f64),
    /// A copy of the parameter.
    Param,
}

impl<A> State<A> {
    /// Creates a state that nothing is unusual about yet.
    pub const fn new(name: &'static str) -> State<A> {
        State {
            name,
            init: Init::Zero,
            extent: Extent::Param,
            every: None,
            non_negative: false,
            full_precision: false,
            slow: false,
            rank_local: false,
        }
    }

    /// Creates an average or sum of squares: never negative, and slow.
    pub const fn second_moment(name: &'static str) -> State<A> {
        State::new(name).non_negative().slow()
    }

    /// Says that no element is ever negative.
    pub const fn non_negative(self) -> State<A> {
        State { non_negative: true, ..self }
    }

    /// Starts from a number that the hyperparameters give.
    pub const fn starts_at(self, value: fn(&A) -> f64) -> State<A> {
        State { init: Init::Value(value), ..self }
    }

    /// Starts as a copy of the parameter, and is stored in full precision.
    pub const fn starts_as_param(self) -> State<A> {
        State { init: Init::Param, ..self }.full_precision()
    }

    /// Says that it is a copy of the parameter, or an average of some, and stored in full precision.
    pub const fn full_precision(self) -> State<A> {
        State { full_precision: true, ..self }
    }

    /// Moves by less than half a unit in the last place of 16 bits from step to step.
    pub const fn slow(self) -> State<A> {
        State { slow: true, ..self }
    }

    /// Has an element for each row.
    pub const fn rows(self) -> State<A> {
        State { extent: Extent::Rows, ..self }
    }

    /// Has an element for each column.
    pub const fn columns(self) -> State<A> {
        State { extent: Extent::Columns, ..self }
    }

    /// Has an element for each index of the first dimension.
    pub const fn first(self) -> State<A> {
        State { extent: Extent::First, ..self }
    }

    /// Has an element for the first of every so many elements of the parameter: the parameter's shape where that is
    /// 1.
    pub const fn every(self, count: fn(&A) -> u64) -> State<A> {
        State { every: Some(count), ..self }
    }

    /// Says that it may differ between ranks for a while.
    pub const fn rank_local(self) -> State<A> {
        State { rank_local: true, ..self }
    }
}

impl StateSpec {
    /// Returns what a table says about a state of this name, with these hyperparameters.
    pub fn of<A>(states: &[State<A>], name: &str, hyper: &A) -> StateSpec {
        let found = states.iter().find(|state| state.name == name).unwrap_or(&const { State::new("") });
        let start = match found.init {
            Init::Zero => Start::Value(0.0),
            Init::Value(value) => Start::Value(value(hyper)),
            Init::Param => Start::Param,
        };
        let &State { extent, every, non_negative, full_precision, slow, rank_local, .. } = found;
        let extent = match every.map_or(1, |every| every(hyper)) {
            0 | 1 => extent,
            every => Extent::Every(usize::try_from(every).unwrap_or(usize::MAX)),
        };
        StateSpec { start, extent, non_negative, full_precision, slow, rank_local }
    }

    /// Returns the shape for a parameter of this shape. States of an empty parameter are empty, too: rows without
    /// columns, say, of which a short file can have any number.
    pub fn shape(&self, param: &Shape) -> Shape {
        let shape = match (self.extent, param.dims()) {
            (Extent::Rows, [batch @ .., _]) => Shape::from(batch),
            (Extent::Columns, [batch @ .., _, columns]) => Shape::from(&[batch, &[*columns]].concat()[..]),
            (Extent::First, [first, ..]) => Shape::from([*first]),
            (Extent::Every(count), _) => Shape::from([param.elements().div_ceil(count)]),
            _ => param.clone(),
        };
        if param.elements() == 0 && shape.elements() > 0 { Shape::from([0]) } else { shape }
    }

    /// Returns how it broadcasts to the elements of a parameter that is not empty: the arguments of
    /// [`View::broadcast`](fallline_core::backend::View::broadcast), if it has fewer elements.
    pub fn broadcast(&self, param: &Shape) -> Option<(usize, usize)> {
        let (_, rows, columns) = matrices(param);
        match self.extent {
            Extent::Param | Extent::Every(_) => None,
            Extent::Rows => Some((1, columns)),
            Extent::Columns => Some((columns, rows)),
            Extent::First => Some((1, param.elements() / param.dims().first().copied().unwrap_or(1).max(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_not_listed_is_zero_and_shaped_like_the_parameter() {
        let spec = StateSpec::of(&[State::<f64>::new("v").non_negative()], "m", &1.0);
        let (start, extent) = (Start::Value(0.0), Extent::Param);
        let (non_negative, full_precision, slow, rank_local) = Default::default();
        assert_eq!(spec, StateSpec { start, extent, non_negative, full_precision, slow, rank_local });
        assert_eq!(spec.shape(&[2, 3].into()), Shape::from([2, 3]));
    }

    #[test]
    fn rows_and_columns_broadcast_over_each_matrix() {
        let states: &[State<f64>] = &[State::new("row").rows(), State::new("column").columns()];
        let [row, column] = ["row", "column"].map(|name| StateSpec::of(states, name, &1.0));
        let shape = Shape::from([4, 2, 3]);
        assert_eq!((row.shape(&shape), row.broadcast(&shape)), ([4, 2].into(), Some((1, 3))));
        assert_eq!((column.shape(&shape), column.broadcast(&shape)), ([4, 3].into(), Some((3, 2))));
    }

    #[test]
    fn states_of_an_empty_parameter_are_empty() {
        let states: &[State<f64>] = &[
            State::new("row").rows(),
            State::new("column").columns(),
            State::new("first").first(),
            State::new("every").every(|_| 3),
            State::new("whole"),
        ];
        for param in [&[0, 1 << 40][..], &[1 << 40, 0], &[1 << 20, 1 << 20, 0], &[0]] {
            for state in states {
                let shape = StateSpec::of(states, state.name, &1.0).shape(&param.into());
                assert_eq!(shape.elements(), 0, "{} of {param:?}: {shape}", state.name);
            }
        }
    }

    #[test]
    fn an_element_of_the_first_dimension_broadcasts_over_all_the_others() {
        let spec = StateSpec::of(&[State::<f64>::new("row").first()], "row", &1.0);
        for (param, shape, times) in
            [(&[4, 2, 3][..], &[4][..], 6), (&[4, 3], &[4], 3), (&[4], &[4], 1), (&[], &[], 1)]
        {
            assert_eq!(spec.shape(&param.into()), Shape::from(shape));
            assert_eq!(spec.broadcast(&param.into()), Some((1, times)));
        }
    }

    #[test]
    fn an_element_of_every_so_many_is_counted_in_the_hyperparameters() {
        let states: &[State<u64>] = &[State::new("s").every(|h| *h)];
        let of = |every: u64, param: &[usize]| StateSpec::of(states, "s", &every).shape(&param.into());
        assert_eq!(of(1, &[7, 5]), Shape::from([7, 5]));
        assert_eq!(of(3, &[7, 5]), Shape::from([12]));
        assert_eq!((of(11, &[]), of(11, &[0, 3])), ([1].into(), [0].into()));
    }

    #[test]
    fn a_first_value_follows_the_hyperparameters() {
        let states: &[State<f64>] =
            &[State::new("a").starts_at(|h| h + 1.0), State::new("b").starts_as_param()];
        assert_eq!(StateSpec::of(states, "a", &1.0).start, Start::Value(2.0));
        assert_eq!(StateSpec::of(states, "b", &1.0).start, Start::Param);
    }
}
