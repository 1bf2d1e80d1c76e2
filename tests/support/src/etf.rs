//! Reads and writes Erlang's external term format as client libraries do. It shares no code with the proxy, so that
//! the two check each other.

use serde_json::{Map, Number, Value};

/// Largest integer that is a number in JSON; larger ones are strings.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Reads a whole term as erlpack does: atoms become strings, except the constants, and large integers become strings.
///
/// # Errors A description of what is wrong with the term.
pub fn read(term: &[u8]) -> Result<Value, String> {
    read_with(term, &str::to_owned)
}

/// Reads a whole term as Elixir does, where an atom is no string: the atom `op` becomes `:op`.
///
/// # Errors
/// What is wrong with it.
pub fn read_with_atoms(term: &[u8]) -> Result<Value, String> {
    read_with(term, &|atom| format!(":{atom}"))
}

fn read_with(term: &[u8], atom: &dyn Fn(&str) -> String) -> Result<Value, String> {
    let mut rest = term.strip_prefix(&[131]).ok_or("not version 131")?;
    let value = value(&mut rest, atom)?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes after the term", rest.len())) }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    if n > rest.len() {
        return Err(format!("{n} bytes wanted, {} there", rest.len()));
    }
    let (taken, left) = rest.split_at(n);
    *rest = left;
    Ok(taken)
}

fn unsigned(rest: &mut &[u8], size: usize) -> Result<usize, String> {
    Ok(take(rest, size)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn string(rest: &mut &[u8], length: usize) -> Result<String, String> {
    String::from_utf8(take(rest, length)?.to_vec()).map_err(|error| error.to_string())
}

fn value(rest: &mut &[u8], atom: &dyn Fn(&str) -> String) -> Result<Value, String> {
    Ok(match take(rest, 1)?[0] {
        97 => unsigned(rest, 1)?.into(),
        98 => (unsigned(rest, 4)? as u32 as i32).into(),
        70 => {
            let float = f64::from_be_bytes(take(rest, 8)?.try_into().expect("8 bytes"));
            Number::from_f64(float).ok_or("not finite")?.into()
        }
        115 => {
            let length = unsigned(rest, 1)?;
            match string(rest, length)?.as_str() {
                "nil" => Value::Null,
                "true" => true.into(),
                "false" => false.into(),
                other if other.is_ascii() => atom(other).into(),
                other => return Err(format!("the atom {other} is not ASCII")),
            }
        }
        106 => Value::Array(Vec::new()),
        108 => {
            let length = unsigned(rest, 4)?;
            assert_ne!(length, 0, "the empty list has a type of its own");
            let list = (0..length).map(|_| value(rest, atom)).collect::<Result<_, _>>()?;
            if take(rest, 1)? != [106] {
                return Err("a list without its tail".to_owned());
            }
            Value::Array(list)
        }
        109 => {
            let length = unsigned(rest, 4)?;
            string(rest, length)?.into()
        }
        110 => {
            let length = unsigned(rest, 1)?;
            let negative = unsigned(rest, 1)? == 1;
            if length > 8 {
                return Err("more than 64 bits".to_owned());
            }
            let number = take(rest, length)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
            match (number > MAX_INTEGER, negative) {
                (false, false) => number.into(),
                (false, true) => (-(number as i64)).into(),
                (true, false) => number.to_string().into(),
                (true, true) => format!("-{number}").into(),
            }
        }
        116 => {
            let length = unsigned(rest, 4)?;
            let mut map = Map::new();
            for _ in 0..length {
                let Value::String(key) = value(rest, atom)? else { return Err("a key that is no string".to_owned()) };
                let value = value(rest, atom)?;
                map.insert(key, value);
            }
            Value::Object(map)
        }
        other => return Err(format!("the type {other}")),
    })
}

/// The library whose terms to write.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// erlpack: every number that is not a 32-bit integer is a float, and lists are lists.
    Erlpack,
    /// Elixir: integers stay integers, a list of bytes has a type of its own, and constants are atoms of the UTF-8
    /// type.
    Elixir,
}

/// Writes a term as a library does.
pub fn write(value: &Value, style: Style) -> Vec<u8> {
    let mut out = vec![131];
    append(value, style, &mut out);
    out
}

fn append(value: &Value, style: Style, out: &mut Vec<u8>) {
    let mut head = |tag: u8, length: usize| {
        out.push(tag);
        out.extend_from_slice(&(length as u32).to_be_bytes());
    };
    match value {
        Value::Null => atom("nil", style, out),
        Value::Bool(true) => atom("true", style, out),
        Value::Bool(false) => atom("false", style, out),
        Value::Number(number) => append_number(number, style, out),
        Value::String(string) => {
            head(109, string.len());
            out.extend_from_slice(string.as_bytes());
        }
        Value::Array(list) if list.is_empty() => out.push(106),
        Value::Array(list) => {
            let byte = |value: &Value| value.as_u64().and_then(|number| u8::try_from(number).ok());
            let bytes: Option<Vec<u8>> = list.iter().map(byte).collect();
            match (bytes, style) {
                (Some(bytes), Style::Elixir) => {
                    out.push(107);
                    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
                    out.extend_from_slice(&bytes);
                }
                _ => {
                    head(108, list.len());
                    for element in list {
                        append(element, style, out);
                    }
                    out.push(106);
                }
            }
        }
        Value::Object(map) => {
            head(116, map.len());
            for (key, value) in map {
                append(&Value::String(key.clone()), style, out);
                append(value, style, out);
            }
        }
    }
}

fn atom(name: &str, style: Style, out: &mut Vec<u8>) {
    out.push(match style {
        Style::Erlpack => 115,
        Style::Elixir => 119,
    });
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn append_number(number: &Number, style: Style, out: &mut Vec<u8>) {
    let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    match integer {
        Some(integer @ 0..=255) => out.extend_from_slice(&[97, integer as u8]),
        Some(integer) if i32::try_from(integer).is_ok() => {
            out.push(98);
            out.extend_from_slice(&(integer as i32).to_be_bytes());
        }
        Some(integer) if matches!(style, Style::Elixir) || u32::try_from(integer).is_ok() => {
            let bytes = (integer.unsigned_abs() as u64).to_le_bytes();
            let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            out.extend_from_slice(&[110, length as u8, u8::from(integer < 0)]);
            out.extend_from_slice(&bytes[..length]);
        }
        _ => {
            out.push(70);
            out.extend_from_slice(&number.as_f64().expect("a float").to_be_bytes());
        }
    }
}
