//! Writes the pickle of a tree, as `torch.save` would with protocol 2.

use crate::value::{Key, Value};

/// Returns the pickle, and the tensors in the order of their storages' keys. Nothing is memoised: torch reads that as
/// well, and the same tree has the same bytes.
pub(crate) fn write<'v, 'a>(value: &'v Value<'a>) -> (Vec<u8>, Vec<&'v crate::tensor::Tensor<'a>>) {
    let mut writer = Writer { out: vec![0x80, 2], tensors: Vec::new() };
    writer.value(value);
    writer.out.push(b'.');
    (writer.out, writer.tensors)
}

struct Writer<'v, 'a> {
    out: Vec<u8>,
    tensors: Vec<&'v crate::tensor::Tensor<'a>>,
}

impl<'v, 'a> Writer<'v, 'a> {
    fn value(&mut self, value: &'v Value<'a>) {
        match value {
            // Nothing that is skipped in reading is ever part of what is written.
            Value::None | Value::Opaque(_) => self.out.push(b'N'),
            Value::Bool(x) => self.out.push(if *x { 0x88 } else { 0x89 }),
            Value::Int(x) => self.int(*x),
            Value::Float(x) => {
                self.out.push(b'G');
                self.out.extend(x.to_be_bytes());
            }
            Value::Str(text) => self.text(text),
            Value::List(items) => {
                self.out.extend(b"](");
                items.iter().for_each(|item| self.value(item));
                self.out.push(b'e');
            }
            Value::Tuple(items) => {
                self.out.push(b'(');
                items.iter().for_each(|item| self.value(item));
                self.out.push(b't');
            }
            Value::Dict(entries) => {
                self.out.extend(b"}(");
                for (key, value) in entries {
                    match key {
                        Key::Int(x) => self.int(*x),
                        Key::Str(text) | Key::Other(text) => self.text(text),
                    }
                    self.value(value);
                }
                self.out.push(b'u');
            }
            Value::Tensor(tensor) => self.tensor(tensor),
        }
    }

    fn int(&mut self, x: i64) {
        if let Ok(small) = u8::try_from(x) {
            self.out.extend([b'K', small]);
        } else if let Ok(middle) = i32::try_from(x) {
            self.out.push(b'J');
            self.out.extend(middle.to_le_bytes());
        } else {
            self.out.extend([0x8a, 8]);
            self.out.extend(x.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn tensor(&mut self, tensor: &'v crate::tensor::Tensor<'a>) {
        self.out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.out.extend(format!("ctorch\n{}\n", tensor.dtype().storage()).as_bytes());
        self.text(&self.tensors.len().to_string());
        self.text("cpu");
        self.int(tensor.elements() as i64);
        self.out.extend(b"tQK\0(");
        let dims = tensor.shape();
        dims.iter().for_each(|&extent| self.int(extent as i64));
        self.out.extend(b"t(");
        // Row-major: torch counts a dimension of 0 as one of 1 there.
        let after = |i: usize| dims[i + 1..].iter().fold(1i64, |all, &n| all.saturating_mul(n.max(1) as i64));
        (0..dims.len()).for_each(|i| self.int(after(i)));
        self.out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
        self.tensors.push(tensor);
    }
}
