//! What cannot be stepped is refused, with its name and with nothing changed.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{Model, adamw, loss_of, waves};
use fallline_candle::{CandleOptimizer, Error};

fn of(variables: &[(&str, &Var)]) -> Result<CandleOptimizer, Error> {
    let named = variables.iter().map(|&(name, variable)| (name.to_owned(), variable.clone()));
    CandleOptimizer::of_variables(named, adamw())
}

fn variable(len: usize) -> Var {
    Var::from_tensor(&waves(&[len], DType::F32, 0.0)).unwrap()
}

#[test]
fn variables_that_cannot_be_stepped() {
    let (one, other) = (variable(4), variable(4));
    let complaint = |variables: &[(&str, &Var)]| of(variables).err().expect("it is refused").to_string();
    assert_eq!(
        complaint(&[("a", &one), ("b", &other), ("c", &one)]),
        "variables \"a\" and \"c\" share their memory: a step would update it twice"
    );
    assert_eq!(complaint(&[("a", &one), ("a", &other)]), "variable \"a\" is given twice");
    let integers = Var::from_tensor(&Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(complaint(&[("a", &one), ("count", &integers)]), "variable \"count\" holds U32");
}

#[test]
fn gradients_that_cannot_be_taken() {
    let (a, b) = (variable(4), variable(4));
    let mut optimizer = of(&[("a", &a), ("b", &b)]).unwrap();
    let before = (common::read(&a), common::read(&b));
    let grads = || a.sum_all().unwrap().backward().unwrap();

    let mut shares = grads();
    shares.insert(&a, b.as_tensor().clone());
    let refused = optimizer.step(&shares).unwrap_err().to_string();
    assert_eq!(refused, "the gradient of \"a\" shares its memory with the variable \"b\"");

    let mut integers = grads();
    integers.insert(&a, Tensor::zeros(4, DType::I64, &Device::Cpu).unwrap());
    let refused = optimizer.step(&integers).unwrap_err().to_string();
    assert_eq!(refused, "the gradient of \"a\" holds I64");

    let mut short = grads();
    short.insert(&a, Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    let refused = optimizer.step(&short).unwrap_err().to_string();
    assert!(refused.contains("\"a\"") && refused.contains('3'), "{refused}");

    assert_eq!((common::read(&a), common::read(&b)), before);
}

#[test]
fn a_missing_gradient_leaves_its_variable_or_is_an_error() {
    let (a, b) = (variable(4), variable(4));
    let grads = a.sum_all().unwrap().backward().unwrap();
    let before = common::read(&b);
    let report = of(&[("a", &a), ("b", &b)]).unwrap().step(&grads).unwrap();
    assert_eq!((report.updated, report.without_grad), (1, 1));
    assert_eq!(common::read(&b), before);
    let mut strict = of(&[("a", &a), ("b", &b)]).unwrap().requiring_gradients();
    let refused = strict.step(&grads).unwrap_err().to_string();
    assert_eq!(refused, "variable \"b\" has no gradient: does the loss depend on it?");
}

#[test]
fn gradients_that_are_not_contiguous_are_copied_and_counted() {
    let step = |transposed: bool| {
        let weight = Var::from_tensor(&waves(&[3, 4], DType::F32, 0.0)).unwrap();
        let mut optimizer = of(&[("weight", &weight)]).unwrap();
        let mut grads = weight.sum_all().unwrap().backward().unwrap();
        let gradient = waves(&[3, 4], DType::F32, 5.0);
        let stored = gradient.t().unwrap().contiguous().unwrap().t().unwrap();
        grads.insert(&weight, if transposed { stored } else { gradient });
        optimizer.step(&grads).unwrap();
        (common::read(&weight), optimizer.copies())
    };
    let (plain, none) = step(false);
    assert_eq!((none, step(true)), (0, (plain, 1)));
}

#[test]
fn a_gradient_may_have_another_type() {
    let a = variable(4);
    let mut optimizer = of(&[("a", &a)]).unwrap();
    let mut grads = a.sum_all().unwrap().backward().unwrap();
    grads.insert(&a, Tensor::ones(4, DType::BF16, &Device::Cpu).unwrap());
    assert_eq!(optimizer.step(&grads).unwrap().updated, 1);
}

#[test]
fn a_step_that_fails_leaves_the_optimizer_usable() {
    let model = Model::new(DType::F32);
    let mut optimizer = CandleOptimizer::new(&model.variables, adamw()).unwrap();
    let good = loss_of(&model, 0).backward().unwrap();
    let mut bad = loss_of(&model, 0).backward().unwrap();
    let (_, first) = &model.named()[0];
    bad.insert(first, Tensor::ones(1, DType::F32, &Device::Cpu).unwrap());
    optimizer.step(&good).unwrap();
    assert!(optimizer.step(&bad).is_err());
    assert_eq!(optimizer.step(&good).unwrap().updated, 4);
}
