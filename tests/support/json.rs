//! A reader of JSON, as little of it as the tests need: whole documents, no limits. For trusted
//! input only; it panics on anything else.

#![allow(dead_code)] // every test binary uses a part of this

use std::collections::BTreeMap;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Float(f64),
    String(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// Reads a whole document.
    pub fn read(text: &str) -> Json {
        let mut rest = text;
        let value = value(&mut rest);
        assert_eq!(rest.trim_start(), "", "something follows the value");
        value
    }

    /// The member `key` of an object, if it is there.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.get(key),
            other => panic!("no object: {other:?}"),
        }
    }

    /// The string that this is.
    pub fn str(&self) -> &str {
        match self {
            Json::String(text) => text,
            other => panic!("no string: {other:?}"),
        }
    }

    /// The number that this is.
    pub fn number(&self) -> i64 {
        match self {
            Json::Number(number) => *number,
            other => panic!("no number: {other:?}"),
        }
    }

    /// The number that this is, whole or not.
    pub fn float(&self) -> f64 {
        match self {
            Json::Number(number) => *number as f64,
            Json::Float(number) => *number,
            other => panic!("no number: {other:?}"),
        }
    }

    /// The elements of the array that this is.
    pub fn array(&self) -> &[Json] {
        match self {
            Json::Array(values) => values,
            other => panic!("no array: {other:?}"),
        }
    }
}

impl std::ops::Index<&str> for Json {
    type Output = Json;

    fn index(&self, key: &str) -> &Json {
        self.get(key).unwrap_or_else(|| panic!("no member {key}"))
    }
}

fn value(rest: &mut &str) -> Json {
    *rest = rest.trim_start();
    match rest.as_bytes()[0] {
        b'{' => {
            let mut members = BTreeMap::new();
            list(rest, '}', |rest| {
                let Json::String(key) = value(rest) else { panic!("a key is no string") };
                expect(rest, ':');
                assert!(members.insert(key, value(rest)).is_none(), "two members with one key");
            });
            Json::Object(members)
        }
        b'[' => {
            let mut values = Vec::new();
            list(rest, ']', |rest| values.push(value(rest)));
            Json::Array(values)
        }
        b'"' => Json::String(string(rest)),
        _ => {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-+.".contains(c));
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            *rest = after;
            match word {
                "null" => Json::Null,
                "true" => Json::Bool(true),
                "false" => Json::Bool(false),
                number => match number.parse() {
                    Ok(whole) => Json::Number(whole),
                    Err(_) => Json::Float(number.parse().expect("a number")),
                },
            }
        }
    }
}

/// Reads `[a, b]` or `{a, b}`, calling `element` in front of each.
fn list(rest: &mut &str, close: char, mut element: impl FnMut(&mut &str)) {
    *rest = rest[1..].trim_start();
    if let Some(after) = rest.strip_prefix(close) {
        *rest = after;
        return;
    }
    loop {
        element(rest);
        *rest = rest.trim_start();
        let Some(after) = rest.strip_prefix(',') else { break };
        *rest = after;
    }
    expect(rest, close);
}

fn string(rest: &mut &str) -> String {
    let mut text = String::new();
    let mut chars = rest[1..].chars();
    loop {
        match chars.next().expect("a string that ends") {
            '"' => break,
            '\\' => text.push(match chars.next().expect("an escaped character") {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let hex = &chars.as_str()[..4];
                    chars = chars.as_str()[4..].chars();
                    let code = u32::from_str_radix(hex, 16).expect("four hexadecimal digits");
                    char::from_u32(code).expect("no surrogates in the vectors")
                }
                c @ ('"' | '\\' | '/') => c,
                c => panic!("escaped {c}"),
            }),
            c => text.push(c),
        }
    }
    *rest = chars.as_str();
    text
}

fn expect(rest: &mut &str, wanted: char) {
    *rest = rest.trim_start();
    *rest = rest.strip_prefix(wanted).unwrap_or_else(|| panic!("no {wanted} at {:.20}", *rest));
}
