//! Erlang's external term format (ETF) as Discord uses it on the Gateway (docs: Gateway, Using ETF Encoding).
//!
//! [`Encoder`] turns the JSON text of a payload for a client into a term. [`to_json`] turns a client's command into
//! JSON text. The rest of the proxy works on JSON only. Neither builds a tree, and the memory of both is bounded.
//!
//! Discord's gateway is an Erlang system. The encoder writes what that gateway sends, and what the decoders of
//! erlpack (eris, oceanic, detritus), JDA and nostrum read:
//!
//! * Objects are maps. The keys `t`, `s`, `op` and `d`, the event type, and the keys in the data of HELLO are atoms:
//!   nostrum looks for atoms, and the other decoders turn them into strings. All other keys are binaries.
//! * Strings are binaries in UTF-8. Ids are integers in Discord's Erlang code, which turns integers above 2⁵³ into
//!   strings for JSON only. So a string of digits above 2⁵³ becomes an integer where the key says that it is an id:
//!   at the key `id`, at keys that end in `_id`, and in the lists at keys that end in `_ids` or that name roles and
//!   the like. Keys of a map stay strings, as at Discord (the docs say "integers or strings"). The bot chooses the
//!   value of `custom_id`, so that value stays a string.
//! * `null`, `true` and `false` are the atoms `nil`, `true` and `false`. An integer has the smallest type that holds
//!   it. Other numbers are 64-bit floats. `[]` is the empty list, which has a type of its own.
//! * Atoms have the old Latin-1 type, the only one that erlpack knows.

mod decode;
mod encode;

pub use decode::{Unreadable, to_json};
pub use encode::Encoder;

/// The first byte of every term: the version of the format.
pub const VERSION: u8 = 131;

/// Largest integer that is a number in JSON. Larger integers are strings.
const MAX_JSON_INTEGER: u64 = (1 << 53) - 1;

/// The tags of the term types that the Gateway uses (Erlang's documentation: External Term Format).
mod tag {
    pub const NEW_FLOAT: u8 = 70;
    pub const SMALL_INTEGER: u8 = 97;
    pub const INTEGER: u8 = 98;
    pub const FLOAT: u8 = 99;
    pub const ATOM: u8 = 100;
    pub const SMALL_TUPLE: u8 = 104;
    pub const LARGE_TUPLE: u8 = 105;
    pub const NIL: u8 = 106;
    pub const STRING: u8 = 107;
    pub const LIST: u8 = 108;
    pub const BINARY: u8 = 109;
    pub const SMALL_BIG: u8 = 110;
    pub const LARGE_BIG: u8 = 111;
    pub const SMALL_ATOM: u8 = 115;
    pub const MAP: u8 = 116;
    pub const ATOM_UTF8: u8 = 118;
    pub const SMALL_ATOM_UTF8: u8 = 119;
}

#[cfg(test)]
mod tests;
