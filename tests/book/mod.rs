//! Parses the README and the pages of the book: code blocks, links, anchors, inline code.
//!
//! In: Markdown files of the repository. Out: [`Page`]s. Next: `tests/docs.rs` (links, generated parts), `tests/guides.rs` and
//! `tests/network` (commands and configs).

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::path::{Path, PathBuf};

/// A Markdown page.
pub struct Page {
    /// Path in the repository.
    pub path: String,
    pub text: String,
}

/// A code block, fenced or indented.
#[derive(Debug)]
pub struct Block {
    /// The info string of the fence; empty for an indented block.
    pub language: String,
    pub text: String,
    /// The file name, if the preceding paragraph consists of one.
    pub file: Option<String>,
    /// The first line.
    pub line: usize,
}

/// A command line to be entered, and the output shown for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entered {
    pub command: String,
    pub output: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README, the book, and the image's README.
pub fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned(), "docker/README.md".to_owned()];
    find(&root().join("docs/src"), &mut paths);
    paths.sort();
    paths.into_iter().map(|path| page(&path)).collect()
}

pub fn page(path: &str) -> Page {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Page { path: path.to_owned(), text }
}

fn find(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

impl Page {
    fn events(&self) -> impl Iterator<Item = (Event<'_>, std::ops::Range<usize>)> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES).into_offset_iter()
    }

    /// `path:line`, for messages.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text[..offset].matches('\n').count()
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let (mut open, mut paragraph, mut file): (Option<Block>, Vec<String>, Option<String>) =
            (None, Vec::new(), None);
        for (event, range) in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    let line = self.line(range.start);
                    open = Some(Block { language, text: String::new(), file: file.take(), line });
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
                Event::Text(text) => match &mut open {
                    Some(block) => block.text += &text,
                    None => paragraph.push(String::new()),
                },
                Event::Start(Tag::Paragraph) => paragraph.clear(),
                Event::Code(code) => paragraph.push(code.to_string()),
                Event::End(TagEnd::Paragraph) => {
                    let only = if paragraph.len() == 1 { paragraph.pop() } else { None };
                    file = only.filter(|name| !name.is_empty());
                }
                Event::Start(_) => file = None,
                _ => {}
            }
        }
        blocks
    }

    /// Blocks of one language.
    pub fn blocks_of(&self, language: &str) -> Vec<Block> {
        self.blocks().into_iter().filter(|block| block.language == language).collect()
    }

    /// The single block of a language.
    pub fn block(&self, language: &str) -> Block {
        let mut blocks = self.blocks_of(language);
        assert_eq!(blocks.len(), 1, "{}: blocks of {language}", self.path);
        blocks.remove(0)
    }

    /// Targets of links and images with their lines.
    pub fn links(&self) -> Vec<(String, usize)> {
        let mut links = Vec::new();
        for (event, range) in self.events() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    links.push((dest_url.to_string(), self.line(range.start)));
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    for attribute in ["src=\"", "href=\""] {
                        let targets = html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
                        links.extend(targets.map(|target| (target.to_owned(), self.line(range.start))));
                    }
                }
                _ => {}
            }
        }
        links
    }

    /// Headings as plain text, with their level.
    pub fn headings(&self) -> Vec<(HeadingLevel, String)> {
        let mut headings = Vec::new();
        let mut open: Option<(HeadingLevel, String)> = None;
        for (event, _) in self.events() {
            match (event, &mut open) {
                (Event::Start(Tag::Heading { level, .. }), _) => open = Some((level, String::new())),
                (Event::End(TagEnd::Heading(_)), _) => headings.extend(open.take()),
                (Event::Text(text) | Event::Code(text), Some((_, heading))) => *heading += &text,
                _ => {}
            }
        }
        headings
    }

    /// Valid fragments of links to this page, by the rule of GitHub and mdBook.
    pub fn anchors(&self) -> Vec<String> {
        let anchor = |(_, heading): (HeadingLevel, String)| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        };
        self.headings().into_iter().map(anchor).collect()
    }

    /// Inline code with its lines.
    pub fn inline_code(&self) -> Vec<(String, usize)> {
        let code = |(event, range): (Event<'_>, std::ops::Range<usize>)| match event {
            Event::Code(code) => Some((code.to_string(), self.line(range.start))),
            _ => None,
        };
        self.events().filter_map(code).collect()
    }
}

impl Block {
    /// Commands to be entered: in `console` blocks the lines after `$ `, each with its output; in `sh` and indented blocks all
    /// lines. A trailing backslash continues a line.
    pub fn entered(&self) -> Vec<Entered> {
        let text = self.text.replace("\\\n", " ");
        let mut entered: Vec<Entered> = Vec::new();
        match self.language.as_str() {
            "console" => {
                for line in text.lines() {
                    match (line.strip_prefix("$ "), entered.last_mut()) {
                        (Some(command), _) => {
                            entered.push(Entered { command: command.to_owned(), output: String::new() });
                        }
                        (None, Some(last)) => last.output += &format!("{line}\n"),
                        (None, None) => panic!("output before the first command: {line}"),
                    }
                }
            }
            "" | "sh" => {
                let commands = text.lines().filter(|line| !line.trim().is_empty());
                entered
                    .extend(commands.map(|line| Entered { command: line.to_owned(), output: String::new() }));
            }
            _ => {}
        }
        entered
    }
}

/// The arguments of a command up to a pipe, redirection, comment or `&`, without quotes.
pub fn words(command: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for character in command.chars() {
        match (character, quote) {
            (_, Some(open)) if character == open => quote = None,
            (_, Some(_)) => word.push(character),
            ('"' | '\'', None) => (quote, begun) = (Some(character), true),
            ('|' | '&' | '>' | '<' | ';', None) => break,
            ('#', None) if word.is_empty() && !begun => break,
            (' ', None) => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (_, None) => word.push(character),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Writes the files shown on a page to a folder, under their names.
pub fn write_files(page: &Page, folder: &Path) {
    for block in page.blocks() {
        if let Some(name) = block.file.filter(|name| !name.contains('/')) {
            std::fs::write(folder.join(name), &block.text).unwrap();
        }
    }
}

/// A new temporary folder.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
