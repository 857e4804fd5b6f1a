//! A multilayer perceptron with its derivative written out, in place of a framework.
//!
//! Each layer is `z = x Wᵀ + b`, and a ReLU follows all but the last. The loss is the mean over the batch of the
//! cross entropy of the softmax of the last `z`. On one machine the same calls give bitwise identical results:
//! nothing here depends on threads, on time or on where memory lies.

use super::{
    SplitMix64,
    data::{CLASSES, PIXELS},
};
use fallline::core::{Result, fallible};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayD, ArrayView1, ArrayView2, ArrayViewMut2, IxDyn, Zip, s};

/// The first of the generator's streams that the parameters use; the orders of the epochs use those from 0.
const FIRST_STREAM: u64 = 1 << 32;

/// A tensor that training changes, with its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// `fc1.weight`, `fc1.bias`, `fc2.weight`, … from the pixels to the logits.
    pub name: String,
    /// The values; a weight has a row for each output and a column for each input.
    pub value: ArrayD<f32>,
    /// The derivative of the last loss by each value, of the same shape.
    pub grad: ArrayD<f32>,
}

/// The network: its parameters, and memory kept from one batch to the next.
#[derive(Debug, Clone)]
pub struct Network {
    /// The weight and the bias of each layer in turn. Values may be changed, shapes may not.
    pub parameters: Vec<Parameter>,
    /// What the loss is multiplied by before its derivative is taken.
    pub loss_scale: f32,
    /// Each layer's output for the largest batch so far; the batch at hand fills the first rows.
    outputs: Vec<Array2<f32>>,
    /// The derivative of the loss by each layer's output before its ReLU, likewise.
    deltas: Vec<Array2<f32>>,
}

impl Network {
    /// Creates a network from the pixels through layers of these widths to the classes, initialised from `seed`.
    ///
    /// The weights are uniform with variance `2 / inputs` where a ReLU follows and `1 / inputs` in the last
    /// layer (K. He and others, 'Delving deep into rectifiers', 2015); the biases are 0. The caller sees to it
    /// that no width is 0: such a layer lets nothing through.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(hidden: &[usize], seed: u64) -> Result<Self> {
        let mut parameters = Vec::new();
        for (layer, (name, shape)) in shapes(hidden).enumerate() {
            let length = shape.iter().fold(1, |length: usize, &extent| length.saturating_mul(extent));
            let values = match shape[..] {
                [_, inputs] => {
                    let gain = if layer / 2 < hidden.len() { 2.0 } else { 1.0 };
                    let bound = (3.0 * gain / inputs as f64).sqrt() as f32;
                    let mut generator = SplitMix64::stream(seed, FIRST_STREAM + (layer / 2) as u64);
                    fallible::collected((0..length).map(|_| bound * generator.symmetric()), &name)?
                }
                _ => fallible::zeroed(length, &name)?,
            };
            let grad = fallible::zeroed(length, format_args!("the gradient of {name}"))?;
            let [value, grad] = [values, grad].map(|values| array(&shape, values));
            parameters.push(Parameter { name, value, grad });
        }
        let empty: Vec<_> = hidden.iter().chain(&[CLASSES]).map(|width| Array2::zeros((0, *width))).collect();
        Ok(Network { parameters, loss_scale: 1.0, outputs: empty.clone(), deltas: empty })
    }

    /// Computes the mean loss over the batch, and its derivative by every value in the parameters' `grad`, times
    /// the loss scale.
    ///
    /// A batch of none has no mean: the loss is NaN and the gradients are 0.
    ///
    /// # Panics
    /// If the images and the labels differ in number, an image has not [`PIXELS`] values or a label is not below
    /// [`CLASSES`].
    #[cfg(test)]
    pub fn loss_and_gradients(&mut self, images: ArrayView2<'_, f32>, labels: &[u8]) -> f32 {
        self.loss_and_each_gradient(images, labels, |_| {})
    }

    /// As `loss_and_gradients`, but `ready` gets each parameter as soon as its gradient is ready. Parameters come
    /// from the last layer to the first: those of earlier layers are still to be computed.
    ///
    /// # Panics
    /// As `loss_and_gradients`.
    pub fn loss_and_each_gradient(
        &mut self,
        images: ArrayView2<'_, f32>,
        labels: &[u8],
        mut ready: impl FnMut(&Parameter),
    ) -> f32 {
        let count = images.nrows();
        let layers = self.outputs.len();
        for buffer in self.outputs.iter_mut().chain(&mut self.deltas) {
            if buffer.nrows() < count {
                *buffer = Array2::zeros((count, buffer.ncols()));
            }
        }
        for layer in 0..layers {
            let (before, after) = self.outputs.split_at_mut(layer);
            let input = before.last().map_or(images, |output| output.slice(s![..count, ..]));
            apply(&self.parameters, layer, input, after[0].slice_mut(s![..count, ..]));
        }
        let logits = self.outputs[layers - 1].slice(s![..count, ..]);
        let loss = loss_and_delta(logits, labels, self.deltas[layers - 1].slice_mut(s![..count, ..]));
        if self.loss_scale != 1.0 {
            self.deltas[layers - 1].slice_mut(s![..count, ..]).map_inplace(|delta| *delta *= self.loss_scale);
        }
        for layer in (0..layers).rev() {
            let (before, after) = self.deltas.split_at_mut(layer);
            let delta = after[0].slice(s![..count, ..]);
            let input = match layer {
                0 => images,
                _ => self.outputs[layer - 1].slice(s![..count, ..]),
            };
            let (weights, biases) = self.parameters.split_at_mut(2 * layer + 1);
            let (weight, bias) = (&mut weights[2 * layer], &mut biases[0]);
            bias.grad.fill(0.0);
            for row in delta.rows() {
                bias.grad += &row;
            }
            ready(bias);
            if let Some(below) = before.last_mut() {
                let mut below = below.slice_mut(s![..count, ..]);
                general_mat_mul(1.0, &delta, &matrix(&weight.value), 0.0, &mut below);
                // The ReLU's derivative, 0 at 0. What is not a number stays so, and is seen.
                Zip::from(&mut below).and(&input).for_each(|delta, output| {
                    if *output <= 0.0 {
                        *delta = 0.0;
                    }
                });
            }
            general_mat_mul(1.0, &delta.t(), &input, 0.0, &mut matrix_mut(&mut weight.grad));
            ready(weight);
        }
        loss
    }

    /// Returns the logits of each image: the logarithms of the classes' odds, up to a number common to the row.
    ///
    /// # Panics
    /// If an image has not [`PIXELS`] values.
    pub fn logits(&self, images: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut last = images.to_owned();
        for (layer, output) in self.outputs.iter().enumerate() {
            let mut next = Array2::zeros((images.nrows(), output.ncols()));
            apply(&self.parameters, layer, last.view(), next.view_mut());
            last = next;
        }
        last
    }

    /// Returns the mean loss over the images, without gradients.
    ///
    /// # Panics
    /// As [`loss_and_each_gradient`](Network::loss_and_each_gradient).
    pub fn loss(&self, images: ArrayView2<'_, f32>, labels: &[u8]) -> f32 {
        let logits = self.logits(images);
        let mut delta = logits.clone();
        loss_and_delta(logits.view(), labels, delta.view_mut())
    }

    /// Returns the share of the images, from 0 to 1, whose largest logit is the label's; of none, NaN.
    ///
    /// Of equal logits the first counts; a row that is not all numbers counts as wrong.
    ///
    /// # Panics
    /// If the images and the labels differ in number or an image has not [`PIXELS`] values.
    pub fn accuracy(&self, images: ArrayView2<'_, f32>, labels: &[u8]) -> f64 {
        let logits = self.logits(images);
        assert_eq!(logits.nrows(), labels.len(), "one label an image");
        let right =
            logits.rows().into_iter().zip(labels).filter(|(row, label)| choice(*row) == Some(**label));
        right.count() as f64 / labels.len() as f64
    }
}

/// Returns the name and the shape of each parameter of a network with hidden layers of these widths.
pub fn shapes(hidden: &[usize]) -> impl Iterator<Item = (String, Vec<usize>)> {
    let inputs = [PIXELS].into_iter().chain(hidden.iter().copied());
    let outputs = hidden.iter().copied().chain([CLASSES]);
    inputs.zip(outputs).zip(1..).flat_map(|((inputs, outputs), layer)| {
        [(format!("fc{layer}.weight"), vec![outputs, inputs]), (format!("fc{layer}.bias"), vec![outputs])]
    })
}

/// Returns the elements of all parameters of such a network; none where they are too many to count.
pub fn elements(hidden: &[usize]) -> Option<usize> {
    shapes(hidden).try_fold(0usize, |all, (_, shape)| {
        let own = shape.iter().try_fold(1usize, |own, &extent| own.checked_mul(extent));
        all.checked_add(own?)
    })
}

/// Returns the bytes that training such a network takes: its parameters, their gradients and `states` states of them,
/// the outputs of its layers for a batch and their derivatives, and what a test of so many images takes. None where they
/// are too many to count.
pub fn bytes(hidden: &[usize], states: usize, batch: usize, tested: usize) -> Option<usize> {
    let widths = hidden.iter().try_fold(CLASSES, |all, &width| all.checked_add(width))?;
    let widest = hidden.iter().copied().max().unwrap_or(CLASSES);
    let parameters = elements(hidden)?.checked_mul(states.checked_add(2)?)?;
    let outputs = widths.checked_mul(batch)?.checked_mul(2)?;
    let test = widest.checked_mul(tested)?.checked_mul(2)?;
    parameters.checked_add(outputs)?.checked_add(test)?.checked_mul(size_of::<f32>())
}

/// Returns an array of this shape with these elements.
fn array(shape: &[usize], values: Vec<f32>) -> ArrayD<f32> {
    match ArrayD::from_shape_vec(IxDyn(shape), values) {
        Ok(array) => array,
        Err(problem) => unreachable!("there are as many elements as the shape has: {problem}"),
    }
}

/// Writes the layer's output for `input`: after its ReLU, or the logits if it is the last.
fn apply(
    parameters: &[Parameter],
    layer: usize,
    input: ArrayView2<'_, f32>,
    mut output: ArrayViewMut2<'_, f32>,
) {
    let (weight, bias) = (&parameters[2 * layer], &parameters[2 * layer + 1]);
    for mut row in output.rows_mut() {
        row.assign(&bias.value);
    }
    general_mat_mul(1.0, &input, &matrix(&weight.value).t(), 1.0, &mut output);
    if 2 * layer + 2 < parameters.len() {
        // Not `max`, which would turn what is not a number into 0.
        output.map_inplace(|value| {
            if *value < 0.0 {
                *value = 0.0;
            }
        });
    }
}

/// Returns the mean cross entropy of the softmax of the rows, and its derivative by each logit.
///
/// The largest logit is subtracted before the exponentials, so that none overflows and one of them is 1.
fn loss_and_delta(logits: ArrayView2<'_, f32>, labels: &[u8], mut delta: ArrayViewMut2<'_, f32>) -> f32 {
    assert_eq!(logits.nrows(), labels.len(), "one label an image");
    let count = labels.len() as f32;
    let mut total = 0.0_f64;
    for ((row, mut delta), label) in logits.rows().into_iter().zip(delta.rows_mut()).zip(labels) {
        let label = usize::from(*label);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0_f32;
        for (delta, logit) in delta.iter_mut().zip(row) {
            *delta = (logit - largest).exp();
            sum += *delta;
        }
        total += f64::from(sum.ln() + (largest - row[label]));
        delta.map_inplace(|share| *share /= sum * count);
        delta[label] -= 1.0 / count;
    }
    (total / f64::from(count)) as f32
}

/// Returns the place of the first largest value; none where a value is not a number.
fn choice(row: ArrayView1<'_, f32>) -> Option<u8> {
    let mut best = 0;
    for (place, value) in row.iter().enumerate() {
        if value.is_nan() {
            return None;
        }
        if *value > row[best] {
            best = place;
        }
    }
    u8::try_from(best).ok()
}

/// Returns a weight as the matrix that it was made as.
fn matrix(array: &ArrayD<f32>) -> ArrayView2<'_, f32> {
    array.view().into_dimensionality().expect("a weight has two dimensions")
}

/// Returns a weight's gradient as the matrix that it was made as.
fn matrix_mut(array: &mut ArrayD<f32>) -> ArrayViewMut2<'_, f32> {
    array.view_mut().into_dimensionality().expect("a weight has two dimensions")
}

#[cfg(test)]
mod tests;
