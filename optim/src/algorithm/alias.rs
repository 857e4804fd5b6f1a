//! One algorithm under several names, as some sources have it: the same program, other defaults.

use super::erased::{Linked, Stepped};
use super::{Algorithm, AnyAlgorithm, Info};
use crate::hyper::{Hyper, HyperError, Hyperparameters, Value};
use core::fmt::Debug;
use core::marker::PhantomData;
use fallline_core::Link;

/// Hyperparameters under a name: an algorithm, or [another name](macro@crate::alias) of one.
pub trait Named: Hyperparameters + Default + 'static {
    /// Returns what is stepped, with the rules that `K` compiles.
    ///
    /// # Errors
    /// [`HyperError`] when hyperparameters are out of range or exclude each other.
    fn link<K: Link>(self) -> Result<Box<dyn AnyAlgorithm>, HyperError>;
}

impl<A: Algorithm> Named for A {
    fn link<K: Link>(self) -> Result<Box<dyn AnyAlgorithm>, HyperError> {
        Ok(Box::new(Linked::<A, K>::new(self)?))
    }
}

/// Another name of an algorithm: its hyperparameters in a separate type. Declared by [`alias!`](macro@crate::alias).
pub trait Alias: Hyperparameters + Clone + Debug + Default + Send + Sync + 'static {
    /// The algorithm.
    type Of: Algorithm;
    /// Returns the hyperparameters under this name.
    fn wrap(of: Self::Of) -> Self;
    /// Returns the hyperparameters under the algorithm's own name.
    fn unwrap(self) -> Self::Of;
}

/// An [`Alias`] together with the [`Link`] that compiles the algorithm's rules. It forwards nothing: what is stepped is the
/// algorithm.
pub struct Aliased<T: Alias, K> {
    core: Linked<T::Of, K>,
    alias: PhantomData<fn() -> T>,
}

impl<T: Alias, K: Link> Aliased<T, K> {
    /// Returns the algorithm with these hyperparameters, under their name.
    ///
    /// # Errors
    /// [`HyperError`] when they are out of range or exclude each other.
    pub fn new(alias: T) -> Result<Self, HyperError> {
        for hyper in T::TABLE {
            if let Some(value) = alias.get(hyper.name) {
                alias.clone().set(hyper.name, &value)?;
            }
        }
        Self::checked(alias.unwrap(), true)
    }

    fn checked(mut of: T::Of, first: bool) -> Result<Self, HyperError> {
        of.check(first).map_err(|error| error.named(T::NAME))?;
        Ok(Aliased { core: Linked::unchecked(of), alias: PhantomData })
    }

    fn alias(&self) -> T {
        T::wrap(self.core.algorithm().clone())
    }
}

impl<T: Alias, K: Link> Debug for Aliased<T, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.alias().fmt(f)
    }
}

impl<T: Alias, K: Link> AnyAlgorithm for Aliased<T, K> {
    fn name(&self) -> &'static str {
        T::NAME
    }
    fn info(&self) -> &'static Info {
        &T::Of::INFO
    }
    fn table(&self) -> &'static [Hyper] {
        T::TABLE
    }
    fn get(&self, name: &str) -> Option<Value> {
        // Not by way of the alias, which copies: schedules ask in every step.
        let counts = T::TABLE.iter().any(|hyper| hyper.name == name && hyper.counts);
        if counts { self.core.algorithm().get(name) } else { None }
    }
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        let mut changed = self.alias();
        values.iter().try_for_each(|(name, value)| changed.set(name, value))?;
        *self = Self::checked(changed.unwrap(), false)?;
        Ok(())
    }
    fn boxed(&self) -> Box<dyn AnyAlgorithm> {
        let core = Linked::unchecked(self.core.algorithm().clone());
        Box::new(Aliased::<T, K> { core, alias: PhantomData })
    }
    fn core(&self) -> &dyn Stepped {
        &self.core
    }
}

/// Declares another name of any algorithm: the same program, states, ranges and meanings. `with` gives other
/// defaults, and `without` removes arguments that the source does not take under this name. What is `accepted` or
/// `fixed` instead of being a hyperparameter is as in [`hyperparameters!`](crate::hyperparameters): its value is that
/// in `with`, whatever is given.
///
/// ```
/// use fallline_optim::hyper::{Hyperparameters, Value};
/// use fallline_optim::algorithms::Adagrad;
/// fallline_optim::alias! {
///     /// Adagrad, slower.
///     pub Slow as "SlowAdagrad" is Adagrad, with { lr = 1e-3 }, without { fused }
/// }
/// let mut slow = Slow::default();
/// assert_eq!(slow.0, Adagrad { lr: 1e-3, ..Adagrad::default() });
/// assert_eq!(Slow::TABLE.len(), Adagrad::TABLE.len() - 1);
/// assert_eq!((Slow::TABLE[0].default)(), Value::Float(1e-3));
/// let error = slow.set("lr", &Value::Int(-1)).unwrap_err();
/// assert_eq!(error.to_string(), "SlowAdagrad: lr must be ≥ 0, got -1");
/// assert!(slow.set("fused", &Value::Bool(true)).is_err());
/// ```
#[macro_export]
macro_rules! alias {
    ($(#[$meta:meta])* $vis:vis $name:ident as $text:literal is $of:ty
     $(, with { $($field:ident = $default:expr),+ $(,)? })?
     $(, without { $($gone:ident),+ $(,)? })?
     $(, accepted { $($ignored:ident: $ignored_t:ty = $ignored_default:expr, $ignored_range:expr);+ $(;)? })?
     $(, fixed { $($only:ident: $only_t:ty = $only_default:expr, $reason:literal);+ $(;)? })? $(,)?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name(
            /// Its hyperparameters.
            pub $of,
        );

        impl Default for $name {
            #[allow(unused_mut, clippy::field_reassign_with_default)]
            fn default() -> Self {
                let mut hyper = <$of>::default();
                $($(hyper.$field = $default;)+)?
                $name(hyper)
            }
        }

        impl $crate::hyper::Hyperparameters for $name {
            const NAME: &'static str = $text;
            const TABLE: &'static [$crate::hyper::Hyper] = {
                const ALL: &[$crate::hyper::Hyper] = <$of as $crate::hyper::Hyperparameters>::TABLE;
                const GONE: &[&str] = &[$($(stringify!($gone)),+)?];
                const OTHERS: &[$crate::hyper::Hyper] = &[
                    $($($crate::hyper::accepted_row::<$ignored_t>(
                        stringify!($ignored),
                        || $crate::hyper::HyperType::to_value(&{ let x: $ignored_t = $ignored_default; x }),
                        $ignored_range,
                    ),)+)?
                    $($($crate::hyper::fixed_row::<$only_t>(
                        stringify!($only),
                        || $crate::hyper::HyperType::to_value(&{ let x: $only_t = $only_default; x }),
                        concat!(" Only the default is accepted: ", $reason, "."),
                    ),)+)?
                ];
                const TABLE: [$crate::hyper::Hyper; ALL.len() - GONE.len()] = $crate::alias_table(
                    ALL,
                    GONE,
                    OTHERS,
                    &[$($((stringify!($field), || {
                        $crate::hyper::HyperType::to_value(&<$name>::default().0.$field)
                    })),+)?],
                );
                &TABLE
            };
            fn set(
                &mut self,
                name: &str,
                value: &$crate::hyper::Value,
            ) -> Result<(), $crate::hyper::HyperError> {
                if Self::TABLE.iter().all(|hyper| hyper.name != name) {
                    return Err($crate::hyper::HyperError::Unknown {
                        algorithm: Self::NAME,
                        name: name.to_owned(),
                        known: Self::TABLE.iter().map(|hyper| hyper.name).collect(),
                    });
                }
                match name {
                    $($(stringify!($ignored) => $crate::hyper::convert::<$ignored_t>(
                        Self::NAME, stringify!($ignored), $ignored_range, value,
                    ).map(|_| ()),)+)?
                    $($(stringify!($only) => $crate::hyper::only::<$only_t>(
                        Self::NAME, stringify!($only), $only_default, $reason, value,
                    ),)+)?
                    _ => self.0.set(name, value).map_err(|error| error.named(Self::NAME)),
                }
            }
            fn get(&self, name: &str) -> Option<$crate::hyper::Value> {
                let counts = Self::TABLE.iter().any(|hyper| hyper.name == name && hyper.counts);
                if counts { self.0.get(name) } else { None }
            }
        }

        impl $crate::Alias for $name {
            type Of = $of;
            fn wrap(of: $of) -> Self {
                $name(of)
            }
            fn unwrap(self) -> $of {
                self.0
            }
        }

        impl $crate::Named for $name {
            fn link<K: $crate::Link>(
                self,
            ) -> Result<Box<dyn $crate::AnyAlgorithm>, $crate::hyper::HyperError> {
                Ok(Box::new($crate::Aliased::<Self, K>::new(self)?))
            }
        }
    };
}

/// A hyperparameter's name and its other default.
type OtherDefault = (&'static str, fn() -> Value);

/// Returns the table without some rows, with others in the place of some, and with other defaults. Used by
/// [`alias!`](macro@crate::alias).
///
/// # Panics
/// While compiling, when a name of `gone`, `others` or `defaults` is not in the table.
#[doc(hidden)]
pub const fn table<const N: usize>(
    all: &[Hyper],
    gone: &[&str],
    others: &[Hyper],
    defaults: &[OtherDefault],
) -> [Hyper; N] {
    let mut rows = [all[0]; N];
    let (mut from, mut to, mut changed, mut replaced) = (0, 0, 0, 0);
    while from < all.len() {
        let mut row = all[from];
        from += 1;
        let (mut kept, mut i) = (true, 0);
        while i < gone.len() {
            kept = kept && !same(gone[i], row.name);
            i += 1;
        }
        i = 0;
        while i < defaults.len() {
            if same(defaults[i].0, row.name) {
                row.default = defaults[i].1;
                changed += 1;
            }
            i += 1;
        }
        i = 0;
        while i < others.len() {
            if same(others[i].name, row.name) {
                row = others[i];
                replaced += 1;
            }
            i += 1;
        }
        if kept {
            rows[to] = row;
            to += 1;
        }
    }
    let all_found = to == N && changed == defaults.len() && replaced == others.len();
    assert!(all_found, "a name is not in the table");
    rows
}

/// Returns whether two names are the same.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
