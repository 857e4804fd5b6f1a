//! `update_hessian`: gradients for an estimate of the curvature.

use crate::common::{best, build, recipe};
use fallline::optim::{Error, frozen, param};
use fallline::{Checkpoint, Driver, NonFinitePolicy, Optimizer, Value};

const SOPHIA: &str = "dict(type='SophiaG', lr=0.1, betas=(0.9, 0.75), weight_decay=0.0, bs=1.0)";

fn hessian(optimizer: &Driver, name: &str) -> Option<Vec<f64>> {
    optimizer.state(name, "hessian").unwrap()
}

#[test]
fn the_curvature_takes_squares_in_and_nothing_else_moves() {
    let mut optimizer = build(SOPHIA);
    let (mut p, mut q) = (vec![1.0f64, 2.0], vec![3.0f64]);
    let (g, drawn) = (vec![0.5f64, -1.0], vec![2.0f64, -4.0]);
    // Before the first step there is no curvature yet: it starts from 0, and no step is counted.
    let report = optimizer.update_hessian(&mut [param("p", &mut p, &drawn), frozen("q", &mut q)]).unwrap();
    assert_eq!((report.updated, report.without_grad), (1, 1));
    assert_eq!((&p[..], &q[..]), (&[1.0, 2.0][..], &[3.0][..]));
    assert_eq!(hessian(&optimizer, "p").unwrap(), [0.25 * 4.0, 0.25 * 16.0]);
    assert_eq!(hessian(&optimizer, "q"), None);
    assert_eq!(optimizer.params()[0].steps, 0);

    optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
    assert_eq!(optimizer.params()[0].steps, 1);
    optimizer.update_hessian(&mut [param("p", &mut p, &g)]).unwrap();
    assert_eq!(hessian(&optimizer, "p").unwrap(), [0.75 * 1.0 + 0.25 * 0.25, 0.75 * 4.0 + 0.25]);
    assert_eq!(optimizer.state("p", "m").unwrap().unwrap(), [(1.0 - 0.9) * 0.5, -(1.0 - 0.9)]);
}

#[test]
fn a_checkpoint_goes_on_from_between_curvature_and_step() {
    let g: Vec<Vec<f32>> = (0..9).map(|t| vec![(t as f32).sin(), (t as f32).cos(), 0.1]).collect();
    let run = |stop: Option<(usize, bool)>| {
        let (mut optimizer, mut p) = (build(SOPHIA), vec![1.0f32, -2.0, 3.0]);
        for (t, g) in g.iter().enumerate() {
            for curvature in [true, false] {
                if stop == Some((t, curvature)) {
                    let saved = optimizer.save().unwrap();
                    let read = Checkpoint::from_bytes(&saved.to_bytes().unwrap()).unwrap();
                    assert_eq!(read, saved);
                    optimizer = build(SOPHIA);
                    optimizer.load(&read).unwrap();
                }
                let mut bindings = [param("p", &mut p, g)];
                if !curvature {
                    optimizer.step(&mut bindings).unwrap();
                } else if t % 3 == 0 {
                    optimizer.update_hessian(&mut bindings).unwrap();
                }
            }
        }
        (p.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), hessian(&optimizer, "p"))
    };
    let straight = run(None);
    for t in 0..g.len() {
        for curvature in [true, false] {
            assert_eq!(
                run(Some((t, curvature))),
                straight,
                "stopped at {t}, before the curvature: {curvature}"
            );
        }
    }
}

#[test]
fn groups_have_their_own_decay() {
    let mut optimizer = build(SOPHIA);
    let betas = Value::List(vec![Value::Float(0.9), Value::Float(0.5)]);
    optimizer.add_group(|name| name == "q", &[("betas", betas)]).unwrap();
    let (mut p, mut q, g) = ([1.0f32], [1.0f32], [2.0f32]);
    optimizer.update_hessian(&mut [param("q", &mut q, &g), param("p", &mut p, &g)]).unwrap();
    assert_eq!((hessian(&optimizer, "p").unwrap()[0], hessian(&optimizer, "q").unwrap()[0]), (1.0, 2.0));
}

#[test]
fn what_cannot_be_taken_changes_nothing() {
    let (mut p, g) = (vec![1.0f32, 2.0], vec![1.0f32, f32::NAN]);
    let error = build("AdamW").update_hessian(&mut [param("p", &mut p, &g)]).unwrap_err();
    assert!(matches!(error, Error::NoHessian { algorithm: "AdamW" }), "{error}");

    let mut optimizer = build(SOPHIA);
    let wrong = vec![1.0f32; 3];
    assert!(matches!(
        optimizer.update_hessian(&mut [param("p", &mut p, &wrong)]),
        Err(Error::GradShape { .. })
    ));
    assert!(optimizer.params().is_empty());

    let mut careful = recipe(SOPHIA).optimizer(best()).with_non_finite(NonFinitePolicy::Skip);
    assert!(careful.update_hessian(&mut [param("p", &mut p, &g)]).unwrap().skipped());
    assert!(careful.params().is_empty());
    let mut strict = recipe(SOPHIA).optimizer(best()).with_non_finite(NonFinitePolicy::Error);
    assert!(matches!(strict.update_hessian(&mut [param("p", &mut p, &g)]), Err(Error::NonFinite { .. })));
    // By default it propagates, as in torch.
    optimizer.update_hessian(&mut [param("p", &mut p, &g)]).unwrap();
    assert!(hessian(&optimizer, "p").unwrap()[1].is_nan());
}
