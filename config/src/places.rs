//! Byte offsets of a text, as lines and columns.

use super::value::Position;

/// Byte offsets to lines and columns.
pub(super) struct Places<'a> {
    file: &'a Position,
    /// Where each line begins.
    lines: Vec<usize>,
    /// The bytes that are not the first of their character.
    within: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(text: &str, file: &'a Position) -> Self {
        let bytes = || text.bytes().enumerate();
        let lines = [0].into_iter().chain(bytes().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)).collect();
        let within = bytes().filter(|(_, b)| b & 0xc0 == 0x80).map(|(i, _)| i).collect();
        Places { file, lines, within }
    }

    pub(super) fn at(&self, offset: usize) -> Position {
        let line = self.lines.partition_point(|begin| *begin <= offset);
        let begin = self.lines[line.saturating_sub(1)];
        let before = |offset: usize| self.within.partition_point(|i| *i < offset);
        let column = offset - begin - (before(offset) - before(begin)) + 1;
        Position { line: line as u32, column: column as u32, ..self.file.clone() }
    }
}
