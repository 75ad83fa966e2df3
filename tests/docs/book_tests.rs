//! Tests of the Markdown parsing.

use super::book::{Page, words};

#[test]
fn pages_are_parsed_into_blocks_links_and_commands() {
    let text = "# A `b` c!\n\n`x.json`\n\n```json\n{}\n```\n\nText `y` and [l](m.md#n).\n\n```console\n$ a \\\n  b\nout\n$ c\n```\n\n    cargo test\n";
    let page = Page { path: "p.md".to_owned(), text: text.to_owned() };
    let blocks = page.blocks();
    assert_eq!(blocks.iter().map(|block| &*block.language).collect::<Vec<_>>(), ["json", "console", ""]);
    assert_eq!((blocks[0].file.as_deref(), blocks[0].line), (Some("x.json"), 5));
    assert_eq!(blocks[1].file, None);
    let entered = blocks[1].entered();
    assert_eq!((&*entered[0].command, &*entered[0].output), ("a    b", "out\n"));
    assert_eq!((&*entered[1].command, &*entered[1].output), ("c", ""));
    assert_eq!(blocks[2].entered()[0].command, "cargo test");
    assert_eq!(page.anchors(), ["a-b-c"]);
    assert_eq!(page.links(), [("m.md#n".to_owned(), 9)]);
    assert_eq!(page.inline_code().len(), 3);
}

#[test]
fn commands_end_at_a_pipe_and_quotes_keep_spaces() {
    assert_eq!(words("echo \"a b|c\" | nc -w1 x"), ["echo", "a b|c"]);
    assert_eq!(words("a  -f 'x y' \"\" # b"), ["a", "-f", "x y", ""]);
    assert_eq!(words("a & "), ["a"]);
}
