//! Models in safetensors that are stepped in place.

use crate::numbers;
use fallline::ModelFile;
use fallline::algorithms::AdamW;
use fallline::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

fn write(path: &Path, weight: &[f32]) {
    let weight = bytemuck::cast_slice(weight);
    let half: Vec<u8> = [1.0f32, -2.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let count = 7i64.to_le_bytes();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let tensors = [
        ("fc.weight", view(Dtype::F32, &[2, 3], weight)),
        ("fc.bias", view(Dtype::BF16, &[2], &half)),
        ("bn.batches", view(Dtype::I64, &[], &count)),
    ];
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    std::fs::write(path, safetensors::serialize(tensors, Some(metadata)).unwrap()).unwrap();
}

fn header(bytes: &[u8]) -> &[u8] {
    &bytes[..8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize]
}

#[test]
fn a_model_is_stepped_in_its_file() -> fallline::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (mut weight, grad) = (numbers(6, 1), numbers(6, 2));
    let mut bias = [1.0f32, -2.0].map(bf16::from_f32);
    let bias_grad = [0.5f32, 0.25];
    write(&path, &weight);
    let before = std::fs::read(&path).unwrap();

    let build = || AdamW { lr: 0.1, ..Default::default() }.on(Cpu::scalar());
    let (mut in_file, mut in_memory) = (build()?, build()?);
    let mut model = ModelFile::open_mut(&path)?;
    assert!(ModelFile::open_mut(&path).is_err_and(|error| error.to_string().contains("in use")));
    for _ in 0..3 {
        let gradient = |name: &str| match name {
            "fc.weight" => Some(&grad[..]),
            "fc.bias" => Some(&bias_grad[..]),
            _ => None,
        };
        assert_eq!(in_file.step(&mut model.params(gradient)?)?.updated, 2);
        in_memory.step(&mut [
            param("fc.weight", &mut weight, &grad).shaped(&[2, 3]),
            param("fc.bias", &mut bias, &bias_grad),
        ])?;
    }
    let mut names: Vec<_> =
        model.tensors().map(|(name, shape)| (name.to_owned(), shape.dims().to_vec())).collect();
    names.sort();
    let expected = [("bn.batches", vec![]), ("fc.bias", vec![2]), ("fc.weight", vec![2, 3])];
    assert_eq!(names, expected.map(|(name, shape)| (name.to_owned(), shape)));
    model.flush()?;
    drop(model);

    let after = std::fs::read(&path).unwrap();
    assert_eq!(header(&after), header(&before));
    let tensors = SafeTensors::deserialize(&after).unwrap();
    assert_eq!(tensors.tensor("fc.weight").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&weight));
    assert_eq!(tensors.tensor("fc.bias").unwrap().data(), bytemuck::cast_slice::<bf16, u8>(&bias));
    assert_eq!(tensors.tensor("bn.batches").unwrap().data(), 7i64.to_le_bytes());
    Ok(())
}

#[test]
fn the_file_goes_with_checkpoints() -> fallline::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &numbers(6, 1));
    let grad = numbers(6, 2);
    let mut optimizer = AdamW::default().on(Cpu::scalar())?;
    let mut model = ModelFile::open_mut(&path)?;
    optimizer.step(&mut model.params(|name| (name == "fc.weight").then_some(&grad))?)?;
    let saved = optimizer.save_with(&model.params(|_| None::<&Vec<f32>>)?)?;
    assert_eq!(saved.params().collect::<Vec<_>>(), ["fc.bias", "fc.weight"]);
    drop(model);
    write(&path, &numbers(6, 3));
    let mut model = ModelFile::open_mut(&path)?;
    optimizer.load_into(&saved, &mut model.params(|_| None::<&Vec<f32>>)?)?;
    let again = optimizer.save_with(&model.params(|_| None::<&Vec<f32>>)?)?;
    assert!(again == saved);
    Ok(())
}

#[test]
fn files_that_cannot_be_stepped_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let said = |error: fallline::Error| error.to_string().replace(&path.display().to_string(), "FILE");
    assert!(ModelFile::open_mut(&path).is_err_and(|error| said(error).starts_with("FILE: ")));
    assert!(
        ModelFile::open_mut(folder.path()).is_err_and(|error| error.to_string().contains("no regular file"))
    );
    std::fs::write(&path, b"no tensors").unwrap();
    assert!(ModelFile::open_mut(&path).is_err_and(|error| said(error).starts_with("FILE: no safetensors: ")));

    write(&path, &numbers(6, 1));
    let mut whole = std::fs::read(&path).unwrap();
    let grad = [1.0f32];
    let mut model = ModelFile::open_mut(&path).unwrap();
    let refused = model.params(|name| (name == "bn.batches").then_some(&grad)).map(drop).map_err(said);
    assert_eq!(
        refused.err().as_deref(),
        Some("FILE: tensor \"bn.batches\" is of type I64, which no parameter has")
    );
    // A gradient of another length is an error of the step, with the name.
    let mut optimizer = AdamW::default().on(Cpu::scalar()).unwrap();
    let mut params = model.params(|name| (name == "fc.weight").then_some(&grad)).unwrap();
    let error = optimizer.step(&mut params).unwrap_err().to_string();
    assert!(error.contains("fc.weight"), "{error}");
    drop(params);
    drop(model);

    // Two spaces more in the header move the elements off their alignment.
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) + 2;
    whole.splice(..8, length.to_le_bytes());
    let end = header(&whole).len() - 2;
    whole.splice(end..end, *b"  ");
    std::fs::write(&path, &whole).unwrap();
    let mut model = ModelFile::open_mut(&path).unwrap();
    let grad = numbers(6, 1);
    let refused = model.params(|name| (name == "fc.weight").then_some(&grad)).map(drop).map_err(said);
    assert_eq!(
        refused.err().as_deref(),
        Some("FILE: tensor \"fc.weight\" is not aligned to its elements of 4 bytes")
    );
    let frozen = model.params(|_| None::<&Vec<f32>>).unwrap();
    assert_eq!(frozen.iter().map(|binding| binding.name()).collect::<Vec<_>>(), ["fc.bias"]);
}
