//! An object taken apart on a known [path](super::paths): only its values are looked at.

use super::{
    kind::Slot,
    paths::{Class, End, Inner, Point, Step, Symbol},
    walk::{Walk, insert_varint},
};
use crate::protocol::json;

impl Walk<'_> {
    /// The whole object; the number of its template. `None`: no path that is known leads through it, and the record holds a
    /// part of it.
    pub fn follow_from(&mut self, root: Point) -> Option<u64> {
        let first = self.tables.paths.first(root);
        match self.follow(first)? {
            End::Template(number) => Some(number),
            End::Part(_) => None,
        }
    }

    /// An object, from the first place that it may begin with.
    fn follow(&mut self, mut first: u32) -> Option<End> {
        let mark = self.trail.mark();
        loop {
            let Step { place, length, class, next } = self.tables.paths.enter(first, self.text, self.at)?;
            self.at += length;
            if class.is(Class::END) {
                let end = self.tables.paths.end(place, self.trail, mark)?;
                self.trail.back_to(mark);
                return Some(end);
            }
            let start = self.at;
            let symbol = if class.is(Class::LEFT_OUT) {
                let mut cursor = json::Cursor::new(&self.text[start..]);
                cursor.value().ok()?;
                self.at += cursor.position();
                self.removed = self.removed.wrapping_add(length + cursor.position());
                Symbol::Gone
            } else {
                self.follow_value(place, class)?
            };
            self.note_id(class, start);
            self.trail.push(symbol);
            first = next;
        }
    }

    #[inline(always)]
    fn follow_value(&mut self, place: u32, class: Class) -> Option<Symbol> {
        let start = self.at;
        // What is put into the template on the way is not wanted.
        self.copied = start;
        if class.is(Class::USER) && self.shape.bare_user && self.take_bare_user().ok()? {
            return Some(Symbol::Bare);
        }
        match (self.text.get(start)?, self.text.get(start + 1)?) {
            (b'{', next) if *next != b'}' => {
                let inner = self.record.len();
                match self.follow(self.tables.paths.first(Point::Inner(place, Inner::Object)))? {
                    End::Part(symbol) => Some(symbol),
                    End::Template(number) => {
                        insert_varint(self.record, inner, number);
                        Some(Symbol::Slot(Slot::Object))
                    }
                }
            }
            (b'[', b'{') => self.follow_elements(place),
            (b'[', next) if *next != b']' => self.flat_array(class, false).ok(),
            _ => self.scalar(class).ok(),
        }
    }

    fn follow_elements(&mut self, place: u32) -> Option<Symbol> {
        let first = self.tables.paths.first(Point::Inner(place, Inner::Elements));
        let counted = self.record.len();
        self.at += 1;
        let mut count = 0;
        loop {
            let inner = self.record.len();
            let End::Template(number) = self.follow(first)? else { return None };
            insert_varint(self.record, inner, number);
            count += 1;
            if !self.another().ok()? {
                break;
            }
        }
        insert_varint(self.record, counted, count);
        Some(Symbol::Slot(Slot::Objects))
    }
}
