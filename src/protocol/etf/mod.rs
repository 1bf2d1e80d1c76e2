//! Erlang's external term format as Discord speaks it on the Gateway (docs: Gateway, Using ETF Encoding).
//!
//! [`Encoder`] turns a payload to a client from JSON text into a term, [`to_json`] a command of a client from a term into
//! JSON text. Everything between the two works on JSON alone. Neither builds a tree, and both are bounded.
//!
//! How a payload to a client looks is what Discord's own gateway, an Erlang system, sends, and what the decoders of
//! erlpack (eris, oceanic, detritus), JDA and nostrum read:
//!
//! * Objects are maps. The keys `t`, `s`, `op` and `d` and the name of an event are atoms: nostrum looks for atoms, the
//!   others make strings of them. So are the keys in the data of HELLO. All other keys are binaries.
//! * Strings are binaries in UTF-8. Discord's ids are integers to Erlang, and it makes strings of those above 2⁵³ for
//!   JSON alone. So a string of digits above 2⁵³ is sent as an integer where an id stands: at the key `id`, at a key that
//!   ends in `_id`, and in a list at a key that ends in `_ids` or names roles and the like. Keys of a map stay strings, as
//!   they do there (the docs say "integers or strings"). `custom_id` belongs to the bot and is never touched.
//! * `null`, `true` and `false` are the atoms `nil`, `true` and `false`; an integer has the smallest type that holds it;
//!   other numbers are floats of 64 bits; `[]` is the empty list, which has a type of its own.
//! * Atoms are of the old type in Latin-1: erlpack knows no other.

mod decode;
mod encode;

pub use decode::{Unreadable, to_json};
pub use encode::Encoder;

/// The first byte of every term.
pub const VERSION: u8 = 131;

/// Integers above this are strings in JSON.
const MAX_JSON_INTEGER: u64 = (1 << 53) - 1;

/// The tags of the terms that occur here (Erlang's documentation: External Term Format).
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
