//! Averages in the place of parameters, and back.

use crate::{bits, devices, numbers};
use fallline::algorithms::{AdamW, AdamWScheduleFree, Sgd};
use fallline::optim::ParamPrecision;
use fallline::prelude::*;
use std::sync::Arc;

/// Steps a vector, a half, a tensor and a view that is not contiguous.
struct Model {
    vector: Vec<f32>,
    half: Vec<bf16>,
    tensor: Tensor,
    half_tensor: Tensor,
    matrix: ndarray::Array2<f32>,
}

impl Model {
    fn new(device: &Arc<dyn Backend>) -> fallline::Result<Model> {
        Ok(Model {
            vector: numbers(5, 1),
            half: numbers(5, 2).into_iter().map(bf16::from_f32).collect(),
            tensor: Tensor::from_slice(device, &numbers(5, 3), [5])?,
            half_tensor: Tensor::from_slice(
                device,
                &numbers(5, 3).into_iter().map(bf16::from_f32).collect::<Vec<_>>(),
                [5],
            )?,
            matrix: ndarray::Array2::from_shape_fn((2, 2), |(i, j)| (i + 3 * j) as f32 / 7.0),
        })
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut [Binding<'_>]) -> T) -> T {
        let (grad, square) = (numbers(5, 4), ndarray::Array2::from_elem((2, 2), 0.3f32));
        let mut turned = self.matrix.view_mut().reversed_axes();
        work(&mut [
            param("vector", &mut self.vector, &grad),
            param("half", &mut self.half, &grad),
            param("tensor", &mut self.tensor, &grad),
            param("half tensor", &mut self.half_tensor, &grad),
            param("matrix", &mut turned, &square),
        ])
    }

    fn bits(&self) -> fallline::Result<Vec<Vec<u32>>> {
        let half = self.half.iter().map(|x| u32::from(x.to_bits())).collect();
        let matrix: Vec<f32> = self.matrix.t().iter().copied().collect();
        let [tensor, half_tensor] = [&self.tensor, &self.half_tensor].map(Tensor::to_vec::<f32>);
        Ok(vec![bits(&self.vector), half, bits(&tensor?), bits(&half_tensor?), bits(&matrix)])
    }
}

#[test]
fn twice_is_the_identity_to_the_bit() -> fallline::Result<()> {
    let precisions = [ParamPrecision::RoundToNearest, ParamPrecision::MasterWeights];
    let cases =
        devices()?.into_iter().flat_map(|device| precisions.map(|precision| (device.clone(), precision)));
    for (device, precision) in cases {
        let (mut model, mut straight) = (Model::new(&device)?, Model::new(&device)?);
        let build = || -> fallline::Result<Driver> {
            let adamw = AdamW { lr: 0.1, ..Default::default() };
            let mut optimizer = adamw.clone().on(&device)?.group_named(&["half"], adamw)?;
            optimizer.set_param_precision(1, precision)?;
            Ok(optimizer.averaged(Average::ema(0.75)?))
        };
        let (mut swapped, mut plain) = (build()?, build()?);
        for _ in 0..3 {
            model.with(|params| swapped.step(params))?;
            straight.with(|params| plain.step(params))?;
            let trained = model.bits()?;
            assert!(!swapped.holds_average());
            model.with(|params| swapped.swap_average(params))?;
            assert!(swapped.holds_average());

            let rounded = |x: f64| u32::from(bf16::from_f64(x).to_bits());
            let average = |name: &str, as_half: bool| -> fallline::Result<Vec<u32>> {
                let average = swapped.average(name)?.ok_or(String::from("an average"))?;
                Ok(average.iter().map(|&x| if as_half { rounded(x) } else { (x as f32).to_bits() }).collect())
            };
            let averages = vec![
                average("vector", false)?,
                average("half", true)?,
                average("tensor", false)?,
                average("half tensor", true)?.iter().map(|x| x << 16).collect(),
                average("matrix", false)?,
            ];
            assert_eq!(model.bits()?, averages);
            model.with(|params| swapped.swap_average(params))?;
            assert_eq!(model.bits()?, trained);
        }
        assert_eq!(model.bits()?, straight.bits()?);
        assert!(swapped.save()? == plain.save()?);
    }
    Ok(())
}

#[test]
fn what_makes_no_sense_is_an_error() -> fallline::Result<()> {
    let said = |error: fallline::optim::Error| error.to_string();
    let mut model = Model::new(&Cpu::scalar().shared())?;
    let mut none = AdamW::default().on(Cpu::scalar())?;
    let swapped = model.with(|params| none.swap_average(params)).map_err(said).err();
    assert_eq!(swapped.as_deref(), Some("AdamW: it keeps no average of the weights (Driver::averaged)"));

    let mut optimizer = Sgd::default().on(Cpu::scalar())?.averaged(Average::ema(0.5)?);
    let swapped = model.with(|params| optimizer.swap_average(params)).map_err(said).err();
    assert_eq!(swapped.as_deref(), Some("SGD: there is no average of the weights before the first step"));
    model.with(|params| optimizer.step(params))?;
    let before = model.bits()?;
    let some = model.with(|params| optimizer.swap_average(&mut params[1..])).map_err(said).err();
    assert_eq!(some.as_deref(), Some("SGD: \"vector\" has an average, but is not bound"));
    let (mut a, mut b) = (numbers(5, 1), numbers(5, 1));
    let twice = &mut [frozen("vector", &mut a), frozen("vector", &mut b)];
    let twice = optimizer.swap_average(twice).map_err(said).err();
    assert_eq!(twice.as_deref(), Some("parameter \"vector\" was given twice in one step"));
    assert_eq!(model.bits()?, before);

    // With averages in the parameters nothing goes on, until the weights are back or a checkpoint is loaded.
    let saved = optimizer.save()?;
    model.with(|params| optimizer.swap_average(params))?;
    let problem = |operation: &str| {
        format!(
            "the parameters hold their averages: call swap_average again, with the same parameters, before {operation}"
        )
    };
    let step = model.with(|params| optimizer.step(params).map(drop)).map_err(said).err();
    assert_eq!(step, Some(problem("a step")));
    assert_eq!(optimizer.save().map(drop).map_err(said).err(), Some(problem("saving")));
    assert!(optimizer.begin().is_err());
    let some = model.with(|params| optimizer.swap_average(&mut params[1..])).map_err(said).err();
    assert_eq!(some.as_deref(), Some("SGD: \"vector\" holds its average, but is not bound"));
    model.with(|params| optimizer.swap_average(params))?;
    assert_eq!(model.bits()?, before);
    model.with(|params| optimizer.swap_average(params))?;
    optimizer.load(&saved)?;
    assert!(!optimizer.holds_average());

    let mut free = AdamWScheduleFree::default().on(Cpu::scalar())?.averaged(Average::ema(0.5)?);
    model.with(|params| free.step(params))?;
    model.with(|params| free.set_mode(Mode::Evaluation, params))?;
    assert!(model.with(|params| free.swap_average(params)).is_err());
    Ok(())
}

#[test]
fn other_memory_is_refused_on_the_way_and_back() -> fallline::Result<()> {
    let said = |error: fallline::optim::Error| error.to_string();
    let (mut weight, grad) = (numbers(4, 1), numbers(4, 2));
    let mut optimizer = Sgd::default().on(Cpu::scalar())?.averaged(Average::ema(0.5)?);
    optimizer.step(&mut [param("w", &mut weight, &grad)])?;
    let (mut short, mut half) = (numbers(3, 1), vec![bf16::ZERO; 4]);
    let short_error = "parameter \"w\" has shape [3], but its state was made for [4]";
    let refused = optimizer.swap_average(&mut [frozen("w", &mut short)]).map_err(said);
    assert_eq!(refused.err().as_deref(), Some(short_error));
    assert!(!optimizer.holds_average());
    optimizer.swap_average(&mut [frozen("w", &mut weight)])?;
    let refused = optimizer.swap_average(&mut [frozen("w", &mut short)]).map_err(said);
    assert_eq!(refused.err().as_deref(), Some(short_error));
    assert!(optimizer.swap_average(&mut [frozen("w", &mut half)]).is_err());
    assert!(optimizer.holds_average());
    optimizer.swap_average(&mut [frozen("w", &mut weight)])?;
    assert!(!optimizer.holds_average());
    Ok(())
}
