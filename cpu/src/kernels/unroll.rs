//! Loops over operands that are written out: a loop over them would keep registers in memory.

use fallline_core::Rule;
use fallline_core::backend::MAX_OPERANDS;

/// Repeats the body for each operand of a rule, whose place is a constant there. Conditions on it belong in `const { … }`:
/// what they exclude is then never compiled, for any rule.
macro_rules! for_each_operand {
    ($rule:ident, $k:ident => $body:block) => {
        $crate::kernels::unroll::for_each_operand!(@ $rule, $k => $body; 0 1 2 3 4 5 6 7)
    };
    (@ $rule:ident, $k:ident => $body:block; $($operand:literal)*) => { $(
        if const { $operand < $rule::OPERANDS.len() } {
            const $k: usize = $operand;
            $body
        }
    )* };
}
pub(super) use for_each_operand;

/// Returns whether a rule has an operand `k` and writes it. Constants are evaluated also where [`for_each_operand`] has
/// nothing to compile, so that there may be none.
pub(super) const fn is_written<R: Rule>(k: usize) -> bool {
    k < R::OPERANDS.len() && R::OPERANDS[k].written
}

const _: () = assert!(MAX_OPERANDS == 8, "for_each_operand has as many bodies");
