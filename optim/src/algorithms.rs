//! The algorithms, one file each.

#[cfg(feature = "bitsandbytes")]
mod bnb;
#[cfg(feature = "orthogonal")]
mod emerging;
#[cfg(any(feature = "torch", feature = "dadaptation"))]
mod learning_rate;
#[cfg(feature = "deepspeed")]
mod onebit;
mod papers;
mod prelude;
#[cfg(any(feature = "bitsandbytes", feature = "papers"))]
mod trust_ratio;

/// Declares the modules of each family of algorithms, exports their types, and makes of each family a macro that
/// [`for_each_algorithm!`] asks for its list. A family whose feature is off has an empty list.
macro_rules! algorithms {
    ($d:tt $($feature:tt $list:ident {
        $($module:ident: $algorithm:ident $(($($alias:ident),+ $(,)?))?;)+
    })+) => {
        $(
            $(
                #[cfg(feature = $feature)]
                pub mod $module;
                #[cfg(feature = $feature)]
                pub use $module::{$algorithm $($(, $alias)+)?};
            )+

            #[cfg(feature = $feature)]
            #[doc(hidden)]
            #[macro_export]
            macro_rules! $list {
                ($d callback:ident $d rest:tt [$d($d known:ident,)*] [$d($d other:ident,)*]) => {
                    $crate::next_family! {
                        $d callback $d rest [$d($d known,)* $($algorithm,)+] [$d($d other,)* $($($($alias,)+)?)+]
                    }
                };
            }
            #[cfg(not(feature = $feature))]
            #[doc(hidden)]
            #[macro_export]
            macro_rules! $list {
                ($d callback:ident $d rest:tt $d known:tt $d other:tt) => {
                    $crate::next_family! { $d callback $d rest $d known $d other }
                };
            }
        )+

        /// Calls a macro with the types of all [algorithms](crate::algorithms) of this build, in two lists: the algorithms,
        /// and the other names of them ([`alias!`](macro@crate::alias)).
        ///
        /// ```
        /// use fallline_optim::hyper::Hyperparameters;
        ///
        /// macro_rules! names {
        ///     ([$($algorithm:ident,)*] [$($alias:ident,)*]) => {
        ///         vec![$(fallline_optim::algorithms::$algorithm::NAME),*]
        ///     };
        /// }
        ///
        /// let names: Vec<&str> = fallline_optim::for_each_algorithm!(names);
        /// # #[cfg(feature = "torch")]
        /// assert!(names.contains(&"AdamW"));
        /// ```
        #[macro_export]
        macro_rules! for_each_algorithm {
            ($d callback:ident) => {
                $crate::next_family! { $d callback [$($list)+] [] [] }
            };
        }

        /// Every family: the feature that has it, and the types of its algorithms, whether this build has them or not.
        const FAMILIES: &[(&str, &[&str])] = &[
            $(($feature, &[$(stringify!($algorithm), $($(stringify!($alias),)+)?)+]),)+
        ];
    };
}

/// Returns the feature that an algorithm is in by its name in configurations, whether this build has it or not.
///
/// ```
/// use fallline_optim::algorithms::feature_of;
/// assert_eq!(feature_of("PagedAdamW8bit"), Some("bitsandbytes"));
/// assert_eq!(feature_of("MyOptimizer"), None);
/// ```
pub fn feature_of(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let name = plain(name.strip_prefix("DeepSpeed").unwrap_or(name));
    let family = FAMILIES.iter().find(|(_, types)| types.iter().any(|own| plain(own) == name));
    family.map(|&(feature, _)| feature)
}

/// Asks the next family for its algorithms; calls back where there is none left.
#[doc(hidden)]
#[macro_export]
macro_rules! next_family {
    ($callback:ident [] $algorithms:tt $aliases:tt) => {
        $callback! { $algorithms $aliases }
    };
    ($callback:ident [$first:ident $($rest:ident)*] $algorithms:tt $aliases:tt) => {
        $crate::$first! { $callback [$($rest)*] $algorithms $aliases }
    };
}

// One line for each file, under the feature that has it: its module, its algorithm, and other names of that. All else knows
// them from here: the registry, the command, the tests.
algorithms! { $
    "torch" torch_algorithms {
        adadelta: Adadelta;
        adagrad: Adagrad;
        adam: Adam;
        adamax: Adamax;
        adamw: AdamW;
        asgd: Asgd;
        nadam: NAdam;
        radam: RAdam;
        rmsprop: RmsProp;
        rprop: Rprop;
        sgd: Sgd;
        sparse_adam: SparseAdam;
    }
    "papers" papers_algorithms {
        adamw_schedule_free: AdamWScheduleFree;
        lion: Lion;
        pytorch_lars: PytorchLars;
        sophia: SophiaG;
    }
    "matrix" matrix_algorithms {
        adafactor: Adafactor;
        muon: Muon;
        nor_muon: NorMuon;
        torch_adafactor: TorchAdafactor;
    }
    "orthogonal" orthogonal_algorithms {
        ada_muon: AdaMuon;
        muon_hyperball: MuonHyperball;
        scion: Scion;
        scion_light: ScionLight;
        spel: Spel;
    }
    "bitsandbytes" bitsandbytes_algorithms {
        ademamix: AdEmaMix (AdEmaMix8bit, AdEmaMix32bit, PagedAdEmaMix, PagedAdEmaMix8bit, PagedAdEmaMix32bit);
        bnb_adagrad: BnbAdagrad (Adagrad8bit, Adagrad32bit);
        bnb_adam: BnbAdam (
            Adam8bit, Adam32bit, AdamW8bit, AdamW32bit, BnbAdamW, PagedAdam, PagedAdam8bit,
            PagedAdam32bit, PagedAdamW, PagedAdamW8bit, PagedAdamW32bit,
        );
        bnb_lion: BnbLion (Lion8bit, Lion32bit, PagedLion, PagedLion8bit, PagedLion32bit);
        bnb_rmsprop: BnbRmsProp (RmsProp8bit, RmsProp32bit);
        bnb_sgd: BnbSgd (Sgd8bit, Sgd32bit);
        lamb: Lamb (Lamb8bit, Lamb32bit);
        lars: Lars (Lars8bit, Lars32bit);
    }
    "deepspeed" deepspeed_algorithms {
        cpu_adam: CpuAdam;
        fused_adam: FusedAdam;
        fused_lamb: FusedLamb;
        onebit_adam: OnebitAdam;
        onebit_lamb: OnebitLamb;
        zero_one_adam: ZeroOneAdam;
    }
    "dadaptation" dadaptation_algorithms {
        dadapt_adagrad: DAdaptAdaGrad;
        dadapt_adam: DAdaptAdam;
        dadapt_sgd: DAdaptSgd;
        prodigy: Prodigy;
    }
}
