//! JSON objects, one to a line (RFC 8259).

use std::fmt::Write;
use std::time::Duration;

/// A value of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A number; `null` when it is not known or not finite.
    Number(Option<f64>),
    /// A time, in seconds; `null` when it is not known.
    Seconds(Option<Duration>),
    /// A yes or no.
    Bool(bool),
    /// Text; `null` when there is none.
    Text(Option<String>),
    /// Texts.
    List(Vec<String>),
    /// Another object.
    Object(Vec<Field>),
}

/// A name and its value.
pub type Field = (&'static str, Value);

/// The object of `fields` about `event`, in a line without its end.
pub fn event(event: &str, fields: Vec<Field>) -> String {
    let mut all = vec![("event", Value::Text(Some(event.into())))];
    all.extend(fields);
    object(&all)
}

/// The object of `fields`, in a line without its end.
pub fn object(fields: &[Field]) -> String {
    let mut out = String::new();
    write_object(&mut out, fields);
    out
}

fn write_object(out: &mut String, fields: &[Field]) {
    out.push('{');
    for (at, (name, value)) in fields.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(out, name);
        out.push(':');
        write_value(out, value);
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Count(count) => {
            let _infallible = write!(out, "{count}");
        }
        Value::Number(number) => write_number(out, *number),
        Value::Seconds(time) => write_number(out, time.map(|time| time.as_secs_f64())),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Text(Some(text)) => write_text(out, text),
        Value::Text(None) => out.push_str("null"),
        Value::List(texts) => {
            out.push('[');
            for (at, text) in texts.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_text(out, text);
            }
            out.push(']');
        }
        Value::Object(fields) => write_object(out, fields),
    }
}

/// To the microsecond: more is noise.
fn write_number(out: &mut String, number: Option<f64>) {
    match number.filter(|number| number.is_finite()) {
        Some(number) => {
            let rounded = (number * 1e6).round() / 1e6;
            let _infallible = write!(out, "{rounded}");
        }
        None => out.push_str("null"),
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            // Those that end a line for some readers, and those that steer a terminal.
            '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_valid_json_on_one_line() {
        let fields = [
            ("count", Value::Count(u64::MAX)),
            ("half", Value::Number(Some(0.5))),
            ("nan", Value::Number(Some(f64::NAN))),
            ("time", Value::Seconds(Some(Duration::from_micros(1_234_567)))),
            ("never", Value::Seconds(None)),
            ("yes", Value::Bool(true)),
            ("text", Value::Text(Some("a\"b\\c\n\u{1b}\u{2028}é".into()))),
            ("none", Value::Text(None)),
            ("list", Value::List(vec!["a".into(), "b".into()])),
            ("inner", Value::Object(vec![("x", Value::Count(1))])),
        ];
        assert_eq!(
            object(&fields),
            "{\"count\":18446744073709551615,\"half\":0.5,\"nan\":null,\"time\":1.234567,\
             \"never\":null,\"yes\":true,\"text\":\"a\\\"b\\\\c\\n\\u001b\\u2028é\",\"none\":null,\
             \"list\":[\"a\",\"b\"],\"inner\":{\"x\":1}}"
        );
        assert_eq!(object(&[]), "{}");
    }
}
