//! One array of a guild: texts in the order in which they came, found by id. Cheap to share with a snapshot.

use hashbrown::HashMap;
use std::rc::Rc;

/// The text of one entity.
pub type Text = Rc<[u8]>;

/// Slots in order; a removed one is empty until there are more empty than full ones.
pub type Slots = Vec<Option<Text>>;

/// See the module's description.
#[derive(Default)]
pub struct List {
    /// Shared with snapshots; the first change after one copies the pointers.
    slots: Rc<Slots>,
    index: HashMap<u64, u32>,
}

impl List {
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn get(&self, id: u64) -> Option<&Text> {
        self.slots[*self.index.get(&id)? as usize].as_ref()
    }

    /// Sets the text of `id`, at its old place if it has one.
    pub fn set(&mut self, id: u64, text: &[u8]) {
        let slots = Rc::make_mut(&mut self.slots);
        let next = slots.len() as u32;
        let slot = *self.index.entry(id).or_insert(next);
        if slot == next {
            slots.push(Some(text.into()));
        } else {
            slots[slot as usize] = Some(text.into());
        }
    }

    pub fn remove(&mut self, id: u64) -> Option<Text> {
        let slot = self.index.remove(&id)?;
        let slots = Rc::make_mut(&mut self.slots);
        let text = slots[slot as usize].take();
        if slots.len() > 32 && slots.len() > 2 * self.index.len() {
            self.compact();
        }
        text
    }

    fn compact(&mut self) {
        let slots = Rc::make_mut(&mut self.slots);
        let mut places = Vec::with_capacity(slots.len());
        let mut next = 0;
        for slot in slots.iter() {
            places.push(next);
            next += u32::from(slot.is_some());
        }
        slots.retain(Option::is_some);
        slots.shrink_to_fit();
        for slot in self.index.values_mut() {
            *slot = places[*slot as usize];
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Removes what `keep` does not want to keep.
    pub fn retain(&mut self, mut keep: impl FnMut(u64, &[u8]) -> bool) {
        let leaving: Vec<u64> = self
            .index
            .iter()
            .filter(|(id, slot)| self.slots[**slot as usize].as_ref().is_some_and(|text| !keep(**id, text)))
            .map(|(id, _)| *id)
            .collect();
        for id in leaving {
            self.remove(id);
        }
    }

    /// The slots as they are now.
    pub fn share(&self) -> Rc<Slots> {
        self.slots.clone()
    }
}
