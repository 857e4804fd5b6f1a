//! The vocabulary of fallline.
//!
//! A [`Rule`] is a pure function of numbers, written once over a [`Vector`], the arithmetic of one
//! register of elements. The same rule is
//!
//! - the scalar reference, with [`Scalar<f32>`](Scalar) or [`Scalar<f64>`](Scalar) as its lane;
//! - a SIMD kernel, with a register of the CPU backend as its lane;
//! - a [`Graph`] that can be printed, evaluated or compiled for a device, with [`Expr`] as its lane.
//!
//! Storage is decoupled from arithmetic. A [`Format`] is the storage dtype of a tensor, a [`Compute`] the compute
//! dtype of a rule. The [`codec`]s between them are specified here, bit for bit.
//!
//! A [`Backend`] runs erased rules ([`Kernel`]) over its own memory and that of users. This crate knows no algorithm
//! and no instruction set, and holds no unsafe code.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::core`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod backend;
pub mod between;
pub mod builtins;
pub mod codec;
mod device;
mod error;
mod expr;
pub mod fallible;
pub mod files;
mod format;
pub mod host;
mod kernel;
mod lent;
mod link;
pub mod math;
mod pass;
#[doc(hidden)]
pub mod private;
pub mod ranks;
pub mod reduction;
mod rule;
mod scalar;
mod shape;
mod storage;
mod tensor;
mod vector;
mod view;

pub use backend::{Backend, IntoBackend, transfer};
pub use between::{Between, Number, PowerOf};
pub use device::Device;
pub use error::{Error, Result};
pub use expr::{
    Binary, Comparison, Condition, Derivation, Derived, Expr, Graph, Node, NumberGraph, Unary, symbol,
};
pub use format::{Codes, Compute, Element, Format};
pub use half::{bf16, f16};
pub use kernel::{Kernel, Recorded};
pub use lent::{DeviceSlice, DeviceSliceMut, Lent, LentMut};
pub use link::{Builtins, Link};
pub use rule::scope::{GlobalAt, Groups, TensorAt};
pub use rule::{Array, Operand, Role, Rule, ScalarDef, apply};
pub use scalar::Scalar;
pub use shape::Shape;
pub use storage::{Memory, Storage};
pub use tensor::Tensor;
pub use vector::{Arithmetic, Literal, Vector};
