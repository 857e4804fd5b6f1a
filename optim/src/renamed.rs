//! One algorithm under several names, as some sources have it: the same rules, other defaults.

use crate::hyper::{Hyper, Value};

/// Declares an algorithm that is another one under a name of its own: the same rules, states, ranges and
/// meanings, with the defaults in `with` instead of its own, and `without` arguments that the source
/// does not take under this name. What is `accepted` or `fixed` instead of being a hyperparameter stands as in
/// [`hyperparameters!`](crate::hyperparameters): its value is that in `with`, whatever is given.
///
/// ```
/// use fallline_optim::hyper::{Hyperparameters, Value};
/// use fallline_optim::algorithms::Adagrad;
/// fallline_optim::renamed! {
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
macro_rules! renamed {
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
                const TABLE: [$crate::hyper::Hyper; ALL.len() - GONE.len()] = $crate::renamed::table(
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

        impl $crate::Algorithm for $name {
            const INFO: $crate::Info = <$of as $crate::Algorithm>::INFO;
            fn kernel<K: $crate::Link>(&self) -> &'static $crate::Kernel {
                self.0.kernel::<K>()
            }
            const MEMORY: &'static [(&'static str, f64)] = <$of as $crate::Algorithm>::MEMORY;
            const SHARED: &'static [(&'static str, f64)] = <$of as $crate::Algorithm>::SHARED;
            const REPLICAS: $crate::Replicas = <$of as $crate::Algorithm>::REPLICAS;
            fn state(&self, name: &str) -> $crate::StateSpec {
                self.0.state(name)
            }
            fn stages<K: $crate::Link>(&self, class: u8) -> $crate::stages::Stages {
                self.0.stages::<K>(class)
            }
            fn class(&self, shape: &$crate::Shape) -> Result<u8, String> {
                self.0.class(shape)
            }
            fn class_of(&self, name: &str, shape: &$crate::Shape) -> Result<u8, String> {
                self.0.class_of(name, shape)
            }
            fn scalars(&self, class: u8, kernel: &$crate::Kernel, t: u64, out: &mut [f64]) {
                self.0.scalars(class, kernel, t, out);
            }
            fn formed(&self, stage: usize) -> &'static [&'static str] {
                self.0.formed(stage)
            }
            fn hessian_kernel<K: $crate::Link>(&self) -> Option<&'static $crate::Kernel> {
                self.0.hessian_kernel::<K>()
            }
            fn hyper(&self) -> &dyn core::any::Any {
                self.0.hyper()
            }
            fn check(&mut self, first: bool) -> Result<(), $crate::hyper::HyperError> {
                let name = <Self as $crate::hyper::Hyperparameters>::NAME;
                self.0.check(first).map_err(|error| error.named(name))
            }
            fn storage(&self) -> $crate::StorageDefaults {
                self.0.storage()
            }
            fn sparse(&self) -> $crate::Sparse {
                self.0.sparse()
            }
        }
    };
}

/// A hyperparameter's name and its other default.
type OtherDefault = (&'static str, fn() -> Value);

/// The table without some rows, with others in the place of some, and with other defaults. Used by [`renamed!`](macro@crate::renamed).
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

/// Whether two names are the same.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
