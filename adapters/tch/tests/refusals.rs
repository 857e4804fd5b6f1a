//! What cannot be stepped is refused, with its name and with nothing changed.

mod common;

use common::{Model, adamw, read, waves};
use fallline_tch::{Error, TchOptimizer};
use tch::{Device, Kind, Tensor};

fn of(variables: &[(&str, &Tensor)]) -> Result<TchOptimizer, Error> {
    let named = variables.iter().map(|&(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
    TchOptimizer::of_variables(named, adamw())
}

fn variable(shape: &[i64]) -> Tensor {
    waves(shape, Kind::Float, 0.0).set_requires_grad(true)
}

/// Gives a variable a gradient as it is, whatever autograd would make of it.
fn set_gradient(variable: &Tensor, gradient: &Tensor) {
    if !variable.grad().defined() {
        variable.sum(Kind::Float).backward();
    }
    variable.grad().set_data(gradient);
}

#[test]
fn variables_that_cannot_be_stepped() {
    let (a, b) = (variable(&[12]), variable(&[4]));
    let complaint = |variables: &[(&str, &Tensor)]| of(variables).err().expect("it is refused").to_string();
    let shared = "variables \"a\" and \"c\" share their memory: a step would update it twice";
    assert_eq!(complaint(&[("a", &a), ("b", &b), ("c", &a)]), shared);
    let part = a.detach().narrow(0, 4, 4);
    assert_eq!(complaint(&[("a", &a), ("b", &b), ("c", &part)]), shared);
    assert_eq!(complaint(&[("a", &a), ("a", &b)]), "variable \"a\" is given twice");
    let transposed = a.detach().view([3, 4]).transpose(0, 1);
    assert_eq!(complaint(&[("b", &b), ("t", &transposed)]), "variable \"t\" is not contiguous");
    let negated = a.detach().internal_neg_view();
    assert_eq!(complaint(&[("n", &negated)]), "variable \"n\" is a view that negates");
    let integers = Tensor::zeros([3], (Kind::Int64, Device::Cpu));
    assert_eq!(complaint(&[("b", &b), ("count", &integers)]), "variable \"count\" holds Int64");
    let dense = Tensor::eye(3, (Kind::Float, Device::Cpu));
    for sparse in
        [dense.to_sparse(None, None::<Vec<i64>>, None), dense.to_sparse_csr(None), dense.to_mkldnn()]
    {
        assert_eq!(complaint(&[("table", &sparse)]), "variable \"table\" is not dense");
    }
    assert_eq!(complaint(&[("u", &Tensor::new())]), "variable \"u\" is undefined");
    let computed = &a * 2.0;
    assert_eq!(
        complaint(&[("twice", &computed)]),
        "variable \"twice\" is computed from others, and has no gradient of its own"
    );
}

#[test]
fn variables_that_change_are_looked_at_again() {
    let (a, b) = (variable(&[4]), variable(&[4]));
    let mut optimizer = of(&[("a", &a), ("b", &b)]).unwrap();
    let step =
        |optimizer: &mut TchOptimizer| optimizer.backward_step(&(a.sum(Kind::Float) + b.sum(Kind::Float)));
    assert_eq!(step(&mut optimizer).unwrap().updated, 2);
    let mut alias = a.shallow_clone();
    alias.set_data(&b.detach());
    for _ in 0..2 {
        let refused = step(&mut optimizer).unwrap_err().to_string();
        assert_eq!(refused, "variables \"a\" and \"b\" share their memory: a step would update it twice");
    }
    // It steps on in the memory that the variable has now.
    alias.set_data(&waves(&[4], Kind::Float, 2.0));
    let before = read(&a);
    assert_eq!(step(&mut optimizer).unwrap().updated, 2);
    assert!(read(&a).iter().zip(before).all(|(one, other)| *one < other));
}

#[test]
fn gradients_that_cannot_be_taken() {
    let (a, b) = (variable(&[4]), variable(&[4]));
    let mut optimizer = of(&[("a", &a), ("b", &b)]).unwrap();
    let before = (read(&a), read(&b));
    let mut complaint = |gradient: &Tensor| {
        set_gradient(&a, gradient);
        optimizer.step().unwrap_err().to_string()
    };
    assert_eq!(complaint(&b.detach()), "the gradient of \"a\" shares its memory with the variable \"b\"");
    let integers = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    assert_eq!(complaint(&integers), "the gradient of \"a\" holds Int64");
    let refused = complaint(&waves(&[3], Kind::Float, 1.0));
    assert!(refused.contains("\"a\"") && refused.contains('3'), "{refused}");
    assert_eq!((read(&a), read(&b)), before);
}

/// Embeddings may have gradients of some rows.
#[test]
fn a_sparse_gradient_is_refused() {
    let table = variable(&[5, 3]);
    let mut optimizer = of(&[("table", &table)]).unwrap();
    let rows = Tensor::from_slice(&[1i64, 3]);
    let taken = Tensor::embedding(&table, &rows, -1, false, true);
    let refused = optimizer.backward_step(&taken.sum(Kind::Float)).unwrap_err().to_string();
    assert_eq!(refused, "the gradient of \"table\" is not dense");
}

#[test]
fn a_missing_gradient_leaves_its_variable_or_is_an_error() {
    let (a, b) = (variable(&[4]), variable(&[4]));
    let loss = || a.sum(Kind::Float);
    let before = read(&b);
    // The second step finds the gradient of `b` missing, not 0: decay would change it.
    b.sum(Kind::Float).backward();
    let mut optimizer = of(&[("a", &a), ("b", &b)]).unwrap();
    for _ in 0..2 {
        let report = optimizer.backward_step(&loss()).unwrap();
        assert_eq!((report.updated, report.without_grad), (1, 1));
    }
    assert_eq!(read(&b), before);
    let mut strict = of(&[("a", &a), ("b", &b)]).unwrap().requiring_gradients();
    let refused = strict.backward_step(&loss()).unwrap_err().to_string();
    assert_eq!(refused, "variable \"b\" has no gradient: does the loss depend on it?");
    let _ = b.set_requires_grad(false);
    assert_eq!(strict.backward_step(&loss()).unwrap().without_grad, 1);
}

#[test]
fn gradients_that_are_not_contiguous_are_copied_and_counted() {
    let step = |of_gradient: fn(Tensor) -> Tensor| {
        let weight = variable(&[3, 4]);
        let mut optimizer = of(&[("weight", &weight)]).unwrap();
        set_gradient(&weight, &of_gradient(waves(&[3, 4], Kind::Float, 5.0)));
        optimizer.step().unwrap();
        (read(&weight), optimizer.copies())
    };
    let (plain, none) = step(|gradient| gradient);
    let transposed = step(|gradient| gradient.transpose(0, 1).contiguous().transpose(0, 1));
    let negated = step(|gradient| gradient.neg().internal_neg_view());
    assert_eq!((none, transposed, negated), (0, (plain.clone(), 1), (plain, 1)));
}

#[test]
fn a_gradient_may_have_another_type() {
    let a = variable(&[4]);
    let mut optimizer = of(&[("a", &a)]).unwrap();
    set_gradient(&a, &waves(&[4], Kind::BFloat16, 1.0));
    assert_eq!(optimizer.step().unwrap().updated, 1);
}

#[test]
fn a_frozen_store_is_left_as_it_is() {
    let mut model = Model::new(Kind::Float);
    model.store.freeze();
    let mut optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
    let before = model.values();
    assert_eq!(optimizer.step().unwrap().without_grad, 4);
    assert_eq!(model.values(), before);
    model.store.unfreeze();
    assert_eq!(optimizer.backward_step(&model.loss(0)).unwrap().updated, 4);
}

#[test]
fn buffers_of_a_store_are_not_stepped() {
    let model = Model::new(Kind::Float);
    let _ = model.store.root().zeros_no_train("running_mean", &[3]);
    let mut optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
    let report = optimizer.backward_step(&model.loss(0)).unwrap();
    assert_eq!((report.updated, report.without_grad), (4, 0));
}

#[test]
fn a_step_that_fails_leaves_the_optimizer_usable() {
    let model = Model::new(Kind::Float);
    let mut optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
    optimizer.backward_step(&model.loss(0)).unwrap();
    model.named()[0].1.grad().set_data(&waves(&[1], Kind::Float, 0.0));
    assert!(optimizer.step().is_err());
    assert_eq!(optimizer.backward_step(&model.loss(1)).unwrap().updated, 4);
}
