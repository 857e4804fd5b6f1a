//! What a vector register can do.
//!
//! Each is a thin newtype with one line an operation; everything above it is generic.

use fallline_core::{Literal, Scalar, Vector, codec};

/// The type in which a kernel calculates.
pub(crate) trait Number: bytemuck::Pod + Send + Sync + Default {
    /// Converts from a scalar of the step.
    fn from_f64(x: f64) -> Self;
    /// Converts to a partial sum.
    fn to_f64(self) -> f64;
    /// Returns `self + other`.
    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    ($t:ty) => {
        impl Number for $t {
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    };
}
number!(f32);
number!(f64);

/// The widest register, in elements.
pub(crate) const WIDEST: usize = 16;

/// A vector register of `LANES` numbers.
///
/// Registers of an instruction set that the target does not guarantee may only be used below a function with its
/// `target_feature`. Everything here is inlined into it.
pub(crate) trait Register: Vector
where
    f64: Literal<Self>,
{
    /// The type of its elements.
    type Number: Number;
    /// How many there are.
    const LANES: usize;

    /// Loads `LANES` elements.
    ///
    /// # Safety
    /// `from` is valid for reading them, at any alignment.
    unsafe fn load(from: *const Self::Number) -> Self;

    /// Stores `LANES` elements.
    ///
    /// # Safety
    /// `to` is valid for writing them, at any alignment.
    unsafe fn store(self, to: *mut Self::Number);

    /// Loads the first `count` elements; the others are zero.
    ///
    /// # Safety
    /// `from` is valid for reading `count` elements, and `count < LANES`.
    #[inline(always)]
    unsafe fn load_first(from: *const Self::Number, count: usize) -> Self {
        let mut buffer = [Self::Number::default(); WIDEST];
        // SAFETY: `count < LANES <= WIDEST`, and the caller vouches for `from`.
        unsafe {
            core::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count);
            Self::load(buffer.as_ptr())
        }
    }

    /// Loads `LANES` elements that are stored as bfloat16.
    ///
    /// # Safety
    /// `from` is valid for reading them, at any alignment.
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let mut buffer = [Self::Number::default(); WIDEST];
        for (i, number) in buffer[..Self::LANES].iter_mut().enumerate() {
            // SAFETY: the caller vouches for `from`.
            let bits = unsafe { from.add(i).read_unaligned() };
            *number = Self::Number::from_f64(f64::from(codec::f32_from_bf16(bits)));
        }
        // SAFETY: the buffer holds the widest register.
        unsafe { Self::load(buffer.as_ptr()) }
    }

    /// Rounds `LANES` elements to bfloat16.
    ///
    /// # Safety
    /// `to` is valid for writing them, at any alignment.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let mut buffer = [Self::Number::default(); WIDEST];
        // SAFETY: the buffer holds the widest register, and the caller vouches for `to`.
        unsafe {
            self.store(buffer.as_mut_ptr());
            for (i, number) in buffer[..Self::LANES].iter().enumerate() {
                to.add(i).write_unaligned(codec::bf16_from_f64(number.to_f64()));
            }
        }
    }

    /// Stores the first `count` elements.
    ///
    /// # Safety
    /// `to` is valid for writing `count` elements, and `count < LANES`.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut Self::Number, count: usize) {
        let mut buffer = [Self::Number::default(); WIDEST];
        // SAFETY: `count < LANES <= WIDEST`, and the caller vouches for `to`.
        unsafe {
            self.store(buffer.as_mut_ptr());
            core::ptr::copy_nonoverlapping(buffer.as_ptr(), to, count);
        }
    }
}

macro_rules! scalar_register {
    ($t:ty) => {
        impl Register for Scalar<$t> {
            type Number = $t;
            const LANES: usize = 1;
            #[inline(always)]
            unsafe fn load(from: *const $t) -> Self {
                // SAFETY: the caller vouches for one element.
                Scalar(unsafe { from.read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t) {
                // SAFETY: the caller vouches for one element.
                unsafe { to.write_unaligned(self.0) }
            }
        }
    };
}
scalar_register!(f32);
scalar_register!(f64);

/// Declares a register: a newtype, its arithmetic as one expression an operation, its memory.
macro_rules! register {
    (
        $(#[$meta:meta])* $name:ident($raw:ty) of $lanes:literal $number:ty, mask $mask:ty;
        splat($x:ident) $lit:expr;
        ($a:ident, $b:ident) add $plus:expr; sub $minus:expr; mul $times:expr; div $over:expr;
        min $min:expr; max $max:expr; lt $lt:expr; le $le:expr; eq $eq:expr;
        neg $negate:expr; sqrt $sqrt:expr; abs $abs:expr;
        select($m:ident) $select:expr;
        memory($p:ident) load $load:expr; store $store:expr;
        $(first($count:ident) load $load_first:expr; store $store_first:expr;)?
        $(bf16($q:ident) load $load_bf16:expr; store $store_bf16:expr;)?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub(crate) struct $name(pub(crate) $raw);

        impl fallline_core::private::Sealed for $name {}

        // SAFETY (of every block here): the intrinsics need nothing but their instruction set. This register is used
        // only below functions that enable it (see `Register`).
        #[allow(unused_unsafe, clippy::undocumented_unsafe_blocks)]
        impl fallline_core::Arithmetic for $name {
            type Mask = $mask;
            #[inline(always)]
            fn splat($x: f64) -> Self {
                let $x = $x as $number;
                $name(unsafe { $lit })
            }
            register!(@binary $name, $a, $b, add $plus, sub $minus, mul $times, div $over, min $min, max $max);
            register!(@compare $mask, $a, $b, lt $lt, le $le, eq $eq);
            register!(@unary $name, $a, neg $negate, sqrt $sqrt, abs $abs);
            #[inline(always)]
            fn select($m: $mask, yes: Self, no: Self) -> Self {
                let ($a, $b) = (yes.0, no.0);
                $name(unsafe { $select })
            }
        }
        fallline_core::operators!($name);

        impl $crate::vector::Register for $name {
            type Number = $number;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn load($p: *const $number) -> Self {
                // SAFETY: the caller vouches for the memory and the instruction set.
                $name(unsafe { $load })
            }
            #[inline(always)]
            unsafe fn store(self, $p: *mut $number) {
                let $a = self.0;
                // SAFETY: the caller vouches for the memory and the instruction set.
                unsafe { $store }
            }
            $(
            #[inline(always)]
            unsafe fn load_first($p: *const $number, $count: usize) -> Self {
                // SAFETY: the caller vouches for the memory and the instruction set.
                $name(unsafe { $load_first })
            }
            #[inline(always)]
            unsafe fn store_first(self, $p: *mut $number, $count: usize) {
                let $a = self.0;
                // SAFETY: the caller vouches for the memory and the instruction set.
                unsafe { $store_first }
            }
            )?
            $(
            #[inline(always)]
            unsafe fn load_bf16($q: *const u16) -> Self {
                // SAFETY: the caller vouches for the memory and the instruction set.
                $name(unsafe { $load_bf16 })
            }
            #[inline(always)]
            unsafe fn store_bf16(self, $q: *mut u16) {
                let $a = self.0;
                // SAFETY: the caller vouches for the memory and the instruction set.
                unsafe { $store_bf16 }
            }
            )?
        }
    };
    (@binary $name:ident, $a:ident, $b:ident, $($method:ident $expr:expr),*) => { $(
        #[inline(always)]
        fn $method(self, other: Self) -> Self {
            let ($a, $b) = (self.0, other.0);
            $name(unsafe { $expr })
        }
    )* };
    (@compare $mask:ty, $a:ident, $b:ident, $($method:ident $expr:expr),*) => { $(
        #[inline(always)]
        fn $method(self, other: Self) -> $mask {
            let ($a, $b) = (self.0, other.0);
            unsafe { $expr }
        }
    )* };
    (@unary $name:ident, $a:ident, $($method:ident $expr:expr),*) => { $(
        #[inline(always)]
        fn $method(self) -> Self {
            let $a = self.0;
            $name(unsafe { $expr })
        }
    )* };
}
pub(super) use register;
