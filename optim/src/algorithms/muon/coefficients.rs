//! The coefficients of Newton–Schulz iterations, by name or one by one.

use crate::hyper::{HyperType, Value};
use core::slice::from_ref;

type Triple = (f64, f64, f64);

/// What coefficients may be: a name, coefficients a, b, c, or a list of them, one for each iteration.
///
/// ```
/// use fallline_optim::algorithms::Muon;
/// use fallline_optim::algorithms::muon::{Coefficients, Preset};
/// let named = Muon { ns_coefficients: Coefficients::Named(Preset::PolarExpress), ..Muon::default() };
/// let first = (4.0848, -6.8946, 2.9270);
/// let several = Muon { ns_coefficients: vec![first, (2.0, -1.5, 0.5)].into(), ..Muon::default() };
/// assert_eq!(several.ns_coefficients.steps()[0], first);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Coefficients {
    /// Those of a name.
    Named(Preset),
    /// The same in all iterations.
    Same(Triple),
    /// One after another; the last ones repeat. None at all are 1, 0, 0.
    Several(Vec<Triple>),
}

impl From<Triple> for Coefficients {
    fn from(triple: Triple) -> Coefficients {
        Coefficients::Same(triple)
    }
}

impl From<Vec<Triple>> for Coefficients {
    fn from(triples: Vec<Triple>) -> Coefficients {
        Coefficients::Several(triples)
    }
}

impl From<Preset> for Coefficients {
    fn from(preset: Preset) -> Coefficients {
        Coefficients::Named(preset)
    }
}

/// Coefficients that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Those of [`Muon`](crate::algorithms::Muon).
    Original,
    /// Five quintic steps that end near 1.
    Quintic,
    /// The Polar Express: the best polynomials one after another (Amsel et al. 2025), with a margin of 1% for rounding.
    PolarExpress,
    /// The same with a margin of 2%.
    PolarExpressSafer,
}

impl Preset {
    const ALL: [Preset; 4] =
        [Preset::Original, Preset::Quintic, Preset::PolarExpress, Preset::PolarExpressSafer];

    fn name(self) -> &'static str {
        match self {
            Preset::Original => "original",
            Preset::Quintic => "quintic",
            Preset::PolarExpress => "polar_express",
            Preset::PolarExpressSafer => "polar_express_safer",
        }
    }

    pub(in crate::algorithms) fn steps(self) -> &'static [Triple] {
        match self {
            Preset::Original => &[(3.4445, -4.7750, 2.0315)],
            Preset::Quintic => &[
                (4.0848, -6.8946, 2.9270),
                (3.9505, -6.3029, 2.6377),
                (3.7418, -5.5913, 2.3037),
                (2.8769, -3.1427, 1.2046),
                (2.8366, -3.0525, 1.2012),
            ],
            Preset::PolarExpress => &[
                (8.237312490495555, -23.157747414558198, 16.680568411445915),
                (4.082441999064835, -2.893047735332586, 0.5252849256975648),
                (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
                (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
                (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
                (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
                (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
                (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
            ],
            Preset::PolarExpressSafer => &[
                (8.156554524902461, -22.48329292557795, 15.878769915207462),
                (4.0429299351667245, -2.808917465908704, 0.5000178451051299),
                (3.8916678022926563, -2.7724841532176825, 0.5060648178503389),
                (3.285753657755658, -2.3681294933425394, 0.46449024233003117),
                (2.3005307116270983, -1.6111665557258408, 0.3833374427545273),
                (1.8631210546382593, -1.2042160621002727, 0.3421879560523383),
                (1.8382572152247512, -1.1779263289537742, 0.3396513038637379),
                (1.8749999923301852, -1.2499999836060613, 0.374999991275876),
            ],
        }
    }
}

impl Coefficients {
    /// Returns a, b, c of each iteration; the last ones repeat.
    pub fn steps(&self) -> &[Triple] {
        match self {
            Coefficients::Named(preset) => preset.steps(),
            Coefficients::Same(triple) => from_ref(triple),
            Coefficients::Several(triples) => triples,
        }
    }
}

impl HyperType for Coefficients {
    const NAME: &'static str =
        "preset (original, quintic, polar_express, polar_express_safer), triple of floats or list of triples";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => {
                let named = |preset: &Preset| text.to_lowercase() == preset.name();
                Preset::ALL.into_iter().find(named).map(Coefficients::Named)
            }
            Value::List(items) => match Triple::from_value(value) {
                Some(triple) => Some(Coefficients::Same(triple)),
                None if items.is_empty() => None,
                None => {
                    items.iter().map(Triple::from_value).collect::<Option<_>>().map(Coefficients::Several)
                }
            },
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Coefficients::Named(preset) => Value::Text(preset.name().to_owned()),
            Coefficients::Same(triple) => triple.to_value(),
            Coefficients::Several(triples) => Value::List(triples.iter().map(Triple::to_value).collect()),
        }
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.steps().iter().flat_map(Triple::numbers)
    }
}
