//! Reading a disassembly: what kinds of accesses there are, and how long the straight way of the loop is.

use std::collections::{HashMap, VecDeque};

/// What a disassembly says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sass {
    /// Instructions of one iteration of the loop on its fast path. That is the shortest path through its 128-bit
    /// loads, without the slow paths that division and square root call for denormal numbers.
    pub turn: usize,
    /// 128-bit loads of device memory on that way.
    pub wide_loads: usize,
    /// 128-bit stores to device memory on that way.
    pub wide_stores: usize,
    /// 128-bit accesses of device memory, anywhere.
    pub wide: usize,
    /// Accesses without a state space, anywhere.
    pub generic: usize,
}

/// Reads what `nvdisasm -c` printed; the way round the loop only where `looped`.
pub fn read(text: &str, looped: bool) -> Sass {
    let code = Code::parse(text);
    let generic = code.instructions.iter().filter(|i| matches!(i.base(), "LD" | "ST")).count();
    let is_wide = |opcode: &str| opcode.starts_with("LDG.E.128") || opcode.starts_with("STG.E.128");
    let wide = code.instructions.iter().filter(|i| is_wide(&i.opcode)).count();
    let turn = if looped { code.turn() } else { Vec::new() };
    let count = |wide: &str| turn.iter().filter(|&&i| code.instructions[i].opcode.starts_with(wide)).count();
    Sass { turn: turn.len(), wide_loads: count("LDG.E.128"), wide_stores: count("STG.E.128"), wide, generic }
}

struct Instruction {
    opcode: String,
    predicated: bool,
    target: Option<String>,
}

impl Instruction {
    fn parse(text: &str) -> Instruction {
        let mut words = text.split_whitespace().peekable();
        let predicated = words.next_if(|word| word.starts_with('@')).is_some();
        let opcode = words.next().unwrap_or_default().to_owned();
        let rest: Vec<&str> = words.collect();
        // Branches also take their predicate as an operand.
        let operand = rest.first().is_some_and(|word| word.trim_start_matches(['!', 'U']).starts_with('P'));
        let quoted = text.find("`(").and_then(|at| text[at + 2..].split(')').next());
        let predicated = predicated || (opcode.starts_with("BRA") && operand);
        Instruction { opcode, predicated, target: quoted.map(str::to_owned) }
    }

    fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }
}

struct Code {
    instructions: Vec<Instruction>,
    labels: HashMap<String, usize>,
}

impl Code {
    fn parse(text: &str) -> Code {
        let mut code = Code { instructions: Vec::new(), labels: HashMap::new() };
        for line in text.lines().map(str::trim) {
            if let Some(label) = line.strip_suffix(':') {
                code.labels.insert(label.to_owned(), code.instructions.len());
            } else if let Some((_, instruction)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
                && let Some(instruction) = instruction.trim().strip_suffix(';')
            {
                code.instructions.push(Instruction::parse(instruction.trim()));
            }
        }
        code
    }

    /// Returns where the warp can be after instruction `i`, when no slow path is taken.
    fn next(&self, i: usize) -> Vec<usize> {
        let instruction = &self.instructions[i];
        let mut next = Vec::new();
        let leaves = match instruction.base() {
            // Taken only by warps that are split.
            "BRA" if instruction.opcode.starts_with("BRA.DIV") => false,
            "BRA" => {
                next.extend(instruction.target.as_ref().and_then(|label| self.labels.get(label)));
                !instruction.predicated
            }
            "EXIT" | "RET" => !instruction.predicated,
            "CALL" => true,
            _ => false,
        };
        if !leaves {
            next.push(i + 1);
        }
        next.retain(|&place| place < self.instructions.len());
        next
    }

    /// Returns the shortest way from the first 128-bit load back to itself, or nothing.
    fn turn(&self) -> Vec<usize> {
        let Some(start) = self.instructions.iter().position(|i| i.opcode.starts_with("LDG.E.128")) else {
            return Vec::new();
        };
        let mut came_from = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(place) = queue.pop_front() {
            for next in self.next(place) {
                if came_from.contains_key(&next) {
                    continue;
                }
                came_from.insert(next, place);
                if next == start {
                    let mut way = vec![place];
                    while let Some(&before) =
                        way.last().filter(|last| **last != start).map(|last| &came_from[last])
                    {
                        way.push(before);
                    }
                    return way;
                }
                queue.push_back(next);
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_straight_way_leaves_slow_paths_out() {
        let text = "
.L_x_1:
        /*0000*/    @!P0 BRA `(.L_x_2) ;
        /*0010*/    LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/    BRA `(.L_x_3) ;
.L_x_2:
        /*0030*/    LDG.E R4, desc[UR4][R2.64] ;
.L_x_3:
        /*0040*/    @!P1 BRA `(.L_x_4) ;
        /*0050*/    CALL.REL.NOINC `($slow) ;
        /*0060*/    BRA `(.L_x_5) ;
.L_x_4:
        /*0070*/    MUFU.RCP R4, R4 ;
        /*0080*/    FMUL R4, R4, R5 ;
        /*0090*/    FMUL R4, R4, R5 ;
.L_x_5:
        /*00a0*/    STG.E.128 desc[UR4][R2.64], R4 ;
        /*00b0*/    @P2 BRA `(.L_x_1) ;
        /*00c0*/    LD.E R4, [R2.64] ;
        /*00d0*/    EXIT ;
";
        assert_eq!(read(text, true), Sass { turn: 9, wide_loads: 1, wide_stores: 1, wide: 2, generic: 1 });
    }
}
