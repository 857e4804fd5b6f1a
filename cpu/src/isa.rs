//! Instruction sets and how one is chosen at run time.

use core::fmt;
use fallline_core::{Error, Result};

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "FALLLINE_ISA";

/// The instruction sets for which every rule is compiled. All give the same bits, but for matrix products of `bf16` on
/// AVX-512 with BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// One element at a time: the reference.
    Scalar,
    /// What the target guarantees, through `wide`: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// AVX2, FMA and F16C: 256-bit registers.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 512-bit registers.
    Avx512,
}

impl Isa {
    /// All of them, from the plainest.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Baseline, Isa::Avx2, Isa::Avx512];

    /// Returns the name that `FALLLINE_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Baseline => "baseline",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Returns whether this machine has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar | Isa::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// Returns the best that this machine has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.available()).unwrap_or(Isa::Baseline)
    }

    /// Returns the one that `FALLLINE_ISA` asks for, or the best.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a name that is none, or an instruction set that this machine lacks.
    pub fn from_environment() -> Result<Isa> {
        let Some(wanted) = std::env::var_os(VARIABLE) else { return Ok(Isa::best()) };
        let wanted = wanted.to_string_lossy();
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == wanted).ok_or_else(|| {
            let names = Isa::ALL.map(Isa::name).join(", ");
            Error::Unavailable(format!("{VARIABLE}: expected one of {names}, got {wanted:?}"))
        })?;
        isa.require()
    }

    /// Returns this instruction set, or an error unless the machine has it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it does not.
    pub fn require(self) -> Result<Isa> {
        if self.available() {
            return Ok(self);
        }
        Err(Error::Unavailable(format!("this CPU has no {self}; the best that it has is {}", Isa::best())))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the processor's name, or its architecture's where it does not tell.
pub fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::__cpuid;
        const BRAND: core::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
        if __cpuid(0x8000_0000).eax >= *BRAND.end() {
            let words = BRAND.map(__cpuid).flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
            let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).take_while(|&byte| byte != 0).collect();
            let name = String::from_utf8_lossy(&bytes).trim().to_owned();
            if !name.is_empty() {
                return name;
            }
        }
    }
    std::env::consts::ARCH.to_owned()
}

/// Compiles a function for AVX2 and for AVX-512. It makes `avx2` and `avx512` of its path, its generics in brackets
/// and the rest of its signature, with the function inlined. Who calls them vouches for the instruction set, and for
/// what the function asks.
#[cfg(target_arch = "x86_64")]
macro_rules! multiversion {
    (
        @ $name:ident $features:literal
        $vis:vis $function:path[$($generics:tt)*]($($argument:ident: $type:ty),* $(,)?)
        $(-> $result:ty)? $(where $($bounds:tt)*)?
    ) => {
        #[target_feature(enable = $features)]
        $vis unsafe fn $name<$($generics)*>($($argument: $type),*) $(-> $result)? $(where $($bounds)*)? {
            // SAFETY: the caller's contract.
            #[allow(unused_unsafe, reason = "some functions are safe")]
            unsafe {
                $function($($argument),*)
            }
        }
    };
    ($($signature:tt)*) => {
        multiversion!(@ avx2 "avx2,fma,f16c" $($signature)*);
        multiversion!(@ avx512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c" $($signature)*);
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use multiversion;
