//! Papers that more than one algorithm follows.

// No single family needs all of them.
#![cfg_attr(not(feature = "all-algorithms"), allow(dead_code))]

use crate::Reference;

pub(super) const ADAM: Reference =
    Reference::new("Kingma & Ba 2015, Adam: A Method for Stochastic Optimization", "arXiv:1412.6980");
pub(super) const AMSGRAD: Reference = Reference::new(
    "Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond (amsgrad)",
    "arXiv:1904.09237",
);
pub(super) const ADAMW: Reference =
    Reference::new("Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization", "arXiv:1711.05101");
pub(super) const LION: Reference =
    Reference::new("Chen et al. 2023, Symbolic Discovery of Optimization Algorithms", "arXiv:2302.06675");
pub(super) const LARS: Reference = Reference::new(
    "You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks",
    "arXiv:1708.03888",
);
pub(super) const DADAPT: Reference = Reference::new(
    "Defazio & Mishchenko 2023, Learning-Rate-Free Learning by D-Adaptation",
    "arXiv:2301.07733",
);
pub(super) const LAMB: Reference = Reference::new(
    "You et al. 2020, Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    "arXiv:1904.00962",
);
pub(super) const ADAFACTOR: Reference = Reference::new(
    "Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
    "arXiv:1804.04235",
);
