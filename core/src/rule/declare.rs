//! The macro that declares rules.

/// Declares a [`Rule`](crate::Rule).
///
/// ```
/// use fallline_core::{math, rule};
///
/// /// The hyperparameters of plain gradient descent with decoupled decay.
/// pub struct Descent {
///     /// Step size.
///     pub lr: f64,
///     /// Decay per step, in units of `lr`.
///     pub weight_decay: f64,
/// }
///
/// rule! {
///     /// Plain gradient descent, which also returns the squared norm of the gradient.
///     pub DescentRule(h: Descent, t) {       // once a step, on the host, in f64
///         let lr = h.lr;
///         let keep = 1.0 - h.lr * h.weight_decay;
///     }
///     element(g: Grad) -> (p: Param) sum(norm2) {   // once an element, anywhere
///         p = keep * p - lr * g;
///         norm2 = g * g;
///     }
/// }
/// ```
///
/// `element` lists the operands that are only read, then those that are written. `or pub Name element(…) -> (…) { … }`
/// behind it declares another rule with the same scalars. Functions for the scalars are those of
/// [`math`](crate::math).
///
/// # Scalars of a tensor
///
/// `per_tensor(trust)` in front of `element` names scalars that differ from tensor to tensor. The rule says how they
/// follow from the sums of the pass before, which it reads by name: a wrong name does not compile.
///
/// ```
/// # use fallline_core::{math, rule, Number, Vector};
/// # pub struct Clipped { pub lr: f64, pub most: f64 }
/// rule! {
///     /// The pass before: the norm of the gradient.
///     pub NormRule(h: Clipped, t) {}
///     element(g: Grad) -> () sum(norm2) { norm2 = g * g; }
/// }
/// rule! {
///     /// Descent along a gradient that is clipped to a norm of `most`, tensor by tensor.
///     pub ClippedRule(h: Clipped, t) {}
///     per_tensor(step_size) reads NormRule(norm2) {
///         each(at) {                        // on the host, in f64: what no sum decides
///             let lr = h.lr;
///             let most = h.most;
///         }
///         tensor {                          // where the sums are, in f64: the vocabulary of `element`
///             let step_size = lr * N::splat(1.0).min(most / norm2.sqrt());
///         }
///     }
///     element(g: Grad) -> (p: Param) { p = p - step_size * g; }
/// }
/// ```
///
/// The sections, all optional and in this order:
///
/// - `once(groups, at) { let …; }`: numbers of all tensors together, from all groups' hyperparameters and
///   [`GlobalAt`](crate::GlobalAt).
/// - `each(at) { let …; }`: numbers of one tensor, from its group's hyperparameters, the numbers of `once` and
///   [`TensorAt`](crate::TensorAt).
/// - `totals(All) { name = term; }` or `totals(Group) { … }`: each tensor's term of a total over all tensors, or over those
///   of its group ([`Over`](crate::between::Over)).
/// - `update { name = …; }`: the shared scalars, those of all parameters together, from the totals.
/// - `skip { … }`: above 0 where the pass is left out, from the shared scalars.
/// - `tensor { let name = …; }`: the tensor's scalars, and what is remembered for it (`name = …;`). A scalar that it does
///   not name is the number that has its name.
///
/// `memory(…)` and `shared(…)`, behind `reads`, name the scalars that are kept for a parameter and for all of them
/// together. Sections from `totals` on are generic over `N`, a [`Number`](crate::Number). A rule after `or` has these
/// scalars too, unless it declares its own. A bare `per_tensor(trust)` leaves them to who runs the rule.
#[macro_export]
macro_rules! rule {
    // A rule that says how its tensor scalars are found.
    (@variant $head:tt $default:tt [$($attrs:tt)*] $name:ident
     per_tensor $own:tt $(reads $of:ident $sums_read:tt)? $(memory $memory:tt)? $(shared $shared:tt)?
     $({ $($sections:tt)* })?
     element $($rest:tt)*) => {
        $crate::rule!(@declared $head
            [$own [$($of $sums_read)?] [$($memory)?] [$($shared)?] { $($($sections)*)? }]
            [$($attrs)*] $name $($rest)*);
    };
    // One that has those of the rule before.
    (@variant $head:tt $default:tt [$($attrs:tt)*] $name:ident element $($rest:tt)*) => {
        $crate::rule!(@declared $head $default [$($attrs)*] $name $($rest)*);
    };
    // A rule, and others after `or` that share its scalars.
    (@declared $head:tt $between:tt [$($attrs:tt)*] $name:ident
     $reads:tt -> $writes:tt $(sum $sums:tt)? $body:block
     $(or $(#[$other_meta:meta])* $other_vis:vis $other:ident $($rest:tt)*)?) => {
        $crate::rule!(@one [$($attrs)*] $name $head $between $reads $writes [$($sums)?] $body);
        $($crate::rule!(@variant $head $between [$(#[$other_meta])* $other_vis] $other $($rest)*);)?
    };
    (@one [$(#[$meta:meta])* $vis:vis] $name:ident
     [$h:ident [$hyper:ty] $t:ident { $(let $scalar:ident = $formula:expr;)* }]
     [($($own:ident),* $(,)?)
      [$($of:ident ($($read_sum:ident),* $(,)?))?]
      [$(($($memory:ident),* $(,)?))?]
      [$(($($shared:ident),* $(,)?))?]
      { $(once($groups:ident, $all:ident) { $(let $once:ident = $once_formula:expr;)* })?
        $(each($at:ident) { $(let $each:ident = $each_formula:expr;)* })?
        $(totals($over:ident) { $($total:ident = $term:expr;)* })?
        $(update $update:block)?
        $(skip $skip:block)?
        $(tensor { $($tensor:tt)* })? }]
     ($($read:ident: $read_role:ident),* $(,)?)
     ($($write:ident: $write_role:ident),* $(,)?)
     [$(($($sum:ident),+ $(,)?))?]
     $body:block) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $name;

        // The names of sums are those of a rule.
        $($(const _: usize = $crate::between::place(<$of as $crate::Rule>::SUMS, stringify!($read_sum));)*)?

        impl $crate::Rule for $name {
            type Hyper = $hyper;
            const NAME: &'static str = stringify!($name);
            const OPERANDS: &'static [$crate::Operand] = &[
                $($crate::Operand { name: stringify!($write), role: $crate::Role::$write_role, written: true },)*
                $($crate::Operand { name: stringify!($read), role: $crate::Role::$read_role, written: false },)*
            ];
            const SCALARS: &'static [$crate::ScalarDef] = &[
                $($crate::ScalarDef { name: stringify!($scalar), formula: stringify!($formula) },)*
            ];
            const TENSOR_SCALARS: &'static [&'static str] = &[$(stringify!($own)),*];
            const BETWEEN: $crate::between::Declared = $crate::between::Declared {
                reads: &[$($(stringify!($read_sum)),*)?],
                memory: &[$($(stringify!($memory)),*)?],
                shared: &[$($(stringify!($shared)),*)?],
                once: &[$($($crate::ScalarDef { name: stringify!($once), formula: stringify!($once_formula) },)*)?],
                each: &[$($($crate::ScalarDef { name: stringify!($each), formula: stringify!($each_formula) },)*)?],
                totals: &[$($(stringify!($total)),*)?],
                global: {
                    const SEEN: &[&str] = &[$(stringify!($all),)? $(stringify!($over),)? $(stringify!($update),)?];
                    !SEEN.is_empty()
                },
                may_skip: {
                    const SEEN: &[&str] = &[$(stringify!($skip),)?];
                    !SEEN.is_empty()
                },
                over: {
                    const SEEN: &[$crate::between::Over] = &[$($crate::between::Over::$over)?];
                    if let [over] = SEEN { *over } else { $crate::between::Over::All }
                },
            };
            const SUMS: &'static [&'static str] = &[$($(stringify!($sum)),+)?];
            type Scalars<T: Copy + Send + Sync> =
                [T; <$name as $crate::Rule>::SCALARS.len() + <$name as $crate::Rule>::TENSOR_SCALARS.len()];
            type Operands<T: Copy + Send + Sync> = [T; <$name as $crate::Rule>::OPERANDS.len()];
            type Sums<T: Copy + Send + Sync> = [T; <$name as $crate::Rule>::SUMS.len()];

            #[allow(unused_variables)]
            fn scalars($h: &$hyper, $t: u64, out: &mut [f64]) {
                $(let $scalar: f64 = $formula;)*
                out.copy_from_slice(&[$($scalar),*]);
            }

            $(#[allow(unused_variables)]
            fn once(
                $groups: &$crate::Groups<'_, '_, $hyper>,
                $all: &mut $crate::GlobalAt<'_>,
                out: &mut [f64],
            ) {
                $(let $once: f64 = $once_formula;)*
                out.copy_from_slice(&[$($once),*]);
            })?

            $crate::rule!(@each [$($at { $($each = $each_formula;)* })?] $h [$hyper] $t [$($($once),*)?]);
            $crate::rule!(@terms [$($($term),*)?] [$($($once),*)?] [$($($each),*)?] [$($($read_sum),*)?]
                [$($($shared),*)?]);
            $crate::rule!(@update [$($update)?] [$($($once),*)?] [$($($total),*)?] [$($($shared),*)?]);
            $crate::rule!(@skip [$($skip)?] [$($($shared),*)?]);

            #[allow(unused_variables, unused_mut, unused_assignments)]
            fn tensor<N: $crate::Number>(
                from: &$crate::between::Numbers<'_, N>,
                memory: &mut [N],
                out: &mut [N],
            )
            where
                f64: $crate::Literal<N>,
            {
                $crate::rule!(@tensor [$($($tensor)*)?] from memory out [$($own),*] [$($($once),*)?] [$($($each),*)?]
                    [$($($read_sum),*)?] [$($($total),*)?] [$($($shared),*)?] [$($($memory),*)?]);
            }

            #[inline(always)]
            #[allow(unused_variables, unused_mut, unused_assignments)]
            fn element<L: $crate::Vector>(
                scalars: &Self::Scalars<L>,
                operands: &mut Self::Operands<L>,
            ) -> Self::Sums<L>
            where
                f64: $crate::Literal<L>,
            {
                let [$($scalar,)* $($own,)*] = *scalars;
                let [$(mut $write,)* $($read,)*] = *operands;
                $($(let $sum: L;)+)?
                $body
                *operands = [$($write,)* $($read,)*];
                [$($($sum),+)?]
            }
        }
    };
    // Names for the numbers of a slice.
    (@bind $slice:ident []) => {};
    (@bind $slice:ident . $field:ident []) => {};
    (@bind $slice:ident $(. $field:ident)? [$($name:ident),+]) => {
        let &[$($name),+] = $slice $(.$field)? else { unreachable!("an engine gives the numbers that are declared") };
    };
    (@each [] $h:ident [$hyper:ty] $t:ident $once:tt) => {};
    (@each [$at:ident { $($each:ident = $formula:expr;)* }] $h:ident [$hyper:ty] $t:ident $once:tt) => {
        #[allow(unused_variables)]
        fn each($h: &$hyper, $at: &mut $crate::TensorAt<'_>, once: &[f64], out: &mut [f64]) {
            let $t = $at.t;
            $crate::rule!(@bind once $once);
            $(let $each: f64 = $formula;)*
            out.copy_from_slice(&[$($each),*]);
        }
    };
    (@terms [] $once:tt $each:tt $sums:tt $shared:tt) => {};
    (@terms [$($term:expr),+] $once:tt $each:tt $sums:tt $shared:tt) => {
        #[allow(unused_variables)]
        fn terms<N: $crate::Number>(from: &$crate::between::Numbers<'_, N>, out: &mut [N])
        where
            f64: $crate::Literal<N>,
        {
            $crate::rule!(@bind from.once $once);
            $crate::rule!(@bind from.each $each);
            $crate::rule!(@bind from.sums $sums);
            $crate::rule!(@bind from.shared $shared);
            out.copy_from_slice(&[$($term),+]);
        }
    };
    (@update [] $once:tt $totals:tt $shared:tt) => {};
    (@update [$update:block] $once:tt $totals:tt [$($shared:ident),*]) => {
        #[allow(unused_variables, unused_mut, unused_assignments)]
        fn update<N: $crate::Number>(from: &$crate::between::Numbers<'_, N>, shared: &mut [N])
        where
            f64: $crate::Literal<N>,
        {
            $crate::rule!(@bind from.once $once);
            $crate::rule!(@bind from.totals $totals);
            let &mut [$(mut $shared),*] = shared else {
                unreachable!("an engine gives the numbers that are declared")
            };
            $update
            shared.copy_from_slice(&[$($shared),*]);
        }
    };
    (@skip [] $shared:tt) => {};
    (@skip [$skip:block] $shared:tt) => {
        #[allow(unused_variables)]
        fn skips<N: $crate::Number>(shared: &[N]) -> N
        where
            f64: $crate::Literal<N>,
        {
            $crate::rule!(@bind shared $shared);
            $skip
        }
    };
    // Who runs the rule gives its scalars.
    (@tensor [] $from:ident $memory:ident $out:ident $own:tt [] [] [] [] [] []) => {};
    // The scalars are the numbers that have their names.
    (@tensor [$($tensor:tt)*] $from:ident $memory:ident $out:ident [$($own:ident),*] $once:tt $each:tt $sums:tt $totals:tt
     $shared:tt [$($remembered:ident),*]) => {
        $crate::rule!(@bind $from.once $once);
        $crate::rule!(@bind $from.each $each);
        $crate::rule!(@bind $from.sums $sums);
        $crate::rule!(@bind $from.totals $totals);
        $crate::rule!(@bind $from.shared $shared);
        let &mut [$(mut $remembered),*] = $memory else {
            unreachable!("an engine gives the numbers that are declared")
        };
        $($tensor)*
        $memory.copy_from_slice(&[$($remembered),*]);
        $out.copy_from_slice(&[$($own),*]);
    };
    ($(#[$meta:meta])* $vis:vis $name:ident($h:ident: $hyper:ty, $t:ident) $scalars:tt $($rest:tt)*) => {
        $crate::rule!(@variant [$h [$hyper] $t $scalars] [() [] [] [] {}] [$(#[$meta])* $vis] $name $($rest)*);
    };
}
