//! The algorithms, one file each.

mod bnb;
mod onebit;
mod papers;
mod prelude;

/// Declares the module of each algorithm, exports its types, and makes [`for_each_algorithm!`] of the list.
macro_rules! algorithms {
    ($d:tt $($module:ident: $algorithm:ident $(($($alias:ident),+ $(,)?))?;)+) => {
        $(
            pub mod $module;
            pub use $module::{$algorithm $($(, $alias)+)?};
        )+

        /// Calls a macro with the types of all shipped [algorithms](crate::algorithms), in two lists: the algorithms, and
        /// the other names of them ([`alias!`](macro@crate::alias)).
        ///
        /// ```
        /// use fallline_optim::hyper::Hyperparameters;
        ///
        /// macro_rules! names {
        ///     ([$($algorithm:ident,)+] [$($alias:ident,)+]) => {
        ///         [$(fallline_optim::algorithms::$algorithm::NAME),+]
        ///     };
        /// }
        ///
        /// assert!(fallline_optim::for_each_algorithm!(names).contains(&"AdamW"));
        /// ```
        #[macro_export]
        macro_rules! for_each_algorithm {
            ($d callback:ident) => {
                $d callback! { [$($algorithm,)+] [$($($($alias,)+)?)+] }
            };
        }
    };
}

// One line for each file: its module, its algorithm, and other names of that. All else knows them from here: the registry,
// the command, the tests.
algorithms! { $
    adadelta: Adadelta;
    adafactor: Adafactor;
    adagrad: Adagrad;
    adam: Adam;
    adamax: Adamax;
    adamw: AdamW;
    adamw_schedule_free: AdamWScheduleFree;
    ademamix: AdEmaMix (AdEmaMix8bit, AdEmaMix32bit, PagedAdEmaMix, PagedAdEmaMix8bit, PagedAdEmaMix32bit);
    asgd: Asgd;
    bnb_adagrad: BnbAdagrad (Adagrad8bit, Adagrad32bit);
    bnb_adam: BnbAdam (
        Adam8bit, Adam32bit, AdamW8bit, AdamW32bit, BnbAdamW, PagedAdam, PagedAdam8bit,
        PagedAdam32bit, PagedAdamW, PagedAdamW8bit, PagedAdamW32bit,
    );
    bnb_lion: BnbLion (Lion8bit, Lion32bit, PagedLion, PagedLion8bit, PagedLion32bit);
    bnb_rmsprop: BnbRmsProp (RmsProp8bit, RmsProp32bit);
    bnb_sgd: BnbSgd (Sgd8bit, Sgd32bit);
    cpu_adam: CpuAdam;
    dadapt_adagrad: DAdaptAdaGrad;
    dadapt_adam: DAdaptAdam;
    dadapt_sgd: DAdaptSgd;
    fused_adam: FusedAdam;
    fused_lamb: FusedLamb;
    lamb: Lamb (Lamb8bit, Lamb32bit);
    lars: Lars (Lars8bit, Lars32bit);
    lion: Lion;
    muon: Muon;
    nadam: NAdam;
    nor_muon: NorMuon;
    onebit_adam: OnebitAdam;
    onebit_lamb: OnebitLamb;
    prodigy: Prodigy;
    pytorch_lars: PytorchLars;
    radam: RAdam;
    rmsprop: RmsProp;
    rprop: Rprop;
    sgd: Sgd;
    sophia: SophiaG;
    sparse_adam: SparseAdam;
    torch_adafactor: TorchAdafactor;
    zero_one_adam: ZeroOneAdam;
}
