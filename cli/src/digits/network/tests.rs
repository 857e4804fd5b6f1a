//! Tests of the network: its derivative, its extremes, its repeatability.

use super::*;
use crate::digits::data::{Digits, Examples, epoch_order};

/// Returns some training images from a place.
fn some(digits: &Digits, first: u32, count: u32) -> Examples {
    digits.train.batch(&(first..first + count).collect::<Vec<_>>())
}

/// Computes the loss in f64, one image and one sum at a time: shares no code with the network.
fn plain_loss(parameters: &[Vec<f64>], examples: &Examples) -> f64 {
    let mut total = 0.0;
    for (image, label) in examples.images.rows().into_iter().zip(&examples.labels) {
        let mut values: Vec<f64> = image.iter().map(|value| f64::from(*value)).collect();
        for (layer, pair) in parameters.chunks(2).enumerate() {
            let rows = pair[0].chunks(values.len()).zip(&pair[1]);
            let next =
                rows.map(|(row, bias)| bias + row.iter().zip(&values).map(|(w, x)| w * x).sum::<f64>());
            let last = 2 * layer + 2 == parameters.len();
            values = next.map(|value| if last { value } else { value.max(0.0) }).collect();
        }
        let sum: f64 = values.iter().map(|logit| logit.exp()).sum();
        total += sum.ln() - values[usize::from(*label)];
    }
    total / examples.labels.len() as f64
}

/// Every value of every gradient against a central difference of the plain loss.
///
/// The difference, in f64 with h = 1e-5, is good to about 1e-10. The gradient is in f32. On its way to it a number
/// goes through fewer than 64 + 7 + 5 + 10 + 12 additions and 30 other operations. These are 128 roundings of 2^-24
/// each relative to terms that are at most about 2 here: 128 · 2^-24 · 2 = 1.5e-5. (Pixels reach 11/6, derivatives
/// by logits 1 / 12 a row, weights 1.) The gradients reach 0.1 and more.
#[test]
fn gradients_are_those_of_the_loss() {
    let digits = Digits::bundled().unwrap();
    let mut network = Network::new(&[7, 5], 1).unwrap();
    for (index, parameter) in network.parameters.iter_mut().enumerate() {
        parameter.value.map_inplace(|value| *value += 0.01 * (index + 1) as f32);
    }
    // A larger batch first: what it leaves in the kept memory must not show.
    let larger = some(&digits, 100, 20);
    network.loss_and_gradients(larger.images.view(), &larger.labels);
    let examples = some(&digits, 0, 12);
    let loss = network.loss_and_gradients(examples.images.view(), &examples.labels);
    let mut values: Vec<Vec<f64>> =
        network.parameters.iter().map(|p| p.value.iter().map(|value| f64::from(*value)).collect()).collect();
    assert!((f64::from(loss) - plain_loss(&values, &examples)).abs() < 1.5e-5);
    assert_eq!(loss, network.loss(examples.images.view(), &examples.labels));
    let h = 1e-5;
    for index in 0..values.len() {
        let mut largest = 0.0_f64;
        for place in 0..values[index].len() {
            let start = values[index][place];
            values[index][place] = start + h;
            let above = plain_loss(&values, &examples);
            values[index][place] = start - h;
            let slope = (above - plain_loss(&values, &examples)) / (2.0 * h);
            values[index][place] = start;
            let parameter = &network.parameters[index];
            let gradient = f64::from(parameter.grad.as_slice().unwrap()[place]);
            let name = &parameter.name;
            assert!((gradient - slope).abs() < 1.5e-5, "{name}[{place}]: {gradient} against {slope}");
            largest = largest.max(gradient.abs());
        }
        assert!(largest > 0.02, "{}: nothing to compare, {largest}", network.parameters[index].name);
    }
}

/// Ten equal logits: a loss of ln 10, whatever their size, and the first class chosen.
#[test]
fn equal_logits_lose_ln_10() {
    let digits = Digits::bundled().unwrap();
    let (images, labels) = (digits.test.images.view(), &digits.test.labels);
    let mut network = Network::new(&[16], 0).unwrap();
    for size in [0.0, 1e4, -1e4] {
        network.parameters.iter_mut().for_each(|parameter| parameter.value.fill(0.0));
        network.parameters[3].value.fill(size);
        let loss = network.loss_and_gradients(images, labels);
        assert!((loss - 10.0_f32.ln()).abs() < 1e-6, "{loss}");
        let zeros = labels.iter().filter(|label| **label == 0).count();
        assert_eq!(network.accuracy(images, labels), zeros as f64 / 360.0);
    }
}

/// Logits far apart neither overflow nor lose the loss; what is not a number is not hidden.
#[test]
fn extreme_logits_are_handled() {
    let logits = Array2::from_shape_fn((1, 10), |(_, class)| if class == 3 { 1e30 } else { -1e30 });
    let mut delta = logits.clone();
    assert_eq!(loss_and_delta(logits.view(), &[3], delta.view_mut()), 0.0);
    assert!(delta.iter().all(|value| *value == 0.0));
    assert_eq!(loss_and_delta(logits.view(), &[0], delta.view_mut()), 2e30);
    assert_eq!((delta[[0, 0]], delta[[0, 3]]), (-1.0, 1.0));

    let digits = Digits::bundled().unwrap();
    let mut network = Network::new(&[16], 0).unwrap();
    network.parameters[0].value.fill(f32::NAN);
    let (images, labels) = (digits.test.images.view(), &digits.test.labels);
    assert!(network.loss_and_gradients(images, labels).is_nan());
    assert!(network.parameters[0].grad.iter().all(|value| value.is_nan()));
    assert_eq!(network.accuracy(images, labels), 0.0);
    assert!(Network::new(&[16], 0).unwrap().loss_and_gradients(images.slice(s![..0, ..]), &[]).is_nan());
}

/// Names, shapes and the first values: bounds, zero biases, one network per seed.
#[test]
fn the_start_depends_on_the_seed_alone() {
    let network = Network::new(&[128, 32], 5).unwrap();
    let names: Vec<&str> = network.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(names, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"]);
    let shapes: Vec<&[usize]> = network.parameters.iter().map(|parameter| parameter.grad.shape()).collect();
    assert_eq!(shapes, [&[128, 64][..], &[128], &[32, 128], &[32], &[10, 32], &[10]]);
    for (layer, bound) in
        [(6.0_f32 / 64.0).sqrt(), (6.0_f32 / 128.0).sqrt(), (3.0_f32 / 32.0).sqrt()].into_iter().enumerate()
    {
        let weight = &network.parameters[2 * layer].value;
        let variance = weight.mapv(|value| value * value).mean().unwrap();
        assert!(weight.iter().all(|value| value.abs() <= bound));
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.25, "layer {layer}: {variance}");
        assert!(network.parameters[2 * layer + 1].value.iter().all(|value| *value == 0.0));
    }
    assert_eq!(network.parameters, Network::new(&[128, 32], 5).unwrap().parameters);
    assert_ne!(network.parameters, Network::new(&[128, 32], 6).unwrap().parameters);
}

/// Four epochs of plain AdamW learn most of the digits, and twice the same way.
#[test]
fn it_learns_and_repeats_bit_for_bit() {
    let digits = Digits::bundled().unwrap();
    let train = || {
        let mut network = Network::new(&[48], 0).unwrap();
        let mut moments: Vec<_> =
            network.parameters.iter().map(|p| (p.grad.clone(), p.grad.clone())).collect();
        let mut step = 0;
        for epoch in 0..4 {
            for indices in epoch_order(0, epoch).chunks(32) {
                let batch = digits.train.batch(indices);
                network.loss_and_gradients(batch.images.view(), &batch.labels);
                step += 1;
                let rate = 5e-3 / (1.0 - 0.9_f32.powi(step));
                let scale = 1.0 - 0.999_f32.powi(step);
                for (parameter, (mean, square)) in network.parameters.iter_mut().zip(&mut moments) {
                    Zip::from(&mut parameter.value).and(&parameter.grad).and(mean).and(square).for_each(
                        |value, grad, mean, square| {
                            *mean += 0.1 * (grad - *mean);
                            *square += 0.001 * (grad * grad - *square);
                            *value *= 1.0 - 5e-4;
                            *value -= rate * *mean / ((*square / scale).sqrt() + 1e-8);
                        },
                    );
                }
            }
        }
        network
    };
    let network = train();
    let accuracy = network.accuracy(digits.test.images.view(), &digits.test.labels);
    assert!(accuracy > 0.93, "{accuracy}");
    assert_eq!(network.parameters, train().parameters);
}
