//! The entities of one kind in one guild: their texts, ordered by id.
//!
//! A table is a sorted vector. An entity takes 24 bytes and its text, and can be found by its position. Pure.

/// Texts by id.
#[derive(Default)]
pub struct Table {
    rows: Vec<(u64, Box<str>)>,
    bytes: usize,
}

impl Table {
    /// A table of rows that come in any order. Of rows with the same id the first one is kept.
    pub fn from_rows(mut rows: Vec<(u64, Box<str>)>) -> Self {
        rows.sort_by_key(|(id, _)| *id);
        rows.dedup_by_key(|(id, _)| *id);
        rows.shrink_to_fit();
        let bytes = rows.iter().map(|(_, text)| text.len() + 1).sum();
        Self { rows, bytes }
    }

    fn find(&self, id: u64) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&id, |(id, _)| *id)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Number of bytes of the array of all rows.
    pub fn bytes(&self) -> usize {
        self.bytes + 2
    }

    /// Whether there is a row with this id.
    pub fn contains(&self, id: u64) -> bool {
        self.find(id).is_ok()
    }

    /// The text of the row with this id.
    pub fn get(&self, id: u64) -> Option<&str> {
        self.find(id).ok().map(|at| &*self.rows[at].1)
    }

    /// Adds a row or replaces its text.
    pub fn set(&mut self, id: u64, text: impl Into<Box<str>>) {
        let text = text.into();
        self.bytes += text.len() + 1;
        match self.find(id) {
            Ok(at) => {
                self.bytes -= self.rows[at].1.len() + 1;
                self.rows[at].1 = text;
            }
            Err(at) => self.rows.insert(at, (id, text)),
        }
    }

    /// Removes a row. False if there is none with this id.
    pub fn remove(&mut self, id: u64) -> bool {
        let Ok(at) = self.find(id) else { return false };
        let (_, text) = self.rows.remove(at);
        self.bytes -= text.len() + 1;
        true
    }

    /// A random row; all are equally likely.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> Option<(u64, &str)> {
        if self.rows.is_empty() {
            return None;
        }
        let (id, text) = &self.rows[rng.usize(..self.rows.len())];
        Some((*id, text))
    }

    /// Ids in order.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows.iter().map(|(id, _)| *id)
    }

    /// Rows in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.rows.iter().map(|(id, text)| (*id, &**text))
    }

    /// The array of all texts as JSON.
    pub fn array(&self) -> String {
        self.array_where(|_| true)
    }

    /// The array of the texts whose ids are `wanted`, as JSON.
    pub fn array_where(&self, wanted: impl Fn(u64) -> bool) -> String {
        let mut out = String::with_capacity(self.bytes());
        out.push('[');
        for (id, text) in &self.rows {
            if wanted(*id) {
                if out.len() > 1 {
                    out.push(',');
                }
                out.push_str(text);
            }
        }
        out.push(']');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_behaves_like_an_ordered_map() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut model = std::collections::BTreeMap::new();
        let mut table = Table::from_rows(vec![(3, "3".into()), (1, "1".into()), (3, "x".into())]);
        model.insert(1, "1".to_owned());
        model.insert(3, "3".to_owned());
        for _ in 0..2_000 {
            let id = rng.u64(..40);
            if rng.bool() {
                let text = rng.u32(..1_000_000).to_string();
                table.set(id, text.clone());
                model.insert(id, text);
            } else {
                assert_eq!(table.remove(id), model.remove(&id).is_some());
            }
            assert_eq!(table.len(), model.len());
            assert_eq!(table.get(id), model.get(&id).map(String::as_str));
            let array = table.array();
            assert_eq!(array, format!("[{}]", model.values().cloned().collect::<Vec<_>>().join(",")));
            assert!(array.len() <= table.bytes());
            assert_eq!(table.pick(&mut rng).is_none(), model.is_empty());
        }
    }
}
