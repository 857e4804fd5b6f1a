//! Checkpoints with the parameters in them, and states by name.

use crate::{bits, devices, numbers};
use fallline::algorithms::{Adam8bit, AdamW, Sgd};
use fallline::core::host::Slice;
use fallline::optim::checkpoint::Entry;
use fallline::prelude::*;
use ndarray::Array2;
use std::sync::Arc;

/// A model whose parameters are a vector, a view that is not contiguous, and a tensor.
struct Model {
    vector: Vec<f32>,
    matrix: Array2<f64>,
    tensor: Tensor,
}

impl Model {
    fn new(seed: usize) -> fallline::Result<Model> {
        Model::on(&Cpu::scalar().shared(), seed)
    }

    fn on(device: &Arc<dyn Backend>, seed: usize) -> fallline::Result<Model> {
        Ok(Model {
            vector: numbers(6, seed),
            matrix: Array2::from_shape_fn((3, 2), |(i, j)| (i * 2 + j + seed) as f64 / 3.0),
            tensor: Tensor::from_slice(device, &numbers(4, seed + 9), [2, 2])?,
        })
    }

    /// Hands its parameters on, with gradients or without.
    fn with<T>(&mut self, trains: bool, work: impl FnOnce(&mut [Binding<'_>]) -> T) -> fallline::Result<T> {
        let vector = self.vector.iter().map(|x| x + 0.25).collect::<Vec<f32>>();
        let matrix = self.matrix.t().map(|x| x * 0.5);
        let tensor = Tensor::from_slice(self.tensor.backend(), &self.tensor.to_vec::<f32>()?, [2, 2])?;
        let mut turned = self.matrix.view_mut().reversed_axes();
        Ok(work(&mut [
            param("vector", &mut self.vector, trains.then_some(&vector)).shaped(&[2, 3]),
            param("matrix", &mut turned, trains.then_some(&matrix)),
            param("tensor", &mut self.tensor, trains.then_some(&tensor)),
        ]))
    }

    fn bits(&self) -> fallline::Result<(Vec<u32>, Vec<u64>, Vec<u32>)> {
        let matrix = self.matrix.iter().map(|x| x.to_bits()).collect();
        Ok((bits(&self.vector), matrix, bits(&self.tensor.to_vec::<f32>()?)))
    }

    fn step(&mut self, optimizer: &mut Driver) -> fallline::Result<()> {
        self.with(true, |params| optimizer.step(params))??;
        Ok(())
    }
}

fn optimizer() -> fallline::Result<Driver> {
    AdamW { lr: 0.01, ..Default::default() }.on(Cpu::scalar())
}

#[test]
fn a_run_goes_on_from_one_checkpoint() -> fallline::Result<()> {
    let adamw = AdamW { lr: 0.01, ..Default::default() };
    for device in devices()? {
        let (mut straight, mut first) = (Model::on(&device, 1)?, adamw.clone().on(&device)?);
        straight.step(&mut first)?;
        let saved = straight.with(false, |params| first.save_with(params))??;
        let saved = Checkpoint::from_bytes(&saved.to_bytes()?)?;
        straight.step(&mut first)?;

        let (mut resumed, mut second) = (Model::on(&device, 5)?, adamw.clone().on(&device)?);
        resumed.with(false, |params| second.load_into(&saved, params))??;
        resumed.step(&mut second)?;
        assert_eq!(straight.bits()?, resumed.bits()?);

        // The shapes are those that the optimizer knows.
        let entry = saved.param("vector").ok_or(String::from("a vector"))?;
        assert_eq!(entry.shape.dims(), [2, 3]);
        assert_eq!(saved.param("matrix").map(|entry| entry.shape.dims().to_vec()), Some(vec![2, 3]));

        // What the host does not reach is read into a copy.
        let moment = second.state_view("tensor", "m").ok_or(String::from("a moment"))?;
        let copied = second.state("tensor", "m")?;
        assert_eq!(moment.as_slice::<f32>().is_some(), device.is_host_accessible());
        assert_eq!(Some(moment.to_vec::<f64>()?), copied);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_changes_nothing() -> fallline::Result<()> {
    let (mut model, mut optimizer) = (Model::new(1)?, optimizer()?);
    model.step(&mut optimizer)?;
    let saved = model.with(false, |params| optimizer.save_with(params))??;
    let said = |error: fallline::optim::Error| error.to_string();

    // Saving: not all are bound, or one twice, or in another shape.
    let mut vector = vec![0.0f32; 6];
    let missing = optimizer.save_with(&[frozen("vector", &mut vector)]).map_err(said);
    let problem = "checkpoint: parameter \"matrix\" is to be saved, but is not bound";
    assert_eq!(missing.err().as_deref(), Some(problem));
    let mut other = vector.clone();
    let mut checkpoint = saved.clone();
    let twice = [frozen("a", &mut vector), frozen("a", &mut other)];
    let twice = checkpoint.insert_params(&twice).map_err(said);
    assert_eq!(twice.err().as_deref(), Some("parameter \"a\" was given twice in one step"));
    let mut short = vec![0.0f32; 5];
    let short = checkpoint.insert_params(&[frozen("vector", &mut short)]).map_err(said);
    assert_eq!(
        short.err().as_deref(),
        Some("parameter \"vector\" has shape [5], but its state was made for [2, 3]")
    );
    assert!(checkpoint == saved);

    // Loading: the errors come before anything is written, and `lenient` takes the rest.
    let before = model.bits()?;
    let mut wrong = saved.clone();
    wrong.insert_param("matrix", Entry::new([6].into(), Slice::from(&[0.0f64; 6])));
    let loaded = model.with(false, |params| optimizer.load_into(&wrong, params))?.map_err(said);
    assert_eq!(loaded.err().as_deref(), Some("checkpoint: param/matrix has shape [6], expected [2, 3]"));
    let mut typed = saved.clone();
    typed.insert_param("vector", Entry::new([2, 3].into(), Slice::from(&[0.5f64; 6])));
    let loaded = model.with(false, |params| optimizer.load_into(&typed, params))?.map_err(said);
    assert_eq!(loaded.err().as_deref(), Some("checkpoint: param/vector is stored as f64, expected f32"));
    let mut torn = saved.clone();
    let entry = Entry { format: fallline::Format::F32, shape: [2, 3].into(), bytes: vec![0; 23] };
    torn.insert_param("vector", entry);
    let loaded = model.with(false, |params| torn.load_params(params))?.map_err(said);
    assert_eq!(loaded.err().as_deref(), Some("checkpoint: param/vector has 23 bytes, and shape [2, 3]"));
    let mut more = vec![1.0f32; 2];
    let loaded = saved.load_params(&mut [frozen("more", &mut more)]).map_err(said);
    assert_eq!(loaded.err().as_deref(), Some("checkpoint: param/more is missing"));
    assert_eq!(model.bits()?, before);

    let options = LoadOptions::default().converting();
    let report = model.with(false, |params| optimizer.load_into_with(&typed, params, &options))??;
    assert_eq!((report.converted, &model.vector), (1, &vec![0.5; 6]));
    Ok(())
}

#[test]
fn a_lenient_load_takes_what_fits_and_renames() -> fallline::Result<()> {
    let (mut model, mut first) = (Model::new(1)?, optimizer()?);
    model.step(&mut first)?;
    let mut saved = model.with(false, |params| first.save_with(params))??;
    saved.rename("", "module.")?;
    let expected = model.bits()?;
    let (mut other, mut second, mut head) = (Model::new(7)?, optimizer()?, vec![3.0f32]);
    let options = LoadOptions::default().lenient().rename("module.", "");
    let report = other.with(false, |params| second.load_into_with(&saved, params, &options))??;
    assert_eq!(report.missing, Vec::<String>::new());
    assert_eq!(other.bits()?, expected);
    let report = second.load_into_with(&saved, &mut [frozen("head", &mut head)], &options)?;
    assert_eq!((report.missing, head), (vec!["param/head".to_owned()], vec![3.0]));
    Ok(())
}

#[test]
fn states_are_views_of_memory() -> fallline::Result<()> {
    let (mut model, mut adamw) = (Model::new(1)?, optimizer()?);
    model.step(&mut adamw)?;
    let mut keys: Vec<String> = adamw.state_dict().map(|state| state.key()).collect();
    keys.sort();
    assert_eq!(keys, ["matrix/m", "matrix/v", "tensor/m", "tensor/v", "vector/m", "vector/v"]);
    for state in adamw.state_dict() {
        let copied = adamw.state(state.param(), state.name())?.ok_or(String::from("a state"))?;
        assert_eq!(state.to_vec::<f64>()?, copied);
        let in_place: Option<Vec<f64>> = match state.format() {
            fallline::Format::F64 => state.as_slice::<f64>().map(<[f64]>::to_vec),
            _ => state.as_slice::<f32>().map(|values| values.iter().map(|x| f64::from(*x)).collect()),
        };
        assert_eq!(in_place, Some(copied));
    }
    let moment = adamw.state_view("vector", "m").ok_or(String::from("a moment"))?;
    assert_eq!((moment.shape().dims(), moment.as_slice::<f64>()), (&[2, 3][..], None));
    assert!(adamw.state_view("vector", "none").is_none() && adamw.state_view("none", "m").is_none());

    // Quantized states are codes, and master weights a state.
    let mut weight = numbers(5000, 3);
    let grad = numbers(5000, 4);
    let mut quantized = Adam8bit::default().on(Cpu::scalar())?;
    quantized.step(&mut [param("w", &mut weight, &grad)])?;
    let view = quantized.state_view("w", "m").ok_or(String::from("a moment"))?;
    assert_eq!(view.blocks().map(|blocks| blocks.codes.len()), Some(5000));
    assert_eq!((view.as_slice::<f32>(), view.to_vec::<f64>()?.len()), (None, 5000));
    let mut half = vec![bf16::from_f32(0.5); 4];
    let mut sgd = Sgd::default().on(Cpu::scalar())?;
    sgd.set_param_precision(0, fallline::optim::ParamPrecision::MasterWeights)?;
    sgd.step(&mut [param("w", &mut half, &grad[..4])])?;
    let master = sgd.state_view("w", "master").and_then(|view| Some(view.as_slice::<f32>()?.len()));
    assert_eq!(master, Some(4));
    Ok(())
}
