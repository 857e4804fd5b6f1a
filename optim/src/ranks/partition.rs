//! Who updates which parameter.

use crate::order::sort_places;

/// Partitions parameters of these sizes over `world` ranks, as torch's `ZeroRedundancyOptimizer` does. The largest
/// come first (of equal ones the earlier), each to the rank that has least so far (of equal ones the first). `has` is
/// what the ranks have already, and what they have afterwards. Returns each parameter's rank.
///
/// ```
/// use fallline_optim::ranks::partition;
/// assert_eq!(partition(&[5, 30, 10, 20], &mut [0, 0]), [0, 0, 1, 1]);
/// assert_eq!(partition(&[1], &mut [0, 0, 0]), [0]);
/// ```
///
/// # Panics
/// When there is no rank.
pub fn partition(sizes: &[usize], has: &mut [u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    sort_places(&mut order, &mut |one, other| sizes[other].cmp(&sizes[one]).then(one.cmp(&other)));
    let mut ranks = vec![0; sizes.len()];
    for i in order {
        let least = (0..has.len()).min_by_key(|&rank| has[rank]).expect("a world has at least one rank");
        ranks[i] = least;
        has[least] += sizes[i] as u64;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::partition;

    /// What torch 2.15's `ZeroRedundancyOptimizer._partition_parameters` gives for worlds of 2, 3 and 4.
    #[test]
    fn parameters_go_where_torch_gives_them() {
        let cases: [(&[usize], [&[usize]; 3]); 4] = [
            (&[3, 40, 7, 0, 1, 300], [&[1, 1, 1, 1, 1, 0], &[2, 1, 2, 2, 2, 0], &[3, 1, 2, 3, 3, 0]]),
            (&[10, 10, 10, 10, 10], [&[0, 1, 0, 1, 0], &[0, 1, 2, 0, 1], &[0, 1, 2, 3, 0]]),
            (
                &[1, 2, 3, 4, 5, 6, 7, 8, 9],
                [&[0, 0, 1, 1, 0, 0, 1, 1, 0], &[2, 1, 0, 0, 1, 2, 2, 1, 0], &[0, 0, 1, 2, 3, 3, 2, 1, 0]],
            ),
            (&[401_408, 512, 5120, 10], [&[0, 1, 1, 1], &[0, 2, 1, 2], &[0, 2, 1, 3]]),
        ];
        for (sizes, expected) in cases {
            for (world, expected) in (2..).zip(expected) {
                assert_eq!(partition(sizes, &mut vec![0; world]), expected, "{sizes:?} over {world}");
            }
        }
    }
}
