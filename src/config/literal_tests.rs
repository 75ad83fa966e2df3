//! Object literals as written for `proxy.js`, and the errors of invalid ones.

use super::*;

fn good(text: &str) -> Tree {
    read(text).unwrap_or_else(|fault| panic!("{text}\n{}", fault.message()))
}

fn shown(literal: &Tree) -> Vec<String> {
    literal.object.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn fault(text: &str) -> (String, bool) {
    match read(text) {
        Ok(literal) => panic!("{text}\nis taken as {literal:?}"),
        Err(fault) => (fault.message(), fault.is_code),
    }
}

#[test]
fn everything_that_an_object_literal_may_have_is_read() {
    let text = "\u{feff}/* {not: 'this'} */ (( // one\n{ a: 'x', \"b\": \"it's\", 'c': 0x1F, d: +.5, e: 5., f: -3, g: 1e3\n, \
                _$h: true, i: null, 7: 'seven', j: 'a\\\n\\x41\\'b', nested: {list: [1, 2,], },\n} /* after */ ) );; // end";
    assert_eq!(
        shown(&good(text)),
        [
            "a=\"x\"",
            "b=\"it's\"",
            "c=31",
            "d=0.5",
            "e=5.0",
            "f=-3",
            "g=1000.0",
            "_$h=true",
            "i=null",
            "7=\"seven\"",
            "j=\"aA'b\"",
            "nested={…}"
        ]
    );
    assert_eq!(shown(&good("{}")), Vec::<String>::new());
    assert_eq!(shown(&good("{a: 1, a: 2}")), ["a=1", "a=2"]);
}

#[test]
fn everything_has_its_line_and_column() {
    let places =
        good("// a comment\n({ port: 1,\n  nodes: [ {host: 'é', port: 2},\n\t{ port: 3 } ] })").places;
    assert_eq!(places.find([0, 0, 0]), (2, 4));
    assert_eq!(places.find([1, 0, 0]), (3, 3));
    assert_eq!(places.find([1, 1, 0]), (3, 12));
    assert_eq!(places.find([1, 1, 2]), (3, 24));
    assert_eq!(places.find([1, 2, 1]), (4, 4));
    // A missing key is reported at its object.
    assert_eq!(places.find([1, 2, usize::MAX]), (4, 2));
    assert_eq!(places.find([usize::MAX; 3]), (2, 2));
}

#[test]
fn code_is_refused_with_what_to_write_instead() {
    for (text, at, part) in [
        (
            "{\n port: process.env.PORT\n}",
            "line 2, column 8: port: expected a value, found code \"process.env.PORT\"",
            "write the value itself",
        ),
        (
            "{nodes: require('./nodes')}",
            "line 1, column 9: nodes: expected a value, found code \"require('./nodes')\"",
            "a string in quotes",
        ),
        (
            "{nodes: [{host: 'a', port: getPort(1)}]}",
            "line 1, column 28: nodes[0].port: expected a value, found code \"getPort(1)\"",
            "the value",
        ),
        (
            "{checkInterval: 10 * 1000}",
            "line 1, column 17: checkInterval: expected a value, found code \"10 * 1000\"",
            "the value",
        ),
        (
            "{checkInterval: 10 +1}",
            "line 1, column 17: checkInterval: expected a value, found code \"10 +1\"",
            "the value",
        ),
        (
            "{address: 'a' + 'b'}",
            "line 1, column 11: address: expected a value, found code \"'a' + 'b'\"",
            "the value",
        ),
        (
            "{address: x ? 'a' : 'b'}",
            "line 1, column 11: address: expected a value, found code \"x ? 'a' : 'b'\"",
            "the value",
        ),
        ("{address: `a`}", "line 1, column 11: address: unexpected template literal", "in quotes"),
        (
            "{address: undefined, port: 1}",
            "line 1, column 11: address: undefined is not a value",
            "omit the key",
        ),
        (
            "{on: function () {}}",
            "line 1, column 6: on: expected a value, found code \"function () {",
            "the value",
        ),
        ("{a: (1)}", "line 1, column 5: a: expected a value, found code \"(1)\"", "the value"),
        ("{...other}", "line 1, column 2: expected a value, found code \"...other\"", "the value"),
        ("module.exports = {port: 1}", "line 1, column 1: unexpected code \"module.exports =\"", "remove"),
        ("// x\nvar config = {}", "line 2, column 1: unexpected code \"var config =\"", "before the {"),
        ("{a: 1}.a", "line 1, column 7: unexpected \".a\" after the object's end", "a single object"),
    ] {
        let (message, is_code) = fault(text);
        assert!(message.starts_with(at) && message.contains(part) && is_code, "{text}\n{message}");
    }
}

#[test]
fn other_errors_state_position_and_cause() {
    for (text, start, part) in [
        ("{\n a: 1\n b: 2}", "line 3, column 2: a: missing comma before \"b\"", ""),
        (
            "{nodes: [{host: 'a' port: 1}]}",
            "line 1, column 21: nodes[0].host: missing comma before \"port\"",
            "",
        ),
        ("{address: localhost, a: 1}", "line 1, column 11: address: unexpected \"localhost\"", "quotes"),
        (
            "{address: 127.0.0.1}",
            "line 1, column 16: address: unsupported number format",
            "address in quotes",
        ),
        ("{port: 08125}", "line 1, column 9: port: unsupported number format", "without a leading 0"),
        ("{port: 0o17}", "line 1, column 9: port: unsupported number format", "decimal digits"),
        ("{port: Infinity}", "line 1, column 8: port: Infinity is not a finite number", ""),
        ("{address: 'a,\n port: 'b'}", "line 1, column 11: address: unterminated string", ""),
        ("{a: 1", "line 1, column 1: unclosed object", "}"),
        ("({a: 1}", "line 1, column 8: missing )", ""),
        ("{a: 1} {}", "line 1, column 8: unexpected \"{}\" after the object's end", ""),
        ("/* {a: 1}", "line 1, column 1: unterminated comment", ""),
        ("", "line 1, column 1: expected an object", ""),
        ("<html>", "line 1, column 1: expected an object", ""),
        ("{é: 'ü", "line 1, column 5: é: ", ""),
        ("[]", "line 1, column 1: expected an object", ""),
        ("{a 1}", "line 1, column 4: missing colon before \"1\"", ""),
        ("{a: }", "line 1, column 5: a: unexpected close brace", ""),
        ("{a: [1, }", "line 1, column 9: a[1]: missing ] before the }", ""),
    ] {
        let (message, is_code) = fault(text);
        assert!(message.starts_with(start) && message.contains(part) && !is_code, "{text}\n{message}");
    }
    let deep = format!("{{a: {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(fault(&deep).0.contains("more than 32 deep"));
}
