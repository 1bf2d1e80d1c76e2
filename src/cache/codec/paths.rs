//! The ways on which objects have been walked through: from key to key, by the kinds of the values between them.
//!
//! Discord sends the same few forms again and again. Whoever follows a known path need not look at keys, and need not put a
//! template together to look for it: the path ends at its number. A path is learnt when an object has been taken apart
//! without one. A trie of places (a key that may come next) and ways (a kind of value that may stand there).
//!
//! Promises: what is followed is what would have been found without; memory and the time to look around at one place are
//! bounded, and what goes beyond is not learnt. Never: keeps a value, or refers to an object's text.

/// Places at most, and ways at most.
const MAX_PLACES: usize = 8_192;
/// Bytes of all keys at most.
const MAX_LITERAL_BYTES: usize = 128 << 10;
/// Keys that may come next at one point, and kinds of values at one place.
const MAX_OTHERS: usize = 24;
/// Roots at most: there is one for each use of the codec.
const MAX_ROOTS: usize = 64;

/// What a key says about how to pack its value: bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(pub u8);

impl Class {
    /// Nothing.
    pub const PLAIN: Self = Self(0);
    /// The value is the record's id.
    pub const ID: Self = Self(1);
    /// The value is the user, which has the record's id.
    pub const USER: Self = Self(2);
    /// The entry is left out.
    pub const LEFT_OUT: Self = Self(4);
    /// Ids here are put into the guild's table.
    pub const ADDS: Self = Self(8);
    /// Ids here are looked for in the guild's table.
    pub const FINDS: Self = Self(16);
    /// An array here may be one of ids of the guild's table.
    pub const LISTS: Self = Self(32);
    /// The object ends here.
    const END: Self = Self(64);

    /// Does it say that?
    #[inline(always)]
    pub fn is(self, what: Self) -> bool {
        self.0 & what.0 != 0
    }

    /// With that too, if so.
    #[inline(always)]
    pub fn and(self, what: Self, so: bool) -> Self {
        if so { Self(self.0 | what.0) } else { self }
    }
}

/// What a value turned out to be: a [`Slot`](super::kind::Slot), or one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol(pub u32);

impl Symbol {
    /// It was left out.
    pub const GONE: Self = Self(0x100);
    /// A user that was reduced to its id.
    pub const BARE: Self = Self(0x101);

    /// A constant, by its number.
    #[inline(always)]
    pub fn constant(number: u8) -> Self {
        Self(0x200 + u32::from(number))
    }

    /// An object that is part of the template around it, by how it ended.
    #[inline(always)]
    fn part(place: u32) -> Self {
        Self(0x8000_0000 | place)
    }
}

/// Number of no place and no way.
const NONE: u32 = u32::MAX;
/// In place of the number of a template: it has none.
const PART: u32 = u32::MAX - 1;

/// Where an object ended, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// For the object around it, of whose template it may be a part.
    pub part: Symbol,
    /// The number of its own template; `None`: it is a part.
    pub template: Option<u64>,
}

/// The text of one key, with the punctuation around it, where it may stand.
#[derive(Clone, Copy)]
struct Place {
    literal: u32,
    length: u8,
    class: Class,
    /// The first way on; at an end the template.
    ways: u32,
    /// First places of an object, and of elements of an array, that stand here.
    inner: [u32; 2],
    /// Another key at the same point.
    other: u32,
}

struct Way {
    symbol: Symbol,
    /// The first place behind the value.
    to: u32,
    other: u32,
}

/// Which objects stand at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// One.
    Object,
    /// Those of an array.
    Elements,
}

/// A point between two values, where a place may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before an object of a use of the codec.
    Root(u32),
    /// Behind a value.
    Way(u32),
    /// Before an object at a place.
    Inner(u32, Inner),
    /// Beyond what is learnt.
    Lost,
}

/// See the module's description.
pub struct Paths<R> {
    roots: Vec<(R, u32)>,
    /// The root that was asked for last: mostly the next one too.
    last: usize,
    places: Vec<Place>,
    ways: Vec<Way>,
    literals: Vec<u8>,
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { roots: Vec::new(), last: 0, places: Vec::new(), ways: Vec::new(), literals: Vec::new() }
    }
}

/// Do the same bytes stand in `text` from `at` on? For what is some words long, sooner than by a call.
#[inline(always)]
fn stands_at(text: &[u8], at: usize, wanted: &[u8]) -> bool {
    let Some(text) = text.get(at..at + wanted.len()) else { return false };
    let equal = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
    match (wanted.last_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(a), Some(b)) => equal((a, b)) && wanted.as_chunks().0.iter().zip(text.as_chunks().0).all(equal),
        _ => wanted.iter().zip(text).all(|(a, b)| a == b),
    }
}

/// Following.
impl<R: PartialEq> Paths<R> {
    /// Where objects of this use begin.
    pub fn root(&mut self, of: R) -> Point {
        let is_it = |(root, _): &(R, u32)| *root == of;
        if !self.roots.get(self.last).is_some_and(is_it) {
            self.last = match self.roots.iter().position(is_it) {
                Some(known) => known,
                None if self.roots.len() == MAX_ROOTS => return Point::Lost,
                None => {
                    self.roots.push((of, NONE));
                    self.roots.len() - 1
                }
            };
        }
        Point::Root(self.last as u32)
    }

    /// The first place at a point, which may be none.
    #[inline]
    pub fn first(&self, point: Point) -> u32 {
        let first = match point {
            Point::Root(number) => self.roots.get(number as usize).map(|(_, first)| *first),
            Point::Way(number) => self.ways.get(number as usize).map(|way| way.to),
            Point::Inner(place, which) => self.places.get(place as usize).map(|place| place.inner[which as usize]),
            Point::Lost => None,
        };
        first.unwrap_or(NONE)
    }

    #[inline(always)]
    fn literal(&self, place: &Place) -> &[u8] {
        let start = place.literal as usize;
        &self.literals[start..start + usize::from(place.length)]
    }

    /// The place, from the first one at a point on, whose key stands in the text at `at`; the length and class of that.
    #[inline]
    pub fn enter(&self, first: u32, text: &[u8], at: usize) -> Option<(u32, usize, Class)> {
        let mut number = first;
        loop {
            let place = self.places.get(number as usize)?;
            if stands_at(text, at, self.literal(place)) {
                return Some((number, usize::from(place.length), place.class));
            }
            number = place.other;
        }
    }

    /// What the object became that ends at this place, if one does.
    #[inline]
    pub fn end(&self, place: u32, class: Class) -> Option<End> {
        if !class.is(Class::END) {
            return None;
        }
        let template = self.places.get(place as usize)?.ways;
        Some(End { part: Symbol::part(place), template: (template != PART).then_some(u64::from(template)) })
    }

    /// The first place behind a value of this kind; `None`: it is not known.
    #[inline]
    pub fn leave(&self, place: u32, symbol: Symbol) -> Option<u32> {
        let mut number = self.places.get(place as usize)?.ways;
        loop {
            let way = self.ways.get(number as usize)?;
            if way.symbol == symbol {
                return Some(way.to);
            }
            number = way.other;
        }
    }
}

/// Learning.
impl<R: PartialEq> Paths<R> {
    /// The place of this key at a point. `None`: it is not learnt.
    pub fn learn_key(&mut self, point: Point, literal: &[u8], class: Class) -> Option<u32> {
        // What came first is likely to come most often, so it stays first.
        let (mut number, mut last, mut others) = (self.first(point), None, 0);
        while let Some(place) = self.places.get(number as usize) {
            if self.literal(place) == literal {
                return Some(number);
            }
            others += 1;
            last = Some(number);
            number = place.other;
        }
        let full = self.places.len() >= MAX_PLACES || self.literals.len() + literal.len() > MAX_LITERAL_BYTES;
        if others >= MAX_OTHERS || full {
            return None;
        }
        let length = u8::try_from(literal.len()).ok()?;
        let new = self.places.len() as u32;
        match (last, point) {
            (Some(last), _) => self.places[last as usize].other = new,
            (None, Point::Root(number)) => self.roots.get_mut(number as usize)?.1 = new,
            (None, Point::Way(number)) => self.ways.get_mut(number as usize)?.to = new,
            (None, Point::Inner(place, which)) => self.places.get_mut(place as usize)?.inner[which as usize] = new,
            (None, Point::Lost) => return None,
        }
        let literal_at = self.literals.len() as u32;
        self.literals.extend_from_slice(literal);
        self.places.push(Place { literal: literal_at, length, class, ways: NONE, inner: [NONE; 2], other: NONE });
        Some(new)
    }

    /// The point behind a value of this kind.
    pub fn learn_value(&mut self, place: Option<u32>, symbol: Option<Symbol>) -> Point {
        let (Some(place), Some(symbol)) = (place, symbol) else { return Point::Lost };
        let (mut number, mut last, mut others) = (self.places[place as usize].ways, None, 0);
        while let Some(way) = self.ways.get(number as usize) {
            if way.symbol == symbol {
                return Point::Way(number);
            }
            others += 1;
            last = Some(number);
            number = way.other;
        }
        if others >= MAX_OTHERS || self.ways.len() >= MAX_PLACES {
            return Point::Lost;
        }
        let new = self.ways.len() as u32;
        match last {
            Some(last) => self.ways[last as usize].other = new,
            None => self.places[place as usize].ways = new,
        }
        self.ways.push(Way { symbol, to: NONE, other: NONE });
        Point::Way(new)
    }

    /// Notes what the object became that ended at `point`: the number of its template, or a part of another one.
    pub fn learn_end(&mut self, point: Point, template: Option<u64>) -> Option<Symbol> {
        let value = template.map_or(Some(PART), |number| u32::try_from(number).ok().filter(|number| *number < PART))?;
        let place = self.learn_key(point, b"}", Class::END)?;
        self.places[place as usize].ways = value;
        Some(Symbol::part(place))
    }

    /// How many places are known.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.roots.capacity() * size_of::<(R, u32)>()
            + self.places.capacity() * size_of::<Place>()
            + self.ways.capacity() * size_of::<Way>()
            + self.literals.capacity()
    }
}
