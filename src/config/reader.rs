//! Reads keys out of a JSON object of the configuration, one by one. Each error names the file, the key, the value, and
//! what is expected.

use super::{ConfigError, error::ShownValue};
use serde_json::{Map, Value};

/// A JSON object of the file, whose keys are taken out one by one.
pub struct Reader {
    file: String,
    /// Prefix of the object's keys in errors: empty for the whole file, or for example `cache.`.
    prefix: String,
    object: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Reader {
    pub fn new(file: &str, prefix: &str, object: Map<String, Value>) -> Self {
        Self { file: file.into(), prefix: prefix.into(), object, known: Vec::new() }
    }

    /// The error for a key with a wrong value.
    pub fn error(&self, key: &str, value: &Value, expected: &str) -> ConfigError {
        let value = ShownValue::new(key, value);
        let (file, key) = (self.file.clone(), format!("{}{key}", self.prefix));
        ConfigError::Value { file, key, value, expected: expected.into() }
    }

    /// Takes the value of a key; `None`: the key is missing or its value is `null`.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.object.remove(key).filter(|value| !value.is_null())
    }

    /// Says whether a key that was not taken has a value other than `null`.
    pub fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(|value| !value.is_null())
    }

    /// Takes a list of strings; an empty one when the key is missing.
    pub fn strings(&mut self, key: &'static str, expected: &str) -> Result<Vec<String>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        serde_json::from_value(value.clone()).map_err(|_| self.error(key, &value, expected))
    }

    pub fn bool(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(value) => Err(self.error(key, &value, "true or false")),
        }
    }

    pub fn string(&mut self, key: &'static str, expected: &str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(value) => Err(self.error(key, &value, expected)),
        }
    }

    /// Takes a whole number within bounds, which are inclusive.
    pub fn number(&mut self, key: &'static str, bounds: (u64, u64)) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64().filter(|number| (bounds.0..=bounds.1).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(key, &value, &format!("a whole number from {} to {}", bounds.0, bounds.1))),
        }
    }

    /// A warning for each key that was not taken, with the nearest known key.
    pub fn unknown(self) -> Vec<String> {
        let warn = |key: &String| {
            let nearest = self.known.iter().min_by_key(|known| strsim::levenshtein(key, known));
            let hint = match nearest {
                Some(nearest) if strsim::levenshtein(key, nearest) <= 1 + key.len() / 3 => {
                    format!("; did you mean `{}{nearest}`?", self.prefix)
                }
                _ => String::new(),
            };
            format!("{}: unknown key `{}{key}` is ignored{hint}", self.file, self.prefix)
        };
        self.object.keys().map(warn).collect()
    }
}
