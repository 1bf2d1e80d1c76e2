//! The kinds of values that a template leaves open.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        /// How a value is packed. Each is a control byte, which JSON text without white space can not contain, so that a
        /// template is the text of the object with one such byte in place of each value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Slot {
            $($(#[$doc])* $name = $value,)*
        }

        impl Slot {
            /// The kind of this byte.
            #[inline(always)]
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// A string that holds the record's own id: no bytes.
    Key = 0x01;
    /// A snowflake in a string: 8 bytes.
    Snowflake = 0x02;
    /// The same, when the guild's table has it: its number.
    Reference = 0x03;
    /// 32 hexadecimal digits in a string: 16 bytes.
    Hash = 0x04;
    /// The same behind `a_` (an animated image).
    AnimatedHash = 0x05;
    /// A timestamp: microseconds since 1970 in 7 bytes.
    Micros = 0x06;
    /// A timestamp whose microseconds end in 000: milliseconds since 2015 in 5 bytes.
    Millis = 0x07;
    /// A timestamp without fraction: seconds since 1970 in 5 bytes.
    Seconds = 0x08;
    /// An integer, not negative.
    Integer = 0x0b;
    /// A negative integer: its magnitude.
    Negative = 0x0c;
    /// A decimal number in a string.
    Decimal = 0x0e;
    /// Any other string: its length and its bytes, escapes untouched.
    Text = 0x0f;
    /// A string of the table of frequent ones: its number.
    Word = 0x10;
    /// Any other value: the length and the bytes of its JSON text.
    Raw = 0x11;
    /// An array of strings that are all in the guild's table: their count and numbers.
    References = 0x12;
    /// An array of objects: their count, and each as in `Object`.
    Objects = 0x13;
    /// An array of scalars: their count, and each as in `Any`.
    Scalars = 0x14;
    /// An object: its template and its values.
    Object = 0x15;
    /// The kind of the value as a byte, then the value.
    Any = 0x16;
    /// Only in `Any`: a value that would otherwise be part of the template, by its place in [`CONSTANTS`].
    Constant = 0x17;
}

/// Values that are part of the template: how they are written, and their numbers in [`Slot::Constant`].
pub const CONSTANTS: [&[u8]; 7] = [b"null", b"false", b"true", b"0", b"[]", b"{}", b"\"\""];

/// The number of `null`.
pub const NULL: u8 = 0;

/// Milliseconds from 1970 to 2015, when Discord began.
pub const EPOCH_MILLIS: u64 = 1_420_070_400_000;
