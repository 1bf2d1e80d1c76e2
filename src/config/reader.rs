//! Reading one key after the other out of the JSON object, so that every mistake is named: file, key, value, expectation.

use serde_json::{Map, Value};
use std::fmt;

/// What is wrong with the configuration, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// An object of the file, whose keys are taken out one by one.
pub struct Reader {
    file: String,
    /// Where the object stands, as a prefix of its keys: empty or `cache.`.
    prefix: String,
    object: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Reader {
    pub fn new(file: &str, prefix: &str, object: Map<String, Value>) -> Self {
        Self { file: file.into(), prefix: prefix.into(), object, known: Vec::new() }
    }

    /// The error for a key with a wrong value.
    pub fn wrong(&self, key: &str, value: &Value, expected: &str) -> ConfigError {
        // A token must not get into an error, even in the wrong place.
        let value =
            if matches!(key, "token" | "http_token") { "the given value".into() } else { shorten(&value.to_string()) };
        ConfigError(format!("{}: `{}{key}` is {value}, expected {expected}", self.file, self.prefix))
    }

    /// Takes the value of a key; `null` is as good as nothing.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.object.remove(key).filter(|value| !value.is_null())
    }

    /// Is the key given?
    pub fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(|value| !value.is_null())
    }

    /// A list of strings; none when the key is missing.
    pub fn strings(&mut self, key: &'static str, expected: &str) -> Result<Vec<String>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        serde_json::from_value(value.clone()).map_err(|_| self.wrong(key, &value, expected))
    }

    pub fn bool(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(value) => Err(self.wrong(key, &value, "true or false")),
        }
    }

    pub fn string(&mut self, key: &'static str, expected: &str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(value) => Err(self.wrong(key, &value, expected)),
        }
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &'static str, bounds: (u64, u64)) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64().filter(|number| (bounds.0..=bounds.1).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &value, &format!("a whole number from {} to {}", bounds.0, bounds.1))),
        }
    }

    /// A warning for each key that nobody took.
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

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
