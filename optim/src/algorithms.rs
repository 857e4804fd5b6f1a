//! The algorithms, one file each.

pub mod adadelta;
pub mod adafactor;
pub mod adagrad;
pub mod adam;
pub mod adamax;
pub mod adamw;
pub mod adamw_schedule_free;
pub mod ademamix;
pub mod asgd;
mod bnb;
pub mod bnb_adagrad;
pub mod bnb_adam;
pub mod bnb_lion;
pub mod bnb_rmsprop;
pub mod bnb_sgd;
pub mod cpu_adam;
pub mod dadapt_adagrad;
pub mod dadapt_adam;
pub mod dadapt_sgd;
pub mod fused_adam;
pub mod fused_lamb;
pub mod lamb;
pub mod lars;
pub mod lion;
pub mod muon;
pub mod nadam;
pub mod nor_muon;
pub mod onebit;
pub mod onebit_adam;
pub mod onebit_lamb;
mod papers;
mod prelude;
pub mod prodigy;
pub mod pytorch_lars;
pub mod radam;
pub mod rmsprop;
pub mod rprop;
pub mod sgd;
pub mod sophia;
pub mod sparse_adam;
pub mod torch_adafactor;
pub mod zero_one_adam;

pub use adadelta::Adadelta;
pub use adafactor::Adafactor;
pub use adagrad::Adagrad;
pub use adam::Adam;
pub use adamax::Adamax;
pub use adamw::AdamW;
pub use adamw_schedule_free::AdamWScheduleFree;
pub use ademamix::{
    AdEmaMix, AdEmaMix8bit, AdEmaMix32bit, PagedAdEmaMix, PagedAdEmaMix8bit, PagedAdEmaMix32bit,
};
pub use asgd::Asgd;
pub use bnb_adagrad::{Adagrad8bit, Adagrad32bit, BnbAdagrad};
pub use bnb_adam::{
    Adam8bit, Adam32bit, AdamW8bit, AdamW32bit, BnbAdam, BnbAdamW, PagedAdam, PagedAdam8bit, PagedAdam32bit,
    PagedAdamW, PagedAdamW8bit, PagedAdamW32bit,
};
pub use bnb_lion::{BnbLion, Lion8bit, Lion32bit, PagedLion, PagedLion8bit, PagedLion32bit};
pub use bnb_rmsprop::{BnbRmsProp, RmsProp8bit, RmsProp32bit};
pub use bnb_sgd::{BnbSgd, Sgd8bit, Sgd32bit};
pub use cpu_adam::CpuAdam;
pub use dadapt_adagrad::DAdaptAdaGrad;
pub use dadapt_adam::DAdaptAdam;
pub use dadapt_sgd::DAdaptSgd;
pub use fused_adam::FusedAdam;
pub use fused_lamb::FusedLamb;
pub use lamb::{Lamb, Lamb8bit, Lamb32bit};
pub use lars::{Lars, Lars8bit, Lars32bit};
pub use lion::Lion;
pub use muon::Muon;
pub use nadam::NAdam;
pub use nor_muon::NorMuon;
pub use onebit_adam::OnebitAdam;
pub use onebit_lamb::OnebitLamb;
pub use prodigy::Prodigy;
pub use pytorch_lars::PytorchLars;
pub use radam::RAdam;
pub use rmsprop::RmsProp;
pub use rprop::Rprop;
pub use sgd::Sgd;
pub use sophia::SophiaG;
pub use sparse_adam::SparseAdam;
pub use torch_adafactor::TorchAdafactor;
pub use zero_one_adam::ZeroOneAdam;
