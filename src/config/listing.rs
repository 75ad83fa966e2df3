//! A file as the admin command `config` of StatsD's `proxy.js` shows it: one key a line, lists and objects one level deep.
//!
//! In: the file's entries. Out: text, byte for byte what `proxy.js` writes, but that control characters are escaped.
//! Next: `admin/`, in the dialect of `proxy.js`.

use super::json::Json;
use serde_json::Number;

/// The text; it begins with an empty line.
pub(super) fn render(object: &[(String, Json)]) -> String {
    let mut lines = String::from("\n");
    for (key, value) in properties(object) {
        match value {
            Json::Object(entries) => {
                for (inner, value) in properties(entries) {
                    lines.push_str(&line(&format!("{key} > {inner}"), value));
                }
            }
            Json::List(list) => {
                for (index, value) in list.iter().enumerate() {
                    lines.push_str(&line(&format!("{key} > {index}"), value));
                }
            }
            // JavaScript counts null among the objects; it has no properties.
            Json::Null => {}
            value => lines.push_str(&line(key, value)),
        }
    }
    lines
}

fn line(key: &str, value: &Json) -> String {
    let text = format!("{key}: {}", text_of(value));
    let safe =
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    safe.collect::<String>() + "\n"
}

/// The properties in JavaScript's order: whole numbers first, ascending, the rest in the file's order; of duplicates the place of
/// the first and the value of the last.
fn properties(object: &[(String, Json)]) -> Vec<(&str, &Json)> {
    let mut found: Vec<(&str, &Json)> = Vec::with_capacity(object.len());
    for (key, value) in object {
        match found.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => found.push((key, value)),
        }
    }
    found.sort_by_key(|(key, _)| index(key).unwrap_or(u32::MAX));
    found
}

/// The number of a key that is an array's index; the largest that there is is 2³² − 2.
fn index(key: &str) -> Option<u32> {
    let number: u32 = key.parse().ok()?;
    (number < u32::MAX && number.to_string() == key).then_some(number)
}

/// A value as JavaScript converts it to a string.
fn text_of(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Flag(flag) => flag.to_string(),
        Json::Number(number) => number_text(number),
        Json::Text(text) => text.clone(),
        Json::Object(_) => "[object Object]".to_owned(),
        Json::List(list) => {
            let texts: Vec<String> = list
                .iter()
                .map(|value| if matches!(value, Json::Null) { String::new() } else { text_of(value) })
                .collect();
            texts.join(",")
        }
    }
}

/// A number as JavaScript prints it: the shortest exact digits, with an exponent below 10⁻⁶ and from 10²¹ on.
fn number_text(number: &Number) -> String {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if (1e-6..1e21).contains(&size) {
        format!("{value}")
    } else {
        let text = format!("{value:e}");
        if text.contains("e-") { text } else { text.replace('e', "e+") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::literal;
    use super::*;

    fn rendered(text: &str) -> String {
        render(&literal::read(text).unwrap().object)
    }

    /// What node 20 printed with the `writeConfig` of StatsD 0.9.0 for the same text.
    #[test]
    fn it_is_what_proxy_js_writes() {
        assert_eq!(
            rendered(
                "{nodes: [{host: 'a', port: 1}, {host: 'b', port: 2}], port: 0x1fbd, log: {backend: 'stdout', x: [1, [2, null], {}]}, address_ipv6: false, n: null, address: ''}"
            ),
            "\nnodes > 0: [object Object]\nnodes > 1: [object Object]\nport: 8125\nlog > backend: stdout\n\
             log > x: 1,2,,[object Object]\naddress_ipv6: false\naddress: \n"
        );
        assert_eq!(
            rendered(
                "{b: 1, 7: 'x', a: 2, 3: 'y', b: 3, list: [], e: 1e21, s: 1e-7, f: .5, g: 5., h: -0, big: 123456789012345680000}"
            ),
            "\n3: y\n7: x\nb: 3\na: 2\ne: 1e+21\ns: 1e-7\nf: 0.5\ng: 5\nh: 0\nbig: 123456789012345680000\n"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(rendered(r"{address: 'a\x1b[1mb\n'}"), "\naddress: a\\u{1b}[1mb\\n\n");
    }
}
