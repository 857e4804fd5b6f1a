//! What follows an opcode: numbers, lines, and bytes after their number.

use super::{Machine, Node};
use crate::Result;

impl<'a> Machine<'_, '_, 'a> {
    pub(super) fn slice(&mut self, length: usize) -> Result<&[u8]> {
        let end = self.place.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong("it ends in the middle"))?;
        let taken = &self.bytes[self.place..end];
        self.place = end;
        Ok(taken)
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    /// Reads a line, of protocol 0.
    pub(super) fn line(&mut self) -> Result<&[u8]> {
        let end = self.bytes[self.place..].iter().position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| self.wrong(format!("{}: its line does not end", self.name())))?;
        Ok(&self.slice(end + 1)?[..end])
    }

    /// Pushes what `read` makes of a line.
    pub(super) fn lined(&mut self, read: impl FnOnce(&str) -> Option<Node<'a>>) -> Result<()> {
        let node = core::str::from_utf8(self.line()?).ok().and_then(read);
        let node = node.ok_or_else(|| self.wrong(format!("{} of what it cannot be", self.name())))?;
        self.push(node)
    }

    /// Returns the number of a place in the memo.
    pub(super) fn numbered(&mut self) -> Result<u32> {
        let number = core::str::from_utf8(self.line()?).ok().and_then(|line| line.parse().ok());
        number.ok_or_else(|| self.wrong(format!("{} of what is no number", self.name())))
    }

    /// Reads bytes after their number, which has `N` bytes.
    pub(super) fn counted<const N: usize>(&mut self) -> Result<&[u8]> {
        let mut number = [0; 8];
        number[..N].copy_from_slice(self.slice(N)?);
        let length = usize::try_from(u64::from_le_bytes(number));
        let length = length.map_err(|_| self.wrong("it ends in the middle"))?;
        self.slice(length)
    }

    pub(super) fn text<const N: usize>(&mut self) -> Result<()> {
        let text = match core::str::from_utf8(self.counted::<N>()?) {
            Ok(text) => Node::Str(text.into()),
            // Names of files may have what is no character.
            Err(_) => Node::opaque("text that is not UTF-8"),
        };
        self.push(text)
    }

    pub(super) fn binary<const N: usize>(&mut self) -> Result<()> {
        let bytes = Node::Bytes(self.counted::<N>()?.into());
        self.push(bytes)
    }
}
