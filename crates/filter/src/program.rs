//! Programs of the classic packet filter, checked once and run on every frame.

/// One instruction, as compilers write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Why instructions are no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProgram {
    /// There is none, or too many.
    #[error("{0} instructions; a program has 1 to 65,535")]
    Length(usize),
    /// The operation is none.
    #[error("instruction {at}: there is no operation {code:#06x}")]
    Operation {
        /// Number of the instruction.
        at: usize,
        /// Its operation.
        code: u16,
    },
    /// It jumps behind the end, or names a word of memory beyond the last.
    #[error("instruction {at}: {k} is out of range")]
    Range {
        /// Number of the instruction.
        at: usize,
        /// What it names.
        k: u32,
    },
    /// It divides by zero.
    #[error("instruction {at}: a division by zero")]
    Division {
        /// Number of the instruction.
        at: usize,
    },
    /// The last instruction is not the end.
    #[error("the program does not end with a return")]
    NoEnd,
}

/// Words of memory.
const MEMORY: u32 = 16;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    Constant(u32),
    X,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Word,
    Half,
    Byte,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Or,
    And,
    Xor,
    Left,
    Right,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// To A: bytes of the frame at an offset, to which X is added or not.
    Load(Width, u32, bool),
    /// To A: a value.
    LoadConstant(u32),
    LoadMemory(usize),
    LoadLength,
    /// To X: the same.
    XConstant(u32),
    XMemory(usize),
    XLength,
    /// To X: the length of the IPv4 header whose first byte is at this offset.
    XHeader(u32),
    Store(usize),
    StoreX(usize),
    Compute(Arithmetic, Operand),
    Negate,
    Jump(u32),
    Branch(Condition, Operand, u8, u8),
    Return(u32),
    ReturnA,
    ToX,
    ToA,
}

/// A checked program. Every jump goes forward, so that each run ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Step>);

impl Program {
    /// Checks `instructions`.
    ///
    /// # Errors
    /// [`InvalidProgram`] names the first that is wrong.
    pub fn new(instructions: &[Instruction]) -> Result<Self, InvalidProgram> {
        let count = instructions.len();
        if count == 0 || count > usize::from(u16::MAX) {
            return Err(InvalidProgram::Length(count));
        }
        let steps: Vec<Step> = instructions
            .iter()
            .enumerate()
            .map(|(at, instruction)| step(*instruction, at, count))
            .collect::<Result<_, _>>()?;
        match steps.last() {
            Some(Step::Return(_) | Step::ReturnA) => Ok(Self(steps)),
            _ => Err(InvalidProgram::NoEnd),
        }
    }

    /// Whether the frame is taken: `head` is what lies in one piece, `len` its length on the wire. A frame whose
    /// bytes end before what the program looks at is not taken.
    #[inline]
    pub fn takes(&self, head: &[u8], len: usize) -> bool {
        self.run(head, len).unwrap_or(0) != 0
    }

    fn run(&self, frame: &[u8], len: usize) -> Option<u32> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY as usize]);
        let mut at = 0;
        loop {
            let step = *self.0.get(at)?;
            at += 1;
            match step {
                Step::Load(width, offset, indirect) => {
                    let offset = if indirect { offset.checked_add(x)? } else { offset };
                    a = load(frame, offset, width)?;
                }
                Step::LoadConstant(k) => a = k,
                Step::LoadMemory(m) => a = memory[m],
                Step::LoadLength => a = len,
                Step::XConstant(k) => x = k,
                Step::XMemory(m) => x = memory[m],
                Step::XLength => x = len,
                Step::XHeader(offset) => x = 4 * (load(frame, offset, Width::Byte)? & 15),
                Step::Store(m) => memory[m] = a,
                Step::StoreX(m) => memory[m] = x,
                Step::Compute(operation, operand) => a = compute(operation, a, value(operand, x))?,
                Step::Negate => a = a.wrapping_neg(),
                Step::Jump(k) => at += k as usize,
                Step::Branch(condition, operand, yes, no) => {
                    let skip = if holds(condition, a, value(operand, x)) { yes } else { no };
                    at += usize::from(skip);
                }
                Step::Return(k) => return Some(k),
                Step::ReturnA => return Some(a),
                Step::ToX => x = a,
                Step::ToA => a = x,
            }
        }
    }
}

const fn value(operand: Operand, x: u32) -> u32 {
    match operand {
        Operand::Constant(k) => k,
        Operand::X => x,
    }
}

#[inline]
fn load(frame: &[u8], offset: u32, width: Width) -> Option<u32> {
    let bytes = frame.get(offset as usize..)?;
    Some(match width {
        Width::Word => u32::from_be_bytes(*bytes.first_chunk()?),
        Width::Half => u32::from(u16::from_be_bytes(*bytes.first_chunk()?)),
        Width::Byte => u32::from(*bytes.first()?),
    })
}

/// `None` divides by zero, which ends the run.
fn compute(operation: Arithmetic, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        Arithmetic::Add => a.wrapping_add(b),
        Arithmetic::Sub => a.wrapping_sub(b),
        Arithmetic::Mul => a.wrapping_mul(b),
        Arithmetic::Div => a.checked_div(b)?,
        Arithmetic::Mod => a.checked_rem(b)?,
        Arithmetic::Or => a | b,
        Arithmetic::And => a & b,
        Arithmetic::Xor => a ^ b,
        Arithmetic::Left => a.checked_shl(b).unwrap_or(0),
        Arithmetic::Right => a.checked_shr(b).unwrap_or(0),
    })
}

const fn holds(condition: Condition, a: u32, b: u32) -> bool {
    match condition {
        Condition::Equal => a == b,
        Condition::Greater => a > b,
        Condition::GreaterOrEqual => a >= b,
        Condition::AnyBit => a & b != 0,
    }
}

/// The step that instruction `at` of `count` is.
fn step(instruction: Instruction, at: usize, count: usize) -> Result<Step, InvalidProgram> {
    let Instruction { code, jt, jf, k } = instruction;
    let operation = InvalidProgram::Operation { at, code };
    let memory = || match k < MEMORY {
        true => Ok(k as usize),
        false => Err(InvalidProgram::Range { at, k }),
    };
    let left = count - at - 1;
    let operand = if code & 8 == 0 { Operand::Constant(k) } else { Operand::X };
    // Class, then what the class makes of the other bits.
    Ok(match (code & 7, code & !7) {
        (0, 0x20) => Step::Load(Width::Word, k, false),
        (0, 0x28) => Step::Load(Width::Half, k, false),
        (0, 0x30) => Step::Load(Width::Byte, k, false),
        (0, 0x40) => Step::Load(Width::Word, k, true),
        (0, 0x48) => Step::Load(Width::Half, k, true),
        (0, 0x50) => Step::Load(Width::Byte, k, true),
        (0, 0x00) => Step::LoadConstant(k),
        (0, 0x60) => Step::LoadMemory(memory()?),
        (0, 0x80) => Step::LoadLength,
        (1, 0x00) => Step::XConstant(k),
        (1, 0x60) => Step::XMemory(memory()?),
        (1, 0x80) => Step::XLength,
        (1, 0xb0) => Step::XHeader(k),
        (2, 0) => Step::Store(memory()?),
        (3, 0) => Step::StoreX(memory()?),
        (4, 0x80) => Step::Negate,
        (4, bits) => {
            let arithmetic = match bits & !8 {
                0x00 => Arithmetic::Add,
                0x10 => Arithmetic::Sub,
                0x20 => Arithmetic::Mul,
                0x30 => Arithmetic::Div,
                0x40 => Arithmetic::Or,
                0x50 => Arithmetic::And,
                0x60 => Arithmetic::Left,
                0x70 => Arithmetic::Right,
                0x90 => Arithmetic::Mod,
                0xa0 => Arithmetic::Xor,
                _ => return Err(operation),
            };
            let divides = matches!(arithmetic, Arithmetic::Div | Arithmetic::Mod);
            if divides && operand == Operand::Constant(0) {
                return Err(InvalidProgram::Division { at });
            }
            Step::Compute(arithmetic, operand)
        }
        (5, 0) if (k as usize) < left => Step::Jump(k),
        (5, 0) => return Err(InvalidProgram::Range { at, k }),
        (5, bits) => {
            let condition = match bits & !8 {
                0x10 => Condition::Equal,
                0x20 => Condition::Greater,
                0x30 => Condition::GreaterOrEqual,
                0x40 => Condition::AnyBit,
                _ => return Err(operation),
            };
            let furthest = jt.max(jf);
            if usize::from(furthest) >= left {
                return Err(InvalidProgram::Range { at, k: furthest.into() });
            }
            Step::Branch(condition, operand, jt, jf)
        }
        (6, 0x00) => Step::Return(k),
        (6, 0x10) => Step::ReturnA,
        (7, 0x00) => Step::ToX,
        (7, 0x80) => Step::ToA,
        _ => return Err(operation),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn result(instructions: &[Instruction], frame: &[u8]) -> Option<u32> {
        Program::new(instructions).unwrap().run(frame, 77)
    }

    #[test]
    fn every_operation_does_what_it_says() {
        let frame = [0x45, 1, 2, 3, 4, 5];
        let a = |k| op(0x00, 0, 0, k);
        let x = |k| op(0x01, 0, 0, k);
        let ret = op(0x16, 0, 0, 0);
        for (before, code, k, expected) in [
            (vec![], 0x20, 1, Some(0x0102_0304)),
            (vec![], 0x28, 4, Some(0x0405)),
            (vec![], 0x30, 5, Some(5)),
            (vec![], 0x20, 3, None),
            (vec![x(2)], 0x40, 0, Some(0x0203_0405)),
            (vec![x(2)], 0x48, 1, Some(0x0304)),
            (vec![x(2)], 0x50, u32::MAX, None),
            (vec![], 0x80, 0, Some(77)),
            (vec![a(7)], 0x04, 3, Some(10)),
            (vec![a(7)], 0x14, 9, Some(7u32.wrapping_sub(9))),
            (vec![a(7)], 0x24, 3, Some(21)),
            (vec![a(7)], 0x34, 3, Some(2)),
            (vec![a(7)], 0x94, 3, Some(1)),
            (vec![a(5)], 0x44, 2, Some(7)),
            (vec![a(6)], 0x54, 3, Some(2)),
            (vec![a(6)], 0xa4, 3, Some(5)),
            (vec![a(1)], 0x64, 31, Some(1 << 31)),
            (vec![a(1)], 0x64, 32, Some(0)),
            (vec![a(8)], 0x74, 3, Some(1)),
            (vec![a(8)], 0x84, 0, Some(8u32.wrapping_neg())),
            (vec![a(8), x(2)], 0x0c, 0, Some(10)),
            (vec![a(8), x(0)], 0x3c, 0, None),
            (vec![a(9), op(0x02, 0, 0, 15), a(1)], 0x60, 15, Some(9)),
            (vec![x(4), op(0x03, 0, 0, 3)], 0x60, 3, Some(4)),
            (vec![op(0xb1, 0, 0, 0)], 0x87, 0, Some(20)),
            (vec![op(0x81, 0, 0, 0)], 0x87, 0, Some(77)),
            (vec![a(3), op(0x07, 0, 0, 0), a(1)], 0x87, 0, Some(3)),
        ] {
            let program = [before, vec![op(code, 0, 0, k), ret]].concat();
            assert_eq!(result(&program, &frame), expected, "{code:#x} {k}");
        }
        for (code, k, expected) in [(0x15, 5, 1), (0x15, 6, 0), (0x25, 4, 1), (0x25, 5, 0)]
            .into_iter()
            .chain([(0x35, 5, 1), (0x35, 6, 0), (0x45, 4, 1), (0x45, 2, 0)])
        {
            let ends = [op(0x06, 0, 0, 1), op(0x06, 0, 0, 0)];
            let program = [&[a(5), op(code, 0, 1, k)][..], &ends].concat();
            assert_eq!(result(&program, &[]), Some(expected), "{code:#x} {k}");
        }
        let jump = [op(0x05, 0, 0, 1), op(0x06, 0, 0, 1), op(0x06, 0, 0, 2)];
        assert_eq!(result(&jump, &[]), Some(2));
    }

    #[test]
    fn what_is_no_program_is_refused_with_its_place() {
        let ret = op(0x06, 0, 0, 0);
        let refused = |instructions: &[Instruction]| Program::new(instructions).unwrap_err();
        assert_eq!(refused(&[]), InvalidProgram::Length(0));
        assert_eq!(refused(&[op(0, 0, 0, 0)]), InvalidProgram::NoEnd);
        assert_eq!(refused(&[op(0x05, 0, 0, 1), ret]), InvalidProgram::Range { at: 0, k: 1 });
        assert_eq!(refused(&[op(0x15, 0, 1, 0), ret]), InvalidProgram::Range { at: 0, k: 1 });
        assert_eq!(refused(&[op(0x60, 0, 0, 16), ret]), InvalidProgram::Range { at: 0, k: 16 });
        assert_eq!(refused(&[op(0x34, 0, 0, 0), ret]), InvalidProgram::Division { at: 0 });
        let unknown = InvalidProgram::Operation { at: 1, code: 0xffff };
        assert_eq!(refused(&[ret, op(0xffff, 0, 0, 0), ret]), unknown);
        assert_eq!(unknown.to_string(), "instruction 1: there is no operation 0xffff");
    }

    proptest! {
        #[test]
        fn any_program_that_is_taken_ends(
            words in prop::collection::vec((0u16..0x100, 0u8..4, 0u8..4, 0u32..40), 1..40),
            frame in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut instructions: Vec<Instruction> =
                words.into_iter().map(|(code, jt, jf, k)| op(code, jt, jf, k)).collect();
            instructions.retain(|i| step(*i, 0, 50).is_ok());
            instructions.extend(std::iter::repeat_n(op(0x06, 0, 0, 1), 45));
            if let Ok(program) = Program::new(&instructions) {
                let _ = program.takes(&frame, frame.len());
            }
        }
    }
}
