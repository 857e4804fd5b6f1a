//! Module scope: versions, variables, headers of kernels.

use std::collections::HashMap;

use super::PtxError;
use super::body::Body;
use super::declaration::{Context, Declaration};
use super::program::{Constant, Module, Param, Variable};
use super::text::{self, Kind, Piece};
use super::types::Space;

/// The newest PTX version that is accepted.
const NEWEST: (u32, u32) = (8, 8);

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
