//! Decodes a client's command from a term into JSON text.
//!
//! Promises: bytes that are not a term are an error, never a panic; nesting and memory are bounded.

use super::{MAX_JSON_INTEGER, VERSION, tag};
use crate::protocol::json::write_string;
use std::io::Write;

/// Deepest nesting that is accepted. Commands stay below 10 levels, and the JSON parser that reads the result refuses
/// more than 128.
const MAX_DEPTH: usize = 64;
/// Size in bytes of the old float type: decimal text, padded with zeros.
const FLOAT_TEXT: usize = 31;

/// Why bytes are not a command in ETF. The client's connection is closed with code 4002.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub &'static str);

/// Appends the JSON text of a term to `out`, which grows by at most seven times the length of the term.
///
/// The keys of maps have to be strings, and compressed terms are refused, as the docs say (Gateway, Using ETF
/// Encoding). Integers above 2⁵³ become strings, as ids are in JSON. Floats without a fraction become integers,
/// because erlpack writes integers above 2³² as floats.
pub fn to_json(term: &[u8], out: &mut Vec<u8>) -> Result<(), Unreadable> {
    let mut reader = Reader { bytes: term };
    if reader.byte()? != VERSION {
        return Err(Unreadable("not a term of version 131"));
    }
    reader.value(out, 0)?;
    if reader.bytes.is_empty() { Ok(()) } else { Err(Unreadable("bytes after the term")) }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(Unreadable("the term is cut off"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<usize, Unreadable> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }

    fn u32(&mut self) -> Result<usize, Unreadable> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Unreadable> {
        if depth > MAX_DEPTH {
            return Err(Unreadable("nested too deeply"));
        }
        match self.byte()? {
            tag::SMALL_INTEGER => write_integer(out, false, self.byte()?.into()),
            tag::INTEGER => {
                let integer = i32::from_be_bytes(self.array()?);
                write_integer(out, integer < 0, integer.unsigned_abs().into());
            }
            tag::SMALL_BIG => {
                let length = self.byte()?.into();
                self.big(out, length)?;
            }
            tag::LARGE_BIG => {
                let length = self.u32()?;
                self.big(out, length)?;
            }
            tag::NEW_FLOAT => write_float(out, f64::from_be_bytes(self.array()?))?,
            tag::FLOAT => {
                let text = self.take(FLOAT_TEXT)?.split(|byte| *byte == 0).next().unwrap_or_default();
                let float = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
                write_float(out, float.ok_or(Unreadable("not a float"))?)?;
            }
            tag::ATOM => {
                let length = self.u16()?;
                write_atom(out, &latin_1(self.take(length)?));
            }
            tag::SMALL_ATOM => {
                let length = self.byte()?.into();
                write_atom(out, &latin_1(self.take(length)?));
            }
            tag::ATOM_UTF8 => {
                let length = self.u16()?;
                write_atom(out, utf8(self.take(length)?)?);
            }
            tag::SMALL_ATOM_UTF8 => {
                let length = self.byte()?.into();
                write_atom(out, utf8(self.take(length)?)?);
            }
            tag::BINARY => {
                let length = self.u32()?;
                write_string(out, utf8(self.take(length)?)?);
            }
            tag::NIL => out.extend_from_slice(b"[]"),
            // Erlang writes a list of integers below 256, such as the shard of an IDENTIFY, as a string of bytes.
            tag::STRING => {
                let length = self.u16()?;
                let bytes = self.take(length)?;
                write_sequence(out, bytes.len(), |index, out| {
                    write_integer(out, false, bytes[index].into());
                    Ok(())
                })?;
            }
            tag::LIST => {
                let length = self.u32()?;
                self.sequence(out, length, depth)?;
                if self.byte()? != tag::NIL {
                    return Err(Unreadable("a list has to end with the empty list"));
                }
            }
            tag::SMALL_TUPLE => {
                let length = self.byte()?.into();
                self.sequence(out, length, depth)?;
            }
            tag::LARGE_TUPLE => {
                let length = self.u32()?;
                self.sequence(out, length, depth)?;
            }
            tag::MAP => self.map(out, depth)?,
            _ => return Err(Unreadable("a term of a type that has no meaning here")),
        }
        Ok(())
    }

    fn sequence(&mut self, out: &mut Vec<u8>, length: usize, depth: usize) -> Result<(), Unreadable> {
        write_sequence(out, length, |_, out| self.value(out, depth + 1))
    }

    fn map(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Unreadable> {
        let length = self.u32()?;
        out.push(b'{');
        for index in 0..length {
            if index > 0 {
                out.push(b',');
            }
            if self.byte()? != tag::BINARY {
                return Err(Unreadable("the keys of a map have to be strings"));
            }
            let length = self.u32()?;
            write_string(out, utf8(self.take(length)?)?);
            out.push(b':');
            self.value(out, depth + 1)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// Decodes an integer: a byte for the sign, then `length` bytes of the magnitude, the least significant first.
    fn big(&mut self, out: &mut Vec<u8>, length: usize) -> Result<(), Unreadable> {
        let negative = self.byte()? != 0;
        let bytes = self.take(length)?;
        let (low, high) = bytes.split_at(bytes.len().min(8));
        if high.iter().any(|byte| *byte != 0) {
            return Err(Unreadable("an integer of more than 64 bits"));
        }
        let mut magnitude = [0; 8];
        magnitude[..low.len()].copy_from_slice(low);
        write_integer(out, negative, u64::from_le_bytes(magnitude));
        Ok(())
    }
}

/// Appends an array of `length` elements. No memory is reserved for `length`, which a client may choose freely: each
/// element takes at least one byte of the input, so the input bounds the work.
fn write_sequence(
    out: &mut Vec<u8>,
    length: usize,
    mut element: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    out.push(b'[');
    for index in 0..length {
        if index > 0 {
            out.push(b',');
        }
        element(index, out)?;
    }
    out.push(b']');
    Ok(())
}

fn write_integer(out: &mut Vec<u8>, negative: bool, magnitude: u64) {
    let sign = if negative && magnitude != 0 { "-" } else { "" };
    let quote = if magnitude > MAX_JSON_INTEGER { "\"" } else { "" };
    write!(out, "{quote}{sign}{magnitude}{quote}").expect("writing into memory can not fail");
}

fn write_float(out: &mut Vec<u8>, float: f64) -> Result<(), Unreadable> {
    if !float.is_finite() {
        return Err(Unreadable("not a finite number"));
    }
    if float.fract() == 0.0 && float.abs() <= MAX_JSON_INTEGER as f64 {
        write_integer(out, float < 0.0, float.abs() as u64);
    } else {
        serde_json::to_writer(out, &float).expect("writing into memory can not fail");
    }
    Ok(())
}

/// Appends an atom. Elixir has `nil` where Erlang has `undefined`.
fn write_atom(out: &mut Vec<u8>, name: &str) {
    match name {
        "true" | "false" => out.extend_from_slice(name.as_bytes()),
        "nil" | "null" | "undefined" => out.extend_from_slice(b"null"),
        _ => write_string(out, name),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes).map_err(|_| Unreadable("a string that is not UTF-8"))
}

fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
