//! The ways on which objects have been walked through: their keys in order, and what their values turned out to be.
//!
//! Discord sends the same few forms again and again. Whoever follows a known path need not look at keys, and need not put a
//! template together to look for it: keys are a trie of places, each of which knows what may come next, and at the end of
//! an object the kinds of its values, the trail, say which template it is. A path is learnt when an object has been taken
//! apart without one. There are about as many trails as templates; were values part of the trie, it would be as large as
//! all their combinations.
//!
//! Promises: what is followed is what would have been found without; memory and the time to look around at one place are
//! bounded, and what goes beyond is not learnt. Never: keeps a value, or refers to an object's text.

use super::kind::Slot;
use hashbrown::HashTable;

/// Places at most.
const MAX_PLACES: usize = 8_192;
/// Bytes of all keys at most.
const MAX_LITERAL_BYTES: usize = 128 << 10;
/// Keys that may come next at one point.
const MAX_OTHERS: usize = 24;
/// Roots at most: there is one for each use of the codec.
const MAX_ROOTS: usize = 64;
/// Trails at most.
const MAX_TRAILS: usize = 16_384;
/// Bytes of all trails at most.
const MAX_TRAIL_BYTES: usize = 512 << 10;

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
    pub const END: Self = Self(64);

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

/// What a value turned out to be: a [`Slot`], or one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// The kind of a value.
    Slot(Slot),
    /// A constant, by its number.
    Constant(u8),
    /// It was left out.
    Gone,
    /// A user that was reduced to its id.
    Bare,
    /// An object that is part of the template around it, by the number of its own trail.
    Part(u16),
}

/// The values of an object so far, as bytes of which no two trails have the same for something else.
#[derive(Default)]
pub struct Trail(Vec<u8>);

impl Trail {
    const CONSTANTS: u8 = 0x40;
    const GONE: u8 = 0x80;
    const BARE: u8 = 0x81;
    const PART: u8 = 0x82;

    /// The next value.
    #[inline(always)]
    pub fn push(&mut self, symbol: Symbol) {
        match symbol {
            Symbol::Slot(slot) => self.0.push(slot as u8),
            Symbol::Constant(number) => self.0.push(Self::CONSTANTS + number),
            Symbol::Gone => self.0.push(Self::GONE),
            Symbol::Bare => self.0.push(Self::BARE),
            Symbol::Part(number) => {
                let [low, high] = number.to_le_bytes();
                self.0.extend_from_slice(&[Self::PART, low, high]);
            }
        }
    }

    /// Where an object begins whose values come next.
    #[inline(always)]
    pub fn mark(&self) -> usize {
        self.0.len()
    }

    /// Forgets what has come since.
    #[inline(always)]
    pub fn back_to(&mut self, mark: usize) {
        self.0.truncate(mark);
    }
}

/// Number of no place.
const NONE: u32 = u32::MAX;

/// What became of an object that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is part of the template around it.
    Part(Symbol),
    /// It has a template of its own.
    Template(u64),
}

/// The text of one key, with the punctuation around it, where it may stand.
#[derive(Clone, Copy)]
struct Place {
    literal: u32,
    length: u8,
    class: Class,
    /// The first place behind the value.
    next: u32,
    /// First places of an object, and of elements of an array, that stand here.
    inner: [u32; 2],
    /// Another key at the same point.
    other: u32,
}

/// A place whose key was found in the text.
#[derive(Clone, Copy)]
pub struct Step {
    /// Its number.
    pub place: u32,
    /// Bytes of the key, with the punctuation.
    pub length: usize,
    /// What it says about the value.
    pub class: Class,
    /// The first place behind the value.
    pub next: u32,
}

/// An object that has ended, and what became of it.
struct Ending {
    place: u32,
    /// Where the bytes of its trail are.
    trail: (u32, u32),
    /// The number of its template.
    template: Option<u16>,
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
    /// Behind the value at a place.
    Behind(u32),
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
    literals: Vec<u8>,
    endings: Vec<Ending>,
    trails: Vec<u8>,
    /// Part of the hash of a place and a trail, and the number of the ending.
    by_trail: HashTable<(u16, u16)>,
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            last: 0,
            places: Vec::new(),
            literals: Vec::new(),
            endings: Vec::new(),
            trails: Vec::new(),
            by_trail: HashTable::new(),
        }
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
            Point::Behind(place) => self.places.get(place as usize).map(|place| place.next),
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

    /// The place, from the first one at a point on, whose key stands in the text at `at`.
    #[inline]
    pub fn enter(&self, first: u32, text: &[u8], at: usize) -> Option<Step> {
        let mut number = first;
        loop {
            let place = self.places.get(number as usize)?;
            if stands_at(text, at, self.literal(place)) {
                let Place { length, class, next, .. } = *place;
                return Some(Step { place: number, length: length.into(), class, next });
            }
            number = place.other;
        }
    }

    /// The trail of an ending.
    fn trail(&self, ending: &Ending) -> &[u8] {
        &self.trails[ending.trail.0 as usize..ending.trail.1 as usize]
    }

    fn ending(&self, hash: u64, place: u32, trail: &[u8]) -> Option<u16> {
        let tag = tag(hash);
        let found = self.by_trail.find(hash, |(other, number)| {
            let ending = &self.endings[usize::from(*number)];
            *other == tag && ending.place == place && self.trail(ending) == trail
        });
        found.map(|(_, number)| *number)
    }

    /// What the object became that ends at this place, with the values since `mark`; `None`: it is not known.
    #[inline]
    pub fn end(&self, place: u32, trail: &Trail, mark: usize) -> Option<End> {
        let trail = &trail.0[mark..];
        let number = self.ending(hash(place, trail), place, trail)?;
        Some(match self.endings[usize::from(number)].template {
            Some(template) => End::Template(template.into()),
            None => End::Part(Symbol::Part(number)),
        })
    }
}

/// Seeded by chance, because trails come from outside.
#[inline(always)]
fn hash(place: u32, trail: &[u8]) -> u64 {
    super::hash(trail) ^ u64::from(place).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn tag(hash: u64) -> u16 {
    (hash >> 32) as u16
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
            (None, Point::Behind(place)) => self.places.get_mut(place as usize)?.next = new,
            (None, Point::Inner(place, which)) => self.places.get_mut(place as usize)?.inner[which as usize] = new,
            (None, Point::Lost) => return None,
        }
        let literal_at = self.literals.len() as u32;
        self.literals.extend_from_slice(literal);
        self.places.push(Place { literal: literal_at, length, class, next: NONE, inner: [NONE; 2], other: NONE });
        Some(new)
    }

    /// Notes what the object became that ended at `point`, with the values since `mark`: the number of its template, or a
    /// part of another one. `None`: it is not learnt.
    pub fn learn_end(&mut self, point: Point, trail: &Trail, mark: usize, template: Option<u64>) -> Option<Symbol> {
        let template = template.map(u16::try_from).transpose().ok()?;
        let place = self.learn_key(point, b"}", Class::END)?;
        let trail = &trail.0[mark..];
        let hash = hash(place, trail);
        if let Some(known) = self.ending(hash, place, trail) {
            return Some(Symbol::Part(known));
        }
        let number = self.endings.len();
        if number >= MAX_TRAILS || self.trails.len() + trail.len() > MAX_TRAIL_BYTES {
            return None;
        }
        let start = self.trails.len() as u32;
        self.trails.extend_from_slice(trail);
        self.endings.push(Ending { place, trail: (start, self.trails.len() as u32), template });
        if self.by_trail.len() == self.by_trail.capacity() {
            self.grow();
        }
        self.by_trail.insert_unique(hash, (tag(hash), number as u16), |_| 0);
        Some(Symbol::Part(number as u16))
    }

    /// A larger index, made anew, because it does not keep whole hashes.
    fn grow(&mut self) {
        let mut index = HashTable::with_capacity((2 * self.endings.len()).max(64));
        for (number, ending) in self.endings.iter().enumerate() {
            let hash = hash(ending.place, self.trail(ending));
            index.insert_unique(hash, (tag(hash), number as u16), |_| 0);
        }
        self.by_trail = index;
    }

    /// How many places are known.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// How many trails are known.
    pub fn trails(&self) -> usize {
        self.endings.len()
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.roots.capacity() * size_of::<(R, u32)>()
            + self.places.capacity() * size_of::<Place>()
            + self.literals.capacity()
            + self.endings.capacity() * size_of::<Ending>()
            + self.trails.capacity()
            + self.by_trail.allocation_size()
    }
}
