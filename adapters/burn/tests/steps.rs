//! Steps of burn's modules, against burn's own AdamW and against slices, on both of its CPU backends.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use fallline_burn::BurnOptimizer;
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::hyper::Value;
use fallline_optim::{Driver, Linked, Optimizer, param};

const STEPS: usize = 20;
const LR: f64 = 1e-2;

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    layers: Vec<Linear>,
}

fn devices() -> [Device; 2] {
    #[expect(deprecated, reason = "it is still what many programs have")]
    let ndarray = Device::ndarray();
    [ndarray.autodiff(), Device::flex().autodiff()]
}

/// Returns numbers between −0.4 and 0.4.
fn waves<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
    let numbers: Vec<f32> =
        (0..shape.iter().product()).map(|i| 0.4 * (1.3 * i as f32 + phase).sin()).collect();
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

impl Net {
    fn new(device: &Device) -> Net {
        let linear = |inputs: usize, outputs: usize, phase: f32| {
            let mut linear = LinearConfig::new(inputs, outputs).init(device);
            linear.weight = Param::from_tensor(waves([inputs, outputs], phase, device));
            linear.bias = Some(Param::from_tensor(waves([outputs], phase + 1.0, device)));
            linear
        };
        Net { first: linear(6, 16, 0.0), layers: vec![linear(16, 8, 2.0), linear(8, 3, 4.0)] }
    }

    fn loss(&self, step: usize, device: &Device) -> Tensor<1> {
        let mut x = self.first.forward(waves([8, 6], step as f32 % 5.0, device));
        for layer in &self.layers {
            x = layer.forward(relu(x));
        }
        (x - waves([8, 3], 9.0, device)).powi_scalar(2).mean()
    }

    fn gradients(&self, step: usize, device: &Device) -> GradientsParams {
        GradientsParams::from_grads(self.loss(step, device).backward(), self)
    }

    /// Returns the layers with their paths.
    fn linears(&self) -> Vec<(String, &Linear)> {
        let layers = self.layers.iter().enumerate().map(|(i, layer)| (format!("layers.{i}"), layer));
        [("first".to_owned(), &self.first)].into_iter().chain(layers).collect()
    }

    /// Returns names, shapes and numbers.
    fn values(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let of =
            |data: TensorData| (data.shape().iter().copied().collect(), data.try_into_vec::<f32>().unwrap());
        let mut values = Vec::new();
        for (path, linear) in self.linears() {
            let (shape, numbers) = of(linear.weight.val().into_data());
            values.push((format!("{path}.weight"), shape, numbers));
            let (shape, numbers) = of(linear.bias.as_ref().unwrap().val().into_data());
            values.push((format!("{path}.bias"), shape, numbers));
        }
        values
    }
}

fn adamw() -> Driver {
    let settings = AdamW { lr: LR, weight_decay: 0.1, ..AdamW::default() };
    let algorithm = Linked::<AdamW, Native>::new(settings).unwrap();
    Driver::new(Cpu::with_threads(2).unwrap().shared(), Box::new(algorithm))
}

#[test]
fn adamw_is_burns_own() {
    for device in devices() {
        let (mut theirs, mut ours) = (Net::new(&device), Net::new(&device));
        let mut burn = AdamWConfig::new().with_weight_decay(0.1).with_epsilon(1e-8).init();
        let mut optimizer = BurnOptimizer::new(adamw());
        for step in 0..STEPS {
            let gradients = theirs.gradients(step, &device);
            theirs = burn.step(LR, theirs, gradients);
            let gradients = ours.gradients(step, &device);
            let report;
            (ours, report) = optimizer.step(ours, gradients);
            assert_eq!(report.unwrap().updated, 6);
        }
        for ((name, _, one), (_, _, other)) in theirs.values().iter().zip(ours.values()) {
            for (one, other) in one.iter().zip(other) {
                // A step moves LR at most. burn has 1 − β₂ in f32, off by 3e-5 of its 0.001.
                let tolerance = STEPS as f32 * LR as f32 * 3e-5;
                assert!((one - other).abs() <= tolerance, "{device:?}: {name}: {one} and {other}");
            }
        }
        let loss = |net: &Net| net.loss(0, &device).into_scalar::<f32>();
        assert!(loss(&ours) < 0.7 * loss(&Net::new(&device)), "it learns");
    }
}

#[test]
fn steps_are_those_of_slices_bit_for_bit() {
    for device in devices() {
        let mut net = Net::new(&device);
        let mut values = net.values();
        let (mut optimizer, mut plain) = (BurnOptimizer::new(adamw()), adamw());
        for step in 0..STEPS {
            let gradients = net.gradients(step, &device);
            let mut grads: Vec<Vec<f32>> = Vec::new();
            for (_, linear) in net.linears() {
                grads.push(gradients.get::<2>(linear.weight.id).unwrap().into_data().try_into_vec().unwrap());
                let bias = linear.bias.as_ref().unwrap();
                grads.push(gradients.get::<1>(bias.id).unwrap().into_data().try_into_vec().unwrap());
            }
            let tensors = values.iter_mut().zip(&grads);
            let mut bindings: Vec<_> =
                tensors.map(|((name, shape, value), grad)| param(name, value, grad).shaped(shape)).collect();
            plain.step(&mut bindings).unwrap();
            let report;
            (net, report) = optimizer.step(net, gradients);
            report.unwrap();
        }
        assert_eq!(net.values(), values);
        let names: Vec<String> = optimizer.driver().params().into_iter().map(|param| param.name).collect();
        assert!(names.contains(&"layers.1.bias".to_owned()), "{names:?}");
    }
}

#[test]
fn training_resumes_bit_for_bit() {
    let device = &devices()[1];
    let run = |save_at: usize| {
        let (mut net, mut optimizer) = (Net::new(device), BurnOptimizer::new(adamw()));
        for step in 0..STEPS {
            if step == save_at {
                let saved = optimizer.driver().save().unwrap();
                optimizer = BurnOptimizer::new(adamw());
                optimizer.driver_mut().load(&saved).unwrap();
            }
            let gradients = net.gradients(step, device);
            net = optimizer.step(net, gradients).0;
        }
        net.values()
    };
    assert_eq!(run(7), run(STEPS));
}

#[test]
fn groups_go_by_paths() {
    let device = &devices()[1];
    let (net, mut optimizer) = (Net::new(device), BurnOptimizer::new(adamw()));
    let frozen = [("lr", Value::Float(0.0))];
    optimizer.driver_mut().add_group(|name| name.starts_with("layers.0."), &frozen).unwrap();
    let before = net.values();
    let gradients = net.gradients(0, device);
    let (net, report) = optimizer.step(net, gradients);
    assert_eq!(report.unwrap().updated, 6);
    for (one, other) in before.iter().zip(net.values()) {
        assert_eq!(one.2 == other.2, one.0.starts_with("layers.0."), "{}", one.0);
    }
}

#[test]
fn parameters_keep_what_they_are() {
    for device in devices() {
        let (mut net, mut optimizer) = (Net::new(&device), BurnOptimizer::new(adamw()));
        net.first = net.first.no_grad();
        let (before, ids) = (net.values(), net.layers[0].weight.id);
        for step in 0..2 {
            let gradients = net.gradients(step, &device);
            let report;
            (net, report) = optimizer.step(net, gradients);
            let report = report.unwrap();
            assert_eq!((report.updated, report.without_grad), (4, 2));
        }
        assert_eq!(net.values()[..2], before[..2], "no gradient");
        assert_eq!(net.layers[0].weight.id, ids);
        assert!(net.layers[0].weight.is_require_grad() && !net.first.weight.is_require_grad());
        assert_eq!(net.layers[0].weight.val().device(), device);
    }
}

#[test]
fn what_cannot_be_stepped_is_refused_and_comes_back() {
    let device = &devices()[1];
    let mut net = Net::new(device);
    let before = net.values();

    // The loss depends on the first layer only.
    let input = waves([8, 6], 0.0, device);
    let of_first =
        |net: &Net| GradientsParams::from_grads(net.first.forward(input.clone()).mean().backward(), net);
    let mut strict = BurnOptimizer::new(adamw()).requiring_gradients();
    let gradients = of_first(&net);
    let (net_back, report) = strict.step(net, gradients);
    let refused = report.unwrap_err().to_string();
    assert_eq!(refused, "parameter \"layers.0.weight\" has no gradient: does the loss depend on it?");
    net = net_back;
    assert_eq!(net.values(), before);

    // A gradient of another shape.
    let mut gradients = net.gradients(0, device);
    gradients.register(net.first.weight.id, Tensor::<2>::ones([2, 2], &device.clone().inner()));
    let (net_back, report) = BurnOptimizer::new(adamw()).step(net, gradients);
    assert!(report.unwrap_err().to_string().contains("\"first.weight\""));
    net = net_back;
    assert_eq!(net.values(), before);

    // A gradient of integers is no tensor of burn's floats; one of another float type is taken.
    let mut gradients = net.gradients(0, device);
    let half = waves([6, 16], 1.0, &device.clone().inner()).cast(DType::F16);
    gradients.register(net.first.weight.id, half);
    let (net_back, report) = BurnOptimizer::new(adamw()).step(net, gradients);
    assert_eq!(report.unwrap().updated, 6);
    net = net_back;

    // The same parameter twice.
    let before = net.values();
    net.layers[1] = net.layers[0].clone();
    let gradients = {
        let x = net.first.forward(waves([8, 6], 0.0, device));
        GradientsParams::from_grads(net.layers[0].forward(x).mean().backward(), &net)
    };
    let (net, report) = BurnOptimizer::new(adamw()).step(net, gradients);
    let refused = report.unwrap_err().to_string();
    assert!(refused.contains("\"layers.0.weight\" and \"layers.1.weight\" have the same id"), "{refused}");
    assert_eq!(net.values()[..4], before[..4]);
}

#[test]
fn a_parameter_that_comes_to_be_shared_is_refused_each_time() {
    let device = &devices()[1];
    let (mut net, mut optimizer) = (Net::new(device), BurnOptimizer::new(adamw()));
    let mut step = |net: Net, gradients: GradientsParams| {
        let (net, report) = optimizer.step(net, gradients);
        (net, report.map(|report| report.updated).map_err(|error| error.to_string()))
    };
    let gradients = net.gradients(0, device);
    let stepped;
    (net, stepped) = step(net, gradients);
    assert_eq!(stepped, Ok(6));
    let own = net.layers[1].bias.replace(net.first.bias.clone().unwrap());
    let before = net.values();
    for _ in 0..2 {
        let gradients =
            GradientsParams::from_grads(net.first.bias.as_ref().unwrap().val().sum().backward(), &net);
        let refused;
        (net, refused) = step(net, gradients);
        let refused = refused.unwrap_err();
        assert!(refused.contains("\"first.bias\" and \"layers.1.bias\" have the same id"), "{refused}");
        assert_eq!(net.values(), before);
    }
    net.layers[1].bias = own;
    let gradients = net.gradients(1, device);
    assert_eq!(step(net, gradients).1, Ok(6));
}

#[test]
fn an_optimizer_goes_to_another_thread_with_its_module() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<BurnOptimizer>();
    let device = &devices()[1];
    let step = |net: Net, mut optimizer: BurnOptimizer| {
        let gradients = net.gradients(0, &net.first.weight.val().device());
        optimizer.step(net, gradients).0.values()
    };
    let (net, optimizer) = (Net::new(device), BurnOptimizer::new(adamw()));
    let elsewhere = std::thread::spawn(move || step(net, optimizer)).join().unwrap();
    assert_eq!(elsewhere, step(Net::new(device), BurnOptimizer::new(adamw())));
}
