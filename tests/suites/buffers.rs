//! What can be bound, and what is refused with nothing changed.

use crate::common::{
    Buffer, ONE_EACH, Random, Tensor, best, bind, bits, build, outcome, outcome_of, recipe, run,
};
use fallline::optim::{Binding, Error, param};
use fallline::{Format, NonFinitePolicy, Optimizer, Tensor as EngineTensor};
use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayD, ArrayView2, ArrayViewMut2, IxDyn, ShapeBuilder, s};

const ADAM: &str = "dict(type='AdamW', lr=0.01, weight_decay=0.3, amsgrad=True)";
const STEPS: usize = 3;

/// What slices of twelve numbers give, as the reference for everything else.
fn reference(values: &[f32], grads: &[Vec<f32>]) -> Vec<u64> {
    let grads = grads.iter().map(|grad| Some(Buffer::F32(grad.clone()))).collect();
    outcome_of(build(ADAM), &[Tensor::new("p", Buffer::F32(values.to_vec()), grads)]).remove(0).1
}

fn draw(count: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut random = Random(11);
    let mut one = || random.units(count).into_iter().map(|x| x as f32).collect::<Vec<_>>();
    (one(), (0..STEPS).map(|_| one()).collect())
}

fn f32_bits<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u64> {
    bits(&values.into_iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
}

/// Steps what `binding` makes of each gradient.
fn steps<'g, P, G: 'g>(
    target: &mut P,
    grads: &'g [G],
    binding: impl for<'a> Fn(&'a mut P, &'a G) -> Binding<'a>,
) {
    let mut optimizer = build(ADAM);
    for grad in grads {
        optimizer.step(&mut [binding(target, grad)]).unwrap();
    }
}

#[test]
fn slices_vectors_and_arrays_are_the_same() {
    let (values, grads) = draw(12);
    let expected = reference(&values, &grads);

    let mut vector = values.clone();
    steps(&mut vector, &grads, |p, g| param("p", p, g));
    assert_eq!(f32_bits(&vector), expected, "Vec");

    let mut slice = values.clone();
    steps(&mut slice, &grads, |p, g| param("p", &mut p[..], &g[..]));
    assert_eq!(f32_bits(&slice), expected, "slice");

    let mut array: [f32; 12] = values.clone().try_into().unwrap();
    let array_grads: Vec<[f32; 12]> = grads.iter().map(|g| g.clone().try_into().unwrap()).collect();
    steps(&mut array, &array_grads, |p, g| param("p", p, g));
    assert_eq!(f32_bits(&array), expected, "array");

    let mut shaped = values.clone();
    steps(&mut shaped, &grads, |p, g| param("p", p, g).shaped(&[3, 4]));
    assert_eq!(f32_bits(&shaped), expected, "shaped");

    let mut some = values.clone();
    steps(&mut some, &grads, |p, g| param("p", p, Some(g)));
    assert_eq!(f32_bits(&some), expected, "Option");
}

#[test]
fn arrays_of_ndarray_are_the_same() {
    let (values, grads) = draw(12);
    let expected = reference(&values, &grads);

    let mut one = Array1::from(values.clone());
    let one_grads: Vec<_> = grads.iter().map(|g| Array1::from(g.clone())).collect();
    steps(&mut one, &one_grads, |p, g| param("p", p, g));
    assert_eq!(f32_bits(&one), expected, "Array1");

    let two = |v: &Vec<f32>| Array2::from_shape_vec((3, 4), v.clone()).unwrap();
    let two_grads: Vec<_> = grads.iter().map(two).collect();
    let mut array = two(&values);
    steps(&mut array, &two_grads, |p, g| param("p", p, g));
    assert_eq!(f32_bits(&array), expected, "Array2");

    let dynamic = |v: &Vec<f32>| ArrayD::from_shape_vec(IxDyn(&[2, 1, 3, 2]), v.clone()).unwrap();
    let dynamic_grads: Vec<_> = grads.iter().map(dynamic).collect();
    let mut array = dynamic(&values);
    steps(&mut array, &dynamic_grads, |p, g| param("p", p, g));
    assert_eq!(f32_bits(&array), expected, "ArrayD");

    let mut array = two(&values);
    let mut optimizer = build(ADAM);
    for grad in &two_grads {
        let (mut view, grad) = (array.view_mut(), grad.view());
        optimizer.step(&mut [param("p", &mut view, &grad)]).unwrap();
    }
    assert_eq!(f32_bits(&array), expected, "views");

    // A flat gradient for a parameter with a shape.
    let mut array = two(&values);
    steps(&mut array, &grads, |p, g| param("p", p, g));
    assert_eq!(f32_bits(&array), expected, "flat gradient");
}

/// As nalgebra and faer store matrices: see docs/memory.md.
#[test]
fn column_major_matrices_are_the_same() {
    let (values, grads) = draw(12);
    let expected = reference(&values, &grads);
    let by_columns = |v: &Vec<f32>| -> Vec<f32> { (0..12).map(|i| v[i % 3 * 4 + i / 3]).collect() };
    let by_rows = |v: &Vec<f32>| -> Vec<f32> { (0..12).map(|i| v[i % 4 * 3 + i / 4]).collect() };
    let column_grads: Vec<Vec<f32>> = grads.iter().map(by_columns).collect();

    // As a view: copied for the step, in the shape that it has.
    let mut stored = by_columns(&values);
    let mut optimizer = build(ADAM);
    for grad in &column_grads {
        let mut view = ArrayViewMut2::from_shape((3, 4).f(), &mut stored).unwrap();
        let grad = ArrayView2::from_shape((3, 4).f(), grad).unwrap();
        optimizer.step(&mut [param("p", &mut view, &grad)]).unwrap();
    }
    assert_eq!(f32_bits(&by_rows(&stored)), expected, "a view");
    assert_eq!(optimizer.params()[0].shape.dims(), [3, 4]);

    // As its transpose, where it is.
    let mut stored = by_columns(&values);
    steps(&mut stored, &column_grads, |p, g| param("p", p, g).shaped(&[4, 3]));
    assert_eq!(f32_bits(&by_rows(&stored)), expected, "the transpose");
}

#[test]
fn views_that_are_not_contiguous_are_the_same() {
    let (values, grads) = draw(12);
    let expected = reference(&values, &grads);
    let two = |v: &Vec<f32>| Array2::from_shape_vec((3, 4), v.clone()).unwrap();

    // Transposed: stored column by column.
    let columns = |v: &Vec<f32>| two(v).t().as_standard_layout().into_owned();
    let (mut stored, stored_grads) = (columns(&values), grads.iter().map(columns).collect::<Vec<_>>());
    let mut optimizer = build(ADAM);
    for grad in &stored_grads {
        let (mut view, grad) = (stored.view_mut().reversed_axes(), grad.t());
        assert!(!view.is_standard_layout());
        optimizer.step(&mut [param("p", &mut view, &grad)]).unwrap();
    }
    assert_eq!(f32_bits(stored.t().iter()), expected, "transposed");

    // Every second row and third column of a larger array; the rest stays as it is.
    let spread = |v: &Vec<f32>| {
        let mut large = Array2::from_elem((6, 12), 77.0f32);
        large.slice_mut(s![..;2, ..;3]).assign(&two(v));
        large
    };
    let (mut stored, stored_grads) = (spread(&values), grads.iter().map(spread).collect::<Vec<_>>());
    let mut optimizer = build(ADAM);
    for grad in &stored_grads {
        let (mut view, grad) = (stored.slice_mut(s![..;2, ..;3]), grad.slice(s![..;2, ..;3]));
        optimizer.step(&mut [param("p", &mut view, &grad)]).unwrap();
    }
    assert_eq!(f32_bits(stored.slice(s![..;2, ..;3]).iter()), expected, "strided");
    assert_eq!(stored.iter().filter(|x| **x == 77.0).count(), 60, "what lies between is untouched");

    // Axes that run backwards: stored so that the reversed view has the values in order.
    let backwards = |v: &Vec<f32>| two(&v.iter().rev().copied().collect());
    let (mut stored, stored_grads) = (backwards(&values), grads.iter().map(backwards).collect::<Vec<_>>());
    let mut optimizer = build(ADAM);
    for grad in &stored_grads {
        let (mut view, grad) = (stored.slice_mut(s![..;-1, ..;-1]), grad.slice(s![..;-1, ..;-1]));
        optimizer.step(&mut [param("p", &mut view, &grad)]).unwrap();
    }
    assert_eq!(f32_bits(stored.slice(s![..;-1, ..;-1]).iter()), expected, "reversed axes");

    // Bound once, stepped often: the buffer is filled anew at each step.
    let grad = two(&grads[0]);
    let mut stored = columns(&values);
    let mut view = stored.view_mut().reversed_axes();
    let mut bindings = [param("p", &mut view, &grad)];
    let mut optimizer = build(ADAM);
    (0..STEPS).for_each(|_| drop(optimizer.step(&mut bindings).unwrap()));
    drop(bindings);
    let same = vec![grads[0].clone(); STEPS];
    assert_eq!(f32_bits(stored.t().iter()), reference(&values, &same), "bound once");
}

#[test]
fn a_view_that_is_not_contiguous_survives_a_refused_step() {
    let mut stored = Array2::from_elem((4, 3), 1.0f32);
    let mut optimizer = recipe(ADAM).optimizer(best()).with_non_finite(NonFinitePolicy::Skip);
    let mut view = stored.view_mut().reversed_axes();
    let grad = Array2::from_elem((3, 4), f32::NAN);
    assert!(optimizer.step(&mut [param("p", &mut view, &grad)]).unwrap().skipped());
    let grad = Array2::from_elem((4, 3), 1.0f32);
    assert!(optimizer.step(&mut [param("p", &mut view, &grad)]).is_err());
    assert!(stored.iter().all(|x| *x == 1.0));
}

#[test]
fn tensors_of_the_engine_are_the_same() {
    let (values, grads) = draw(12);
    let backend = best();
    let tensor = |v: &Vec<f32>| EngineTensor::from_slice(&backend, v, [3, 4]).unwrap();
    let (mut value, tensor_grads) = (tensor(&values), grads.iter().map(tensor).collect::<Vec<_>>());
    let mut optimizer = recipe(ADAM).optimizer(backend.clone());
    for grad in &tensor_grads {
        optimizer.step(&mut [param("p", &mut value, grad)]).unwrap();
    }
    assert_eq!(f32_bits(&value.to_vec::<f32>().unwrap()), reference(&values, &grads));

    // Of another device: refused, and named.
    let elsewhere = fallline::Cpu::scalar().shared();
    let mut other = EngineTensor::zeros(&elsewhere, Format::F32, [3, 4]).unwrap();
    let error = build(ADAM).step(&mut [param("there", &mut other, &grads[0])]).unwrap_err();
    assert!(matches!(&error, Error::OtherDevice { param, .. } if param == "there"), "{error}");
}

#[test]
fn zero_dimensional_and_empty_parameters_are_stepped() {
    for text in ONE_EACH {
        let mut optimizer = build(text);
        let (mut scalar, scalar_grad) = (ndarray::arr0(1.0f32), ndarray::arr0(0.5f32));
        let (mut empty, empty_grad) = (Array2::<f32>::zeros((0, 3)), Array2::<f32>::zeros((0, 3)));
        let (mut none, none_grad): ([f64; 0], [f64; 0]) = ([], []);
        let mut one = [1.0f32];
        let report = optimizer
            .step(&mut [
                param("scalar", &mut scalar, &scalar_grad),
                param("empty", &mut empty, &empty_grad),
                param("none", &mut none, &none_grad),
                param("one", &mut one, &[0.5f32]),
            ])
            .unwrap();
        assert_eq!(report.updated, 4);
        // The first step of DeepSpeed's 1-bit optimizers counts and moves nothing.
        let moves = !["OnebitAdam", "OnebitLamb", "ZeroOneAdam"].contains(&optimizer.name());
        assert_eq!((scalar[()] != 1.0, scalar[()].to_bits()), (moves, one[0].to_bits()), "{text}");
        assert!(optimizer.params().iter().all(|param| param.steps == 1), "{text}");
        assert_eq!(optimizer.params()[0].shape.dims(), [0, 3]);
        assert_eq!(optimizer.params()[3].shape.rank(), 0);
        assert_eq!(optimizer.step(&mut []).unwrap().updated, 0, "a step of nothing");
    }
}

#[test]
fn sixteen_bit_parameters_round_what_f32_computes() {
    // p in bf16 or f16, the gradient in f32: one step is that of f32, rounded once at the end.
    let (values, grads) = draw(100);
    for text in ONE_EACH {
        for format in [Format::Bf16, Format::F16] {
            let start = Buffer::new(format, &values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let grad = Some(Buffer::F32(grads[0].clone()));
            let wide = Buffer::new(Format::F32, &start.values());
            let wide = outcome_of(build(text), &[Tensor::new("p", wide, vec![grad.clone()])]);
            let narrow = outcome_of(build(text), &[Tensor::new("p", start, vec![grad])]);
            let moved: Vec<f64> = wide[0].1.iter().map(|&bits| f64::from_bits(bits)).collect();
            let rounded: Vec<f64> = match format {
                Format::Bf16 => moved.iter().map(|&x| bf16::from_f32(x as f32).to_f64()).collect(),
                _ => moved.iter().map(|&x| f16::from_f32(x as f32).to_f64()).collect(),
            };
            assert_eq!(narrow[0].1, bits(&rounded), "{text}, {format}");
            assert_eq!(narrow[0].3, wide[0].3, "{text}, {format}: states are f32");
        }
    }
}

/// A step that must be refused, by an optimizer that knows `a` and `b`: everything is as it was.
fn refused(what: &str, named: &str, expected: fn(&Error) -> bool, bad: impl Fn(&mut Vec<Tensor>)) {
    for policy in [NonFinitePolicy::Propagate, NonFinitePolicy::Skip] {
        for text in ONE_EACH {
            let mut random = Random(13);
            let mut tensors: Vec<Tensor> =
                ["a", "b"].map(|name| Tensor::plain(name, 6, 2, &mut random)).to_vec();
            let mut optimizer = recipe(text).optimizer(best()).with_non_finite(policy);
            run(&mut optimizer, &mut tensors, 0..1);
            let good = tensors.clone();
            let (before, known) = (outcome(&optimizer, &tensors), optimizer.params());
            let saved = optimizer.save().unwrap();
            // New parameters in front and behind, which must not be remembered.
            tensors.insert(0, Tensor::plain("new", 4, 2, &mut random));
            tensors.push(Tensor::plain("newer", 4, 2, &mut random));
            bad(&mut tensors);
            let values: Vec<Vec<u64>> = tensors.iter().map(|tensor| tensor.value.bits()).collect();
            let error = optimizer.step(&mut bind(&mut tensors, 1)).expect_err(what);
            assert!(expected(&error), "{what}: {error:?}");
            assert!(error.to_string().contains(&format!("{named:?}")), "{what}: {error}");
            let after: Vec<Vec<u64>> = tensors.iter().map(|tensor| tensor.value.bits()).collect();
            assert_eq!(after, values, "{what}, {text}: parameters");
            assert_eq!(outcome(&optimizer, &good), before, "{what}, {text}: states");
            assert_eq!(optimizer.params(), known, "{what}, {text}: new parameters are remembered");
            assert_eq!(optimizer.save().unwrap(), saved, "{what}, {text}");
            // And it can go on.
            let mut on = good.clone();
            run(&mut optimizer, &mut on, 1..2);
            let mut random = Random(13);
            let whole: Vec<Tensor> = ["a", "b"].map(|name| Tensor::plain(name, 6, 2, &mut random)).to_vec();
            assert_eq!(outcome(&optimizer, &on), outcome_of(build(text), &whole), "{what}, {text}: goes on");
        }
    }
}

#[test]
fn a_gradient_of_another_shape_is_refused() {
    let expected = |error: &Error| matches!(error, Error::GradShape { .. });
    refused("grad shape", "b", expected, |tensors| tensors[2].grads[1] = Some(Buffer::F32(vec![1.0; 7])));
    refused("empty grad", "b", expected, |tensors| tensors[2].grads[1] = Some(Buffer::F32(vec![])));
    refused("grad shape of a new one", "newer", expected, |tensors| {
        tensors[3].grads[1] = Some(Buffer::F32(vec![1.0; 3]));
    });

    let (mut value, grad) = (Array2::<f32>::zeros((2, 3)), Array2::<f32>::zeros((3, 2)));
    let error = build(ADAM).step(&mut [param("w", &mut value, &grad)]).unwrap_err().to_string();
    assert!(error.contains("\"w\"") && error.contains("[3, 2]") && error.contains("[2, 3]"), "{error}");
}

#[test]
fn a_shape_of_another_length_is_refused() {
    let expected = |error: &Error| matches!(error, Error::Shaped { .. });
    for shape in [&[7][..], &[2, 4], &[0], &[6, 0], &[usize::MAX, 2], &[]] {
        let bad = |at: usize, shape: &[usize]| {
            let shape = shape.to_vec();
            move |tensors: &mut Vec<Tensor>| tensors[at].shape = Some(shape.clone())
        };
        refused("shape", "b", expected, bad(2, shape));
        refused("shape of a new one", "newer", expected, bad(3, shape));
        refused("shape of one without a gradient", "a", expected, |tensors| {
            bad(1, shape)(tensors);
            tensors[1].grads[1] = None;
        });
    }
    let (mut value, grad) = (vec![0.0f32; 6], vec![0.0f32; 5]);
    let error = build(ADAM).step(&mut [param("w", &mut value, &grad).shaped(&[2, 3])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "parameter \"w\": its gradient has 5 elements, but was given the shape [2, 3]"
    );
}

#[test]
fn every_way_to_bind_refuses_a_shape_of_another_length() {
    let shaped = |error: Error| assert!(matches!(error, Error::Shaped { .. }), "{error}");
    let (mut value, grad) = (vec![0.0f32; 6], vec![0.5f32; 6]);
    for policy in [NonFinitePolicy::Propagate, NonFinitePolicy::Skip] {
        let mut optimizer = build(ADAM).with_non_finite(policy);
        let mut step = optimizer.begin().unwrap();
        shaped(match step.needs_inspection() {
            true => step.inspect(param("w", &mut value, &grad).shaped(&[7])).unwrap_err(),
            false => step.apply(param("w", &mut value, &grad).shaped(&[7])).unwrap_err(),
        });
        assert_eq!(step.finish().unwrap().updated, 0);
    }
    let mut sophia = build("SophiaG");
    shaped(sophia.update_hessian(&mut [param("w", &mut value, &grad).shaped(&[7])]).unwrap_err());
    let mut free = build("AdamWScheduleFree");
    free.step(&mut [param("w", &mut value, &grad)]).unwrap();
    let copies = &mut [param("w", &mut value, &grad).shaped(&[7])];
    shaped(free.weights_of(fallline::optim::Mode::Evaluation, copies).unwrap_err());
    let mut search = crate::common::search("LBFGS");
    shaped(search.step_with(&mut Misshaped).unwrap_err());
}

/// An objective that gives its parameter a shape of another length.
struct Misshaped;

impl fallline::optim::Objective for Misshaped {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        Ok(1.0)
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        vec![param("w", &mut [] as &mut [f32], &[] as &[f32]).shaped(&[7])]
    }
}

#[test]
fn a_name_given_twice_is_refused() {
    let expected = |error: &Error| matches!(error, Error::Duplicate { .. });
    refused("known name", "a", expected, |tensors| tensors.push(tensors[1].clone()));
    refused("known name in front", "b", expected, |tensors| tensors.insert(0, tensors[2].clone()));
    refused("new name", "new", expected, |tensors| tensors.push(tensors[0].clone()));
    refused("new name at once", "new", expected, |tensors| tensors.insert(1, tensors[0].clone()));
    let (mut x, mut y) = ([1.0f32], [1.0f32]);
    let mut optimizer = build(ADAM);
    let stepped = optimizer.step(&mut [param("x", &mut x, &[1.0f32]), param("x", &mut y, &[1.0f32])]);
    assert!(matches!(stepped, Err(Error::Duplicate { .. })));
    assert_eq!((x, y, optimizer.params()), ([1.0], [1.0], vec![]));
}

#[test]
fn a_parameter_that_changes_its_shape_is_refused() {
    let expected = |error: &Error| matches!(error, Error::ParamShape { .. });
    refused("longer", "b", expected, |tensors| {
        tensors[2].value = Buffer::F32(vec![1.0; 7]);
        tensors[2].grads[1] = Some(Buffer::F32(vec![1.0; 7]));
    });
    refused("shorter, without a gradient", "a", expected, |tensors| {
        tensors[1].value = Buffer::F32(vec![1.0; 5]);
        tensors[1].grads[1] = None;
    });
}

#[test]
fn a_parameter_that_changes_its_compute_type_is_refused() {
    let expected = |error: &Error| matches!(error, Error::ParamFormat { .. });
    refused("f64", "b", expected, |tensors| tensors[2].value = Buffer::F64(vec![1.0; 6]));
    // From f32 to bf16 the states still fit.
    let mut random = Random(1);
    let mut tensors = [Tensor::plain("a", 6, 2, &mut random)];
    let mut optimizer = build(ADAM);
    run(&mut optimizer, &mut tensors, 0..1);
    tensors[0].value = Buffer::new(Format::Bf16, &tensors[0].value.values());
    run(&mut optimizer, &mut tensors, 1..2);
    assert_eq!(optimizer.params()[0].steps, 2);
}

/// Small tensors that lie end to end are stepped as one. They are not where a group with another rate lies between
/// them, or one has no gradient.
#[test]
fn neighbours_in_one_buffer_are_the_same() {
    let lengths = [3usize, 1000, 0, 17, 1, 640, 2048, 5];
    let total = lengths.iter().sum();
    let (values, grads) = draw(total);
    let names: Vec<String> = (0..lengths.len()).map(|i| format!("p{i}")).collect();
    for (text, lonely) in ONE_EACH.iter().flat_map(|text| [(text, None), (text, Some("p3"))]) {
        let made = || {
            let mut optimizer = build(text);
            // D-Adaptation takes no other lr.
            let other = if crate::common::looks_at_all_together(text) { "weight_decay" } else { "lr" };
            let doubled = optimizer.get(0, other).map(|x| fallline::Value::Float(2.0 * x.as_f64().unwrap()));
            if let (Some(name), Some(doubled)) = (lonely, doubled) {
                optimizer.add_group(move |other| other == name, &[(other, doubled)]).unwrap();
            }
            optimizer
        };
        let cut = |flat: &[f32]| -> Vec<Vec<f32>> {
            let mut start = 0;
            let next = |&n: &usize| {
                start += n;
                flat[start - n..start].to_vec()
            };
            lengths.iter().map(next).collect()
        };

        let mut owned = cut(&values);
        let (mut reference, mut flat) = (made(), values.clone());
        let mut sliced = made();
        let backend = sliced.backend().clone();
        let mut tensors = EngineTensor::side_by_side(&backend, Format::F32, lengths.map(|n| [n])).unwrap();
        for (tensor, value) in tensors.iter_mut().zip(cut(&values)) {
            backend.write(tensor.storage_mut(), (&value).into()).unwrap();
        }
        let mut on_engine = made();
        for (t, grad) in grads.iter().enumerate() {
            let cut_grads = cut(grad);
            let present = |i: usize| (t != 1 || i != 4).then(|| &cut_grads[i]);
            let mut bindings: Vec<Binding<'_>> = (owned.iter_mut().enumerate())
                .map(|(i, value)| param(&names[i], value, present(i)))
                .collect();
            reference.step(&mut bindings).unwrap();

            let (mut rest, mut rest_grad) = (&mut flat[..], &grad[..]);
            let mut bindings = Vec::new();
            for (i, &n) in lengths.iter().enumerate() {
                let (value, own);
                (value, rest) = rest.split_at_mut(n);
                (own, rest_grad) = rest_grad.split_at(n);
                bindings.push(param(&names[i], value, present(i).map(|_| own)));
            }
            sliced.step(&mut bindings).unwrap();

            let mut bindings: Vec<Binding<'_>> = (tensors.iter_mut().enumerate())
                .map(|(i, tensor)| param(&names[i], tensor, present(i)))
                .collect();
            on_engine.step(&mut bindings).unwrap();
        }
        let expected = f32_bits(owned.iter().flatten());
        assert_eq!(f32_bits(&flat), expected, "{text} {lonely:?}");
        let of_engine: Vec<f32> = tensors.iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect();
        assert_eq!(f32_bits(&of_engine), expected, "{text} {lonely:?} on the engine");
    }
}
