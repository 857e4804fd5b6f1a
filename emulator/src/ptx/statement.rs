//! One statement of a kernel: a directive or an instruction.

use super::PtxError;
use super::body::Body;
use super::declaration::Declaration;
use super::line::Line;
use super::program::Constant;
use super::types::Space;

impl Body<'_> {
    pub fn statement(&mut self, line: usize, text: &str) -> Result<(), PtxError> {
        let refuse = |reason: &str| PtxError::new(line, text, reason);
        if let Some(list) = text.strip_prefix(".reg") {
            return self.registers(line, text, list.trim());
        }
        if text.starts_with(".pragma") || text.starts_with(".loc ") {
            return Ok(());
        }
        if text.starts_with('.') {
            let declared = Declaration::parse(line, text)?.ok_or_else(|| refuse("unknown directive"))?;
            let total = match declared.space {
                Space::Shared => &mut self.kernel.shared,
                Space::Local => &mut self.kernel.local,
                _ => return Err(refuse("this space is not for variables of a kernel")),
            };
            if declared.initialiser.is_some() || declared.external {
                return Err(refuse("a variable of a kernel has no initialiser"));
            }
            let offset = total.next_multiple_of(declared.align);
            *total = offset + declared.size;
            let place = match declared.space {
                Space::Shared => Constant::Shared(offset as u64),
                _ => Constant::Local(offset as u64),
            };
            if self.variables.insert(declared.name, place).is_some() {
                return Err(refuse("declared twice"));
            }
            return Ok(());
        }
        let instr = Line::read(self, line, text)?;
        self.push(line, text, instr);
        Ok(())
    }
}
