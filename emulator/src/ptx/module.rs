//! Module scope: versions, variables, headers of kernels.

use std::collections::HashMap;

use super::PtxError;
use super::body::Body;
use super::program::{Constant, Module, Param, Variable};
use super::text::{self, Float, Kind, Piece};
use super::types::{Space, Type};

/// The newest PTX version that is accepted.
const NEWEST: (u32, u32) = (8, 8);

/// What holds for the whole text.
pub struct Context {
    pub version: (u32, u32),
    pub target: u32,
    /// Refuse what the assembler may contract (`add.f32` without a rounding).
    pub strict: bool,
    pub symbols: HashMap<String, Constant>,
    pub module_shared: usize,
}

/// A declaration of a variable, in any space.
pub struct Declaration {
    pub space: Space,
    pub ty: Type,
    pub align: usize,
    pub name: String,
    /// Bytes; 0 for `name[]`.
    pub size: usize,
    pub external: bool,
    pub initialiser: Option<String>,
}

impl Declaration {
    /// Reads `.shared .align 16 .b8 name[64]` and its like; `None` where the text declares no variable.
    pub fn parse(line: usize, text: &str) -> Result<Option<Declaration>, PtxError> {
        let refuse = |reason: &str| PtxError::new(line, text, reason);
        let (left, initialiser) = match text.split_once('=') {
            Some((left, right)) => (left, Some(right.trim().to_string())),
            None => (text, None),
        };
        let left = left.replace('[', " [");
        let words: Vec<&str> = left.split_whitespace().collect();
        let Some(space) = words.iter().find_map(|w| w.strip_prefix('.').and_then(Space::parse)) else {
            return Ok(None);
        };
        let (mut ty, mut align, mut external, mut name, mut count) = (None, None, false, None, Some(1usize));
        let mut at = 0;
        while at < words.len() {
            match words[at] {
                ".extern" => external = true,
                ".visible" | ".weak" | ".ptr" => {}
                ".align" => {
                    at += 1;
                    let value = words.get(at).and_then(|w| w.parse::<usize>().ok());
                    let value = value.filter(|v| v.is_power_of_two());
                    align = Some(value.ok_or_else(|| refuse("an alignment is a power of two"))?);
                }
                "[]" => count = None,
                w if w.starts_with('[') => {
                    let extent = w.trim_matches(['[', ']']).parse::<usize>();
                    let extent = extent.map_err(|_| refuse("the extent of an array is a number"))?;
                    count = count.map(|c| c * extent);
                }
                w if w.starts_with('.') => match (Type::parse(&w[1..]), Space::parse(&w[1..])) {
                    (Some(Type::Pred), _) => return Err(refuse("a predicate cannot be in memory")),
                    (Some(t), _) => ty = Some(t),
                    (None, Some(_)) => {}
                    (None, None) => return Err(refuse("unknown directive in a declaration")),
                },
                w => name = Some(w.trim_end_matches(',').to_string()),
            }
            at += 1;
        }
        let ty = ty.ok_or_else(|| refuse("a variable needs a type"))?;
        let name = name.ok_or_else(|| refuse("a variable needs a name"))?;
        let size = count.map_or(0, |c| c * ty.size());
        let align = align.unwrap_or(ty.size());
        Ok(Some(Declaration { space, ty, align, name, size, external, initialiser }))
    }

    /// The bytes of the initialiser, zeros where it ends early.
    fn bytes(&self, line: usize) -> Result<Vec<u8>, PtxError> {
        let mut out = vec![0u8; self.size];
        let Some(list) = &self.initialiser else { return Ok(out) };
        let refuse = |reason: String| PtxError::new(line, format!("{} = …", self.name), reason);
        let items = list.trim_matches(|c: char| c == '{' || c == '}' || c.is_whitespace());
        for (i, item) in items.split(',').map(str::trim).filter(|item| !item.is_empty()).enumerate() {
            let value =
                literal(item, self.ty).ok_or_else(|| refuse(format!("cannot read the value {item}")))?;
            let (at, n) = (i * self.ty.size(), self.ty.size());
            let place = out.get_mut(at..at + n).ok_or_else(|| refuse("more values than elements".into()))?;
            place.copy_from_slice(&value.to_le_bytes()[..n]);
        }
        Ok(out)
    }
}

/// A literal as the bits of a value of this type; `None` where ptxas would refuse it.
pub fn literal(text: &str, ty: Type) -> Option<u64> {
    match text::float(text) {
        Some(Float::Single(bits)) => matches!(ty, Type::F32 | Type::B32).then_some(u64::from(bits)),
        Some(Float::Double(bits)) => match ty {
            Type::F64 | Type::B64 => Some(bits),
            // A double is converted to the type of the instruction.
            Type::F32 => Some(u64::from((f64::from_bits(bits) as f32).to_bits())),
            _ => None,
        },
        Some(Float::Decimal(x)) => match ty {
            Type::F64 => Some(x.to_bits()),
            Type::F32 => Some(u64::from((x as f32).to_bits())),
            _ => None,
        },
        None if ty.is_float() => None,
        None => text::integer(text).map(|v| v & (u64::MAX >> (64 - ty.bits()))),
    }
}

/// Reads a module. `device` is the compute capability, 90 for 9.0.
pub fn parse(source: &str, device: u32, strict: bool) -> Result<Module, PtxError> {
    let pieces = text::pieces(source)?;
    let mut module = Module::default();
    let mut context =
        Context { version: (0, 0), target: 0, strict, symbols: HashMap::new(), module_shared: 0 };
    let mut address_size = 0;
    let mut at = 0;
    while at < pieces.len() {
        let Piece { line, kind } = &pieces[at];
        at += 1;
        match kind {
            Kind::Statement(text) => {
                let refuse = |reason: &str| PtxError::new(*line, text.as_str(), reason);
                let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
                match word {
                    ".version" => context.version = version(rest).ok_or_else(|| refuse("not a version"))?,
                    ".target" => {
                        let name = rest.split(',').next().unwrap_or("").trim();
                        let number = name.strip_prefix("sm_").map(|n| n.trim_end_matches(['a', 'f']));
                        context.target =
                            number.and_then(|n| n.parse().ok()).ok_or_else(|| refuse("unknown target"))?;
                        if context.target > device {
                            return Err(refuse("the target is newer than the device"));
                        }
                    }
                    ".address_size" if rest == "64" => address_size = 64,
                    ".address_size" => return Err(refuse("only 64-bit addresses")),
                    ".file" | ".loc" | ".pragma" => {}
                    _ => {
                        let declared = Declaration::parse(*line, text)?;
                        let declared = declared.ok_or_else(|| refuse("unknown directive"))?;
                        variable(&mut module, &mut context, declared, *line)?;
                    }
                }
            }
            Kind::Open(header) => {
                let refuse = |reason: &str| PtxError::new(*line, header.as_str(), reason);
                if context.version == (0, 0) || context.target == 0 || address_size == 0 {
                    return Err(refuse("a kernel before .version, .target and .address_size 64"));
                }
                if context.version > NEWEST {
                    return Err(refuse("this PTX version is newer than the driver"));
                }
                let mut body = kernel(header, *line, &context)?;
                let mut depth = 1;
                while depth > 0 {
                    let piece = pieces.get(at).ok_or_else(|| refuse("the kernel does not end"))?;
                    at += 1;
                    match &piece.kind {
                        Kind::Open(_) => {
                            body.open();
                            depth += 1;
                        }
                        Kind::Close => {
                            body.close();
                            depth -= 1;
                        }
                        Kind::Label(name) => body.label(piece.line, name)?,
                        Kind::Statement(text) => body.statement(piece.line, text)?,
                    }
                }
                let kernel = body.finish()?;
                if module.kernels.iter().any(|k| k.name == kernel.name) {
                    return Err(refuse("a second kernel of this name"));
                }
                module.kernels.push(kernel);
            }
            Kind::Close => return Err(PtxError::new(*line, "}", "unmatched brace")),
            Kind::Label(name) => return Err(PtxError::new(*line, name.as_str(), "a label outside a kernel")),
        }
    }
    (module.version, module.target) = (context.version, context.target);
    Ok(module)
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn variable(module: &mut Module, context: &mut Context, v: Declaration, line: usize) -> Result<(), PtxError> {
    let refuse = |reason: &str| PtxError::new(line, v.name.as_str(), reason);
    let place = match v.space {
        Space::Shared if v.external && v.size == 0 => Constant::DynamicShared,
        _ if v.external => return Err(refuse("external variables are not linked")),
        Space::Shared if v.initialiser.is_some() => return Err(refuse("shared memory has no initialiser")),
        Space::Shared => {
            let offset = context.module_shared.next_multiple_of(v.align);
            context.module_shared = offset + v.size;
            Constant::Shared(offset as u64)
        }
        Space::Global | Space::Const => {
            let offset = module.image.len().next_multiple_of(v.align.max(16));
            module.image.resize(offset, 0);
            module.image.extend(v.bytes(line)?);
            module.variables.push(Variable { name: v.name.clone(), offset, size: v.size });
            Constant::Global(offset as u64)
        }
        _ => return Err(refuse("this space is not for variables of a module")),
    };
    match context.symbols.insert(v.name.clone(), place) {
        Some(_) => Err(refuse("declared twice")),
        None => Ok(()),
    }
}

/// Reads `.visible .entry name(.param …) .maxntid 256, 1, 1`.
fn kernel<'m>(header: &str, line: usize, context: &'m Context) -> Result<Body<'m>, PtxError> {
    let refuse = |reason: &str| PtxError::new(line, header, reason);
    let Some((_, rest)) = header.split_once(".entry") else {
        return Err(refuse("only kernels (.entry): functions are not called here"));
    };
    let (name, rest) = match rest.split_once('(') {
        Some((name, rest)) => (name, rest),
        None => {
            let rest = rest.trim();
            rest.split_at(rest.find(' ').unwrap_or(rest.len()))
        }
    };
    let (list, limits) = rest.rsplit_once(')').unwrap_or(("", rest));
    let mut body = Body::new(name.trim(), context);
    for text in text::operands(list) {
        let declared = Declaration::parse(line, text)?.ok_or_else(|| refuse("a parameter needs .param"))?;
        let offset = body.kernel.param_bytes.next_multiple_of(declared.align);
        body.kernel.param_bytes = offset + declared.size;
        body.kernel.params.push(Param { name: declared.name, offset, size: declared.size });
    }
    if body.kernel.param_bytes > 4096 {
        return Err(refuse("more than 4096 bytes of parameters"));
    }
    for limit in limits.split('.').map(str::trim).filter(|l| !l.is_empty()) {
        let (word, numbers) = limit.split_once(' ').unwrap_or((limit, ""));
        let numbers: Option<Vec<u32>> = numbers.split(',').map(|n| n.trim().parse().ok()).collect();
        let numbers = numbers.ok_or_else(|| refuse("a limit needs numbers"))?;
        let extent = |i: usize| numbers.get(i).copied().unwrap_or(1);
        match word {
            "maxntid" => body.kernel.max_threads = Some(extent(0) * extent(1) * extent(2)),
            "reqntid" => body.kernel.required = Some([extent(0), extent(1), extent(2)]),
            "minnctapersm" | "maxnreg" => {}
            _ => return Err(refuse("unknown directive of a kernel")),
        }
    }
    Ok(body)
}
