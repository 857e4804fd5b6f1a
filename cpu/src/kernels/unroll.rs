//! Loops over operands that are written out: a loop over them would keep registers in memory.

use fallline_core::backend::MAX_OPERANDS;

/// Repeats the body for each operand.
macro_rules! for_each_operand {
    ($count:ident, $k:ident => $body:block) => {
        $crate::kernels::unroll::for_each_operand!(@ $count, $k => $body; 0 1 2 3 4 5 6 7)
    };
    (@ $count:ident, $k:ident => $body:block; $($operand:literal)*) => { $(
        if $operand < $count {
            let $k: usize = $operand;
            $body
        }
    )* };
}
pub(super) use for_each_operand;
const _: () = assert!(MAX_OPERANDS == 8, "for_each_operand has as many bodies");
