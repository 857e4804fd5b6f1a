//! The body of a kernel: registers and their scopes, constants, labels.

use std::collections::HashMap;

use super::PtxError;
use super::declaration::Context;
use super::program::{Constant, Instr, Kernel, Op, Reg};
use super::types::{File, Type};

/// A kernel while it is read.
pub struct Body<'m> {
    pub context: &'m Context,
    pub kernel: Kernel,
    scopes: Vec<HashMap<String, (Type, Reg)>>,
    /// Where the kernel's own variables are.
    pub variables: HashMap<String, Constant>,
    labels: HashMap<String, u32>,
    /// Branches whose label may be further down.
    branches: Vec<(usize, usize, String)>,
    constants: Vec<(File, Constant, Reg)>,
}

impl<'m> Body<'m> {
    pub fn new(name: &str, context: &'m Context) -> Self {
        let kernel = Kernel { name: name.into(), shared: context.module_shared, ..Kernel::default() };
        Body {
            context,
            kernel,
            scopes: vec![HashMap::new()],
            variables: HashMap::new(),
            labels: HashMap::new(),
            branches: vec![],
            constants: vec![],
        }
    }

    pub fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub fn close(&mut self) {
        self.scopes.pop();
    }

    pub fn label(&mut self, line: usize, name: &str) -> Result<(), PtxError> {
        match self.labels.insert(name.into(), self.kernel.code.len() as u32) {
            Some(_) => Err(PtxError::new(line, name, "this label stands twice")),
            None => Ok(()),
        }
    }

    /// Notes that a branch to `label` is about to be pushed.
    pub fn branch(&mut self, line: usize, label: &str) {
        self.branches.push((self.kernel.code.len(), line, label.into()));
    }

    /// Returns the next row of a register file.
    fn row(&mut self, file: File) -> Reg {
        let rows = match file {
            File::Pred => &mut self.kernel.preds,
            File::Word => &mut self.kernel.words,
            File::Long => &mut self.kernel.longs,
        };
        *rows += 1;
        *rows as Reg - 1
    }

    /// Returns the row that always holds this constant.
    pub fn constant(&mut self, file: File, value: Constant) -> Reg {
        if let Some((.., reg)) = self.constants.iter().find(|(f, c, _)| (*f, *c) == (file, value)) {
            return *reg;
        }
        let reg = self.row(file);
        self.constants.push((file, value, reg));
        match file {
            File::Word => self.kernel.word_constants.push((reg, value)),
            _ => self.kernel.long_constants.push((reg, value)),
        }
        reg
    }

    pub fn register(&self, name: &str) -> Option<(Type, Reg)> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    /// Returns the address of a variable.
    pub fn symbol(&self, name: &str) -> Option<Constant> {
        self.variables.get(name).or_else(|| self.context.symbols.get(name)).copied()
    }

    /// Adds an instruction, with its line and text.
    pub fn push(&mut self, line: usize, text: &str, instr: Instr) {
        self.kernel.code.push(instr);
        self.kernel.texts.push((line, text.into()));
    }

    /// Reads `.b32 %r<12>, %x`: the names go into the innermost scope.
    pub fn registers(&mut self, line: usize, text: &str, list: &str) -> Result<(), PtxError> {
        let refuse = |reason: &str| PtxError::new(line, text, reason);
        let (ty, names) = list.split_once(' ').ok_or_else(|| refuse("registers need a type and names"))?;
        let ty = ty.strip_prefix('.').and_then(Type::parse).ok_or_else(|| refuse("unknown type"))?;
        if ty.size() == 1 && ty != Type::Pred {
            return Err(refuse("registers have at least 16 bits"));
        }
        for name in names.split(',').map(str::trim) {
            let all: Vec<String> = match name.split_once('<') {
                Some((stem, count)) => {
                    let count = count.trim_end_matches('>').parse::<usize>();
                    let count = count.map_err(|_| refuse("how many registers?"))?;
                    (0..count).map(|i| format!("{stem}{i}")).collect()
                }
                None => vec![name.to_string()],
            };
            for name in all {
                let reg = self.row(ty.file());
                let scope = self.scopes.last_mut().expect("a kernel has a scope");
                if scope.insert(name, (ty, reg)).is_some() {
                    return Err(refuse("a register declared twice"));
                }
            }
        }
        Ok(())
    }

    /// Binds the branches.
    pub fn finish(mut self) -> Result<Kernel, PtxError> {
        // A kernel may end without `ret`, and a label may be its last line.
        let line = self.kernel.texts.last().map_or(0, |(line, _)| *line);
        self.push(line, "(end of the kernel)", Instr { guard: None, op: Op::Exit });
        for (at, line, label) in &self.branches {
            let to = self.labels.get(label).ok_or_else(|| {
                PtxError::new(*line, self.kernel.texts[*at].1.as_str(), format!("no such label as {label}"))
            })?;
            if let Op::Branch { target, .. } = &mut self.kernel.code[*at].op {
                *target = *to;
            }
        }
        Ok(self.kernel)
    }
}
