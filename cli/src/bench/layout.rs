//! Tensor layouts of a benchmark.

use fallline::core::{Result, fallible};

/// A tensor layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// One tensor
    Flat,
    /// The 161 parameters of ResNet-50, 25,557,032 elements
    Resnet50,
    /// Tensors of 1,000 elements
    Small,
    /// Tensors of 1,000 elements that are slices of one buffer
    SmallFlat,
    /// One matrix, as square as possible
    Matrix,
}

impl Layout {
    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Flat => "flat",
            Layout::Resnet50 => "resnet50",
            Layout::Small => "small",
            Layout::SmallFlat => "small-flat",
            Layout::Matrix => "matrix",
        }
    }

    /// Returns whether each tensor has separate buffers.
    pub fn is_owned(self) -> bool {
        self != Layout::SmallFlat
    }

    /// Returns the tensors' shapes.
    ///
    /// # Errors
    /// When there is no memory for so many tensors.
    pub fn shapes(self, elements: usize) -> Result<Vec<Vec<usize>>> {
        /// Bytes of a tensor's shape, name, binding and slot.
        const TENSOR: usize = 1024;
        if matches!(self, Layout::Small | Layout::SmallFlat) {
            fallible::check((elements / 1000).checked_mul(TENSOR), "the tensors of --elements")?;
        }
        Ok(match self {
            Layout::Matrix => {
                let rows = elements.isqrt().max(1);
                vec![vec![rows, elements / rows]]
            }
            _ => self.tensors(elements).into_iter().map(|length| vec![length]).collect(),
        })
    }

    /// Returns the lengths of vectors.
    fn tensors(self, elements: usize) -> Vec<usize> {
        match self {
            Layout::Flat | Layout::Matrix => vec![elements],
            Layout::Small | Layout::SmallFlat => {
                let mut tensors = vec![1000; elements / 1000];
                tensors.extend(Some(elements % 1000).filter(|&rest| rest > 0));
                tensors
            }
            Layout::Resnet50 => resnet50(),
        }
    }
}

/// Returns the lengths of ResNet-50's tensors (He et al. 2016): a stem, four stages of bottleneck blocks, and a
/// classifier. The scale and shift of its batch normalisation follow each convolution.
fn resnet50() -> Vec<usize> {
    let mut tensors = Vec::new();
    let mut convolution = |from: usize, to: usize, kernel: usize| {
        tensors.extend([from * to * kernel * kernel, to, to]);
    };
    convolution(3, 64, 7);
    let mut from = 64;
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        for block in 0..blocks {
            convolution(from, width, 1);
            convolution(width, width, 3);
            convolution(width, 4 * width, 1);
            if block == 0 {
                convolution(from, 4 * width, 1);
            }
            from = 4 * width;
        }
    }
    tensors.extend([from * 1000, 1000]);
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resnet50_has_the_known_size() {
        let tensors = Layout::Resnet50.tensors(0);
        assert_eq!((tensors.len(), tensors.iter().sum::<usize>()), (161, 25_557_032));
    }

    #[test]
    fn small_tensors_add_up() {
        assert_eq!(Layout::Small.tensors(2500), [1000, 1000, 500]);
        assert_eq!(Layout::Small.tensors(3000).len(), 3);
        assert_eq!(Layout::Matrix.shapes(1 << 24).unwrap(), [[4096, 4096]]);
        assert_eq!(Layout::Matrix.shapes(10).unwrap(), [[3, 3]]);
        assert_eq!(Layout::Small.shapes(1500).unwrap(), [[1000], [500]]);
    }
}
