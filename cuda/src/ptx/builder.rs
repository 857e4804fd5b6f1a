//! A builder of PTX: registers typed by class, instructions as methods.

use super::{Class, Ptx, Reg, Space, Target, Type, Value};
use std::collections::HashSet;
use std::fmt::Write;

/// One kernel in the making.
///
/// Instructions are methods that return the register they write. Three words in front of one say more:
/// [`to`](Builder::to) which register that is, [`when`](Builder::when) and [`unless`](Builder::unless)
/// that a predicate decides whether it runs.
///
/// ```
/// use fallline_cuda::ptx::{Builder, Space, Target, Type};
/// let mut b = Builder::new("double");
/// let x = b.param(Type::U64, "x");
/// let value = b.ld(Space::Global, Type::F32, 1, x, 0)[0];
/// let twice = b.add(Type::F32, value, value);
/// b.st(Space::Global, Type::F32, x, 0, &[twice.into()]);
/// let ptx = b.finish(Target::Sm70);
/// assert!(ptx.text.contains("add.rn.f32 %f1, %f0, %f0;"));
/// ```
///
/// # Panics
/// Methods panic when a register is of another class than the instruction's type: a mistake in the
/// program that prints, never in its input.
#[derive(Debug)]
pub struct Builder {
    entry: String,
    params: Vec<(Type, &'static str)>,
    shared: Vec<(&'static str, usize)>,
    /// Numbers of 32 bits that are in the module.
    constants: Vec<(&'static str, Vec<u32>)>,
    /// The names of the registers, one list for each class.
    registers: [Vec<String>; Class::ALL.len()],
    taken: HashSet<String>,
    notes: String,
    body: String,
    guard: Option<(Reg, bool)>,
    destination: Option<Reg>,
}

impl Builder {
    /// Creates an empty kernel with this entry name.
    pub fn new(entry: &str) -> Builder {
        Builder {
            entry: identifier(entry),
            params: Vec::new(),
            shared: Vec::new(),
            constants: Vec::new(),
            registers: Default::default(),
            taken: HashSet::new(),
            notes: String::new(),
            body: String::new(),
            guard: None,
            destination: None,
        }
    }

    /// Writes a line of comment above the kernel.
    pub fn note(&mut self, text: &str) {
        writeln!(self.notes, "{}", comment(text)).expect("strings take all text");
    }

    /// Writes a line of comment between instructions.
    pub fn comment(&mut self, text: &str) {
        writeln!(self.body, "    {}", comment(text)).expect("strings take all text");
    }

    /// Declares a kernel parameter, loaded at once into a register of its name.
    pub fn param(&mut self, ty: Type, name: &'static str) -> Reg {
        self.params.push((ty, name));
        let reg = self.named(ty.class(), name);
        self.line(&format!("ld.param.{} {}, [{name}]", ty.suffix(), self.name(reg)));
        reg
    }

    /// Declares a variable of the block in shared memory, aligned for every access.
    pub fn shared(&mut self, name: &'static str, bytes: usize) -> Value {
        self.shared.push((name, bytes));
        Value::Name(name)
    }

    /// Declares a table of the module in device memory, aligned for every access.
    pub fn constants(&mut self, name: &'static str, words: Vec<u32>) -> Value {
        self.constants.push((name, words));
        Value::Name(name)
    }

    /// Returns a numbered register.
    pub fn temp(&mut self, class: Class) -> Reg {
        let names = &mut self.registers[class as usize];
        // The number is the register's place, so it is free: names that are given have an underscore.
        names.push(format!("%{}{}", class.prefix(), names.len()));
        Reg { class, number: names.len() as u32 - 1 }
    }

    /// Returns a register with a readable name: `%f_m_0` for a single named `m_0`.
    pub fn named(&mut self, class: Class, name: &str) -> Reg {
        let stem = format!("%{}_{}", class.prefix(), identifier(name));
        let mut full = stem.clone();
        let mut again = 2;
        while !self.taken.insert(full.clone()) {
            full = format!("{stem}__{again}");
            again += 1;
        }
        let names = &mut self.registers[class as usize];
        names.push(full);
        Reg { class, number: names.len() as u32 - 1 }
    }

    /// Sets the register that the next instruction writes.
    pub fn to(&mut self, reg: Reg) -> &mut Self {
        self.destination = Some(reg);
        self
    }

    /// As [`to`](Builder::to), if there is one.
    pub(super) fn with_destination(&mut self, reg: Option<Reg>) -> &mut Self {
        self.destination = reg;
        self
    }

    /// Makes the next instruction run only in threads in which `predicate` is true.
    pub fn when(&mut self, predicate: Reg) -> &mut Self {
        self.guarded(predicate, true)
    }

    /// Makes the next instruction run only in threads in which `predicate` is false.
    pub fn unless(&mut self, predicate: Reg) -> &mut Self {
        self.guarded(predicate, false)
    }

    fn guarded(&mut self, predicate: Reg, value: bool) -> &mut Self {
        assert_eq!(predicate.class, Class::Pred, "only predicates decide");
        self.guard = Some((predicate, value));
        self
    }

    /// Returns a name for a place in the code, so far without one.
    pub fn label(&mut self, name: &str) -> String {
        let mut full = format!("${}", identifier(name));
        while !self.taken.insert(full.clone()) {
            full.push('_');
        }
        full
    }

    /// Names this place in the code.
    pub fn place(&mut self, label: &str) {
        writeln!(self.body, "{label}:").expect("strings take all text");
    }

    /// Returns the whole module.
    pub fn finish(self, target: Target) -> Ptx {
        let mut text = format!(
            "{}.version {}\n.target {}\n.address_size 64\n\n",
            self.notes,
            target.version(),
            target.architecture(),
        );
        for (name, words) in &self.constants {
            let lines = words.chunks(8).map(|words| {
                let words: Vec<String> = words.iter().map(|word| format!("0x{word:08x}")).collect();
                format!("    {}", words.join(", "))
            });
            let lines = lines.collect::<Vec<_>>().join(",\n");
            text += &format!(".global .align 16 .b32 {name}[{}] = {{\n{lines}\n}};\n\n", words.len());
        }
        text += &format!(".visible .entry {}(\n", self.entry);
        let params: Vec<String> =
            self.params.iter().map(|(ty, name)| format!("    .param .{} {name}", ty.suffix())).collect();
        text += &params.join(",\n");
        text += "\n)\n{\n";
        for (class, names) in Class::ALL.into_iter().zip(&self.registers) {
            for names in names.chunks(8) {
                text += &format!("    .reg .{} {};\n", class.declaration(), names.join(", "));
            }
        }
        for (name, bytes) in &self.shared {
            text += &format!("    .shared .align 16 .b8 {name}[{bytes}];\n");
        }
        text += &self.body;
        text += "    ret;\n}\n";
        Ptx { entry: self.entry, text, target }
    }

    /// Writes one instruction, with the guard that was asked for.
    pub(super) fn line(&mut self, instruction: &str) {
        let guard = match self.guard.take() {
            Some((predicate, true)) => format!("@{} ", self.name(predicate)),
            Some((predicate, false)) => format!("@!{} ", self.name(predicate)),
            None => String::new(),
        };
        writeln!(self.body, "    {guard}{instruction};").expect("strings take all text");
    }

    /// Writes `opcode destination, inputs…` and returns the destination.
    pub(super) fn operation(&mut self, opcode: &str, result: Class, inputs: &[(Class, Value)]) -> Reg {
        let to = self.result(result);
        let mut text = format!("{opcode} {}", self.name(to));
        for &(class, value) in inputs {
            text += ", ";
            text += &self.value(opcode, class, value);
        }
        self.line(&text);
        to
    }

    /// Returns the register that was asked for, if any, taken for a later instruction of the same operation.
    pub(super) fn take_destination(&mut self) -> Option<Reg> {
        self.destination.take()
    }

    /// Returns the register that was asked for, or a new one.
    pub(super) fn result(&mut self, class: Class) -> Reg {
        let to = self.destination.take().unwrap_or_else(|| self.temp(class));
        assert_eq!(to.class, class, "the class of {}", self.name(to));
        to
    }

    pub(super) fn name(&self, reg: Reg) -> &str {
        &self.registers[reg.class as usize][reg.number as usize]
    }

    /// Returns the text of an operand, which must be of class `class` if it is a register.
    pub(super) fn value(&self, opcode: &str, class: Class, value: Value) -> String {
        match value {
            Value::Reg(reg) => {
                assert_eq!(reg.class, class, "{opcode}: the class of {}", self.name(reg));
                self.name(reg).to_owned()
            }
            Value::Int(number) => number.to_string(),
            Value::Bits(bits) => format!("0x{bits:x}"),
            Value::F32(number) => format!("0f{:08X}", number.to_bits()),
            Value::F64(number) => format!("0d{:016X}", number.to_bits()),
            Value::Name(name) => name.to_owned(),
        }
    }

    /// Loads `count` neighbours in one access; `Type::Pred` has no place in memory.
    pub fn ld(&mut self, space: Space, ty: Type, count: usize, address: Reg, offset: usize) -> Vec<Reg> {
        let to: Vec<Reg> = match (self.destination.take(), count) {
            (Some(reg), 1) => vec![reg],
            _ => (0..count).map(|_| self.temp(ty.class())).collect(),
        };
        self.ld_to(&to, space, ty, address, offset);
        to
    }

    /// As [`ld`](Builder::ld), into these registers.
    pub fn ld_to(&mut self, to: &[Reg], space: Space, ty: Type, address: Reg, offset: usize) {
        let values: Vec<Value> = to.iter().map(|&reg| reg.into()).collect();
        let (opcode, list) = self.access("ld", space, ty, &values);
        let line = format!("{opcode} {list}, {}", self.address(space, address, offset));
        self.line(&line);
    }

    /// Stores neighbours in one access.
    pub fn st(&mut self, space: Space, ty: Type, address: Reg, offset: usize, values: &[Value]) {
        let (opcode, list) = self.access("st", space, ty, values);
        let line = format!("{opcode} {}, {list}", self.address(space, address, offset));
        self.line(&line);
    }

    fn address(&self, space: Space, address: Reg, offset: usize) -> String {
        let class = if space == Space::Shared { Class::B32 } else { Class::B64 };
        format!("[{}+{offset}]", self.value("an address", class, address.into()))
    }

    fn access(&self, verb: &str, space: Space, ty: Type, values: &[Value]) -> (String, String) {
        assert!(values.len() * ty.bytes() <= 16, "an access has at most 128 bits");
        let texts: Vec<String> = values.iter().map(|&v| self.value(verb, ty.class(), v)).collect();
        let (vector, list) = match &texts[..] {
            [one] => (String::new(), one.clone()),
            more => (format!(".v{}", more.len()), format!("{{{}}}", more.join(", "))),
        };
        (format!("{verb}.{}{vector}.{}", space.modifier(), ty.suffix()), list)
    }
}

/// Returns a name with only the characters that PTX allows: rules may be named in any script.
fn identifier(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(allowed).collect()
}

/// Returns a comment, in ASCII as everything in PTX.
fn comment(text: &str) -> String {
    let ascii: String = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    format!("// {ascii}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_never_the_same() {
        let mut b = Builder::new("naïve");
        let regs = [b.named(Class::F32, "m_0"), b.named(Class::F32, "m_0"), b.temp(Class::F32)];
        let names = regs.map(|reg| b.name(reg).to_owned());
        assert_eq!(names, ["%f_m_0", "%f_m_0__2", "%f2"]);
        let theta = b.named(Class::F64, "θ");
        assert_eq!(b.name(theta), "%fd__");
        assert_ne!(b.label("end"), b.label("end"));
        assert!(b.finish(Target::Sm70).text.contains(".visible .entry na_ve("));
    }

    #[test]
    fn guard_and_destination_hold_for_one_instruction() {
        let mut b = Builder::new("k");
        let (x, p) = (b.temp(Class::B32), b.temp(Class::Pred));
        b.unless(p).to(x).add(Type::U32, x, 1);
        b.add(Type::U32, x, 1);
        let text = b.finish(Target::Sm70).text;
        assert!(text.contains("    @!%p0 add.u32 %r0, %r0, 1;\n    add.u32 %r1, %r0, 1;\n"), "{text}");
    }

    #[test]
    #[should_panic(expected = "the class of %r0")]
    fn classes_are_checked() {
        let mut b = Builder::new("k");
        let x = b.temp(Class::B32);
        b.add(Type::F32, x, Value::F32(1.0));
    }
}
