//! Slots: the forms in which a record can hold a value.

macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        /// How a record holds a value. The template has the slot's byte in place of the value. All slots are control
        /// bytes, which JSON text without white space cannot contain, so a template's text is unambiguous.
        ///
        /// "Varint" is a number in groups of seven bits, the lowest first. All other numbers are little endian.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Slot {
            $($(#[$doc])* $name = $value,)*
        }

        impl Slot {
            /// The slot of this byte; `None` when no slot has it.
            #[inline(always)]
            pub(super) fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

slots! {
    /// The record's own id as a string. The record holds nothing: the store keeps the id beside it.
    OwnId = 0x01;
    /// A string of at least 15 decimal digits, without leading zeros, that fits into 64 bits (a snowflake): 8 bytes.
    Snowflake = 0x02;
    /// A snowflake that the guild's id table has, as a string: its index there, a varint.
    Reference = 0x03;
    /// A string of 32 lower-case hexadecimal digits (the hash of an image): 16 bytes.
    Hash = 0x04;
    /// The same with `a_` before it (the hash of an animated image): 16 bytes.
    AnimatedHash = 0x05;
    /// A timestamp with microseconds: microseconds since 1970 in 7 bytes.
    Micros = 0x06;
    /// A timestamp whose microseconds end in 000: milliseconds since 2015 in 5 bytes.
    Millis = 0x07;
    /// A timestamp without a fraction: seconds since 1970 in 5 bytes.
    Seconds = 0x08;
    /// An integer above zero: a varint.
    Integer = 0x0b;
    /// A negative integer: its magnitude, a varint.
    Negative = 0x0c;
    /// A string of fewer than 15 decimal digits, without leading zeros: a varint.
    Decimal = 0x0e;
    /// Any other string: its length, a varint, and its bytes with their escapes.
    Text = 0x0f;
    /// A string that the core's string table has: its index there, a varint.
    Interned = 0x10;
    /// Any other value: the length of its JSON text, a varint, and the text.
    Raw = 0x11;
    /// An array of snowflakes that the guild's id table has: their count and their indexes there, all varints.
    References = 0x12;
    /// An array of objects: their count, a varint, and each object as in `Object`.
    Objects = 0x13;
    /// An array of strings, numbers and constants: their count, a varint, and each element as in `Any`.
    Scalars = 0x14;
    /// An object with a template of its own: the template's index, a varint, and the packed values.
    Object = 0x15;
    /// A value of any kind, in a loose template: a byte for its slot, and the value as that slot says.
    Any = 0x16;
    /// Only as the slot inside `Any`: a constant, by its index in [`CONSTANTS`], one byte.
    Constant = 0x17;
}

/// The values that are part of a template's text instead of the record.
pub(super) const CONSTANTS: [&[u8]; 7] = [b"null", b"false", b"true", b"0", b"[]", b"{}", b"\"\""];

/// The index of `null` in [`CONSTANTS`].
pub(super) const NULL: u8 = 0;

/// Milliseconds from 1970 to the first of January 2015, where Discord's own epoch begins.
pub(super) const DISCORD_EPOCH_MILLIS: u64 = 1_420_070_400_000;
