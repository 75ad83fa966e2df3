//! Extracts references from the tokens of a source file: paths into the crate in any notation, files of submodules, and lines
//! with `unsafe`.
//!
//! In: a file's text and its module. Out: a [`Reading`], without test code. Next: `sources.rs` follows the modules.

use proc_macro2::{Delimiter, Group, Ident, Punct, Spacing, TokenStream, TokenTree};
use std::ops::Range;

/// The crate's name in paths of its own binary.
const CRATE: &str = "statsring";

/// A module path from the crate root, which is empty.
pub type Module = Vec<String>;

/// A path from the crate root. A glob ends in `*`, and so does an import of the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub path: Vec<String>,
    pub line: usize,
}

/// An out-of-line module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub module: Module,
    /// The value of `#[path]`.
    pub file: Option<String>,
    pub is_for_tests: bool,
}

/// A parsed file. Only `children` includes test code.
#[derive(Debug, Default)]
pub struct Reading {
    pub references: Vec<Reference>,
    /// Paths that begin with a name, as if it were a submodule; most are not.
    pub relative: Vec<Vec<String>>,
    /// Paths re-exported by `pub use`.
    pub exports: Vec<Vec<String>>,
    pub children: Vec<Child>,
    pub unsafe_lines: Vec<usize>,
}

/// Parses `text` of `module`. Panics if it is not valid Rust.
pub fn read(text: &str, module: &[String]) -> Reading {
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", module.join("::")));
    let mut reading = Reading::default();
    reading.walk(tokens, module);
    reading
}

impl Reading {
    /// Walks one level of tokens, and its groups.
    fn walk(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = self.step(&tokens, at, module);
        }
    }

    /// Parses the item at `at`; returns the position after it.
    fn step(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        if let Some((attribute, end)) = inner_attribute(tokens, at) {
            self.walk(code_in(&attribute), module);
            return if is_cfg_test(&attribute) { tokens.len() } else { end };
        }
        if let Some((attributes, end)) = attributes(tokens, at) {
            return self.item(&attributes, tokens, end, module);
        }
        match &tokens[at] {
            TokenTree::Group(group) if is_restriction(tokens, at, group) => {}
            TokenTree::Group(group) => self.walk(group.stream(), module),
            TokenTree::Ident(ident) if *ident == "unsafe" => {
                self.unsafe_lines.push(ident.span().start().line)
            }
            TokenTree::Ident(ident) if *ident == "mod" => return self.module(tokens, at, module),
            TokenTree::Ident(ident) if *ident == "use" && is_after_pub(tokens, at) => {
                self.exports.extend(expand(tokens, at + 1, module).0);
            }
            TokenTree::Ident(ident) if is_start(ident) && !follows_colons(tokens, at) => {
                return self.path(tokens, at, module);
            }
            TokenTree::Ident(_) if are_colons(tokens, at + 1) && !follows_colons(tokens, at) => {
                let (paths, end) = expand(tokens, at, module);
                self.relative.extend(paths);
                return end;
            }
            _ => {}
        }
        at + 1
    }

    /// An item with attributes at `at`. Test items are skipped.
    fn item(&mut self, attributes: &[Group], tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        let is_for_tests = attributes.iter().any(is_cfg_test);
        let end = end_of_item(tokens, at);
        if let Some(name) = file_of_module(&tokens[at..end]) {
            let module = [module, &[name]].concat();
            self.children.push(Child { module, file: attributes.iter().find_map(path_of), is_for_tests });
            return end;
        }
        if is_for_tests {
            return end;
        }
        for attribute in attributes {
            self.walk(code_in(attribute), module);
        }
        at
    }

    /// `mod NAME;` or `mod NAME { ... }`.
    fn module(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        let (Some(TokenTree::Ident(name)), Some(next)) = (tokens.get(at + 1), tokens.get(at + 2)) else {
            return at + 1;
        };
        let module = [module, &[name_of(name)]].concat();
        match next {
            TokenTree::Group(group) => self.walk(group.stream(), &module),
            _ => self.children.push(Child { module, file: None, is_for_tests: false }),
        }
        at + 3
    }

    /// A path from the crate root, `self` or `super`, including braces.
    fn path(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        let (paths, end) = expand(tokens, at, module);
        let line = tokens[at].span().start().line;
        self.references.extend(paths.into_iter().map(|path| Reference { path, line }));
        end
    }
}

/// An inner attribute, `#![...]`, and its end.
fn inner_attribute(tokens: &[TokenTree], at: usize) -> Option<(Group, usize)> {
    let is_one = is_punct(tokens.get(at), '#') && is_punct(tokens.get(at + 1), '!');
    match tokens.get(at + 2) {
        Some(TokenTree::Group(group)) if is_one => Some((group.clone(), at + 3)),
        _ => None,
    }
}

/// The attributes of an item, and their end.
fn attributes(tokens: &[TokenTree], mut at: usize) -> Option<(Vec<Group>, usize)> {
    let mut attributes = Vec::new();
    while let Some(TokenTree::Group(group)) = tokens.get(at + 1).filter(|_| is_punct(tokens.get(at), '#')) {
        attributes.push(group.clone());
        at += 2;
    }
    (!attributes.is_empty()).then_some((attributes, at))
}

/// `cfg(test)` or `cfg(all(test, ...))`; `any(test, ...)` applies to other builds as well.
fn is_cfg_test(attribute: &Group) -> bool {
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    let [TokenTree::Ident(cfg), TokenTree::Group(condition)] = &tokens[..] else { return false };
    let condition: Vec<TokenTree> = condition.stream().into_iter().collect();
    *cfg == "cfg"
        && match &condition[..] {
            [TokenTree::Ident(test)] => *test == "test",
            [TokenTree::Ident(all), TokenTree::Group(parts)] if *all == "all" => parts
                .stream()
                .into_iter()
                .any(|part| matches!(part, TokenTree::Ident(test) if test == "test")),
            _ => false,
        }
}

/// The file in `path = "FILE"`.
fn path_of(attribute: &Group) -> Option<String> {
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    match &tokens[..] {
        [TokenTree::Ident(path), _, TokenTree::Literal(file)] if *path == "path" => {
            Some(file.to_string().trim_matches('"').to_string())
        }
        _ => None,
    }
}

/// The tokens of an attribute, and those in its strings, such as `with = "crate::config"`, but not in doc comments.
fn code_in(attribute: &Group) -> TokenStream {
    let is_comment =
        matches!(attribute.stream().into_iter().next(), Some(TokenTree::Ident(doc)) if doc == "doc");
    if is_comment { TokenStream::new() } else { unquote(attribute.stream()) }
}

fn unquote(tokens: TokenStream) -> TokenStream {
    let unquoted = |token: TokenTree| match token {
        TokenTree::Literal(text) => text.to_string().trim_matches('"').parse().unwrap_or_default(),
        TokenTree::Group(group) => {
            TokenTree::from(Group::new(group.delimiter(), unquote(group.stream()))).into()
        }
        other => TokenStream::from(other),
    };
    tokens.into_iter().flat_map(unquoted).collect()
}

/// The end of the item at `at`: after its braces or semicolon, or, for a field, its comma. Errs on the early side, so that
/// too little rather than too much counts as test code.
fn end_of_item(tokens: &[TokenTree], at: usize) -> usize {
    let mut angles = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return index + 1,
            TokenTree::Punct(mark) if mark.as_char() == ';' => return index + 1,
            TokenTree::Punct(mark) if mark.as_char() == ',' && angles == 0 => return index + 1,
            TokenTree::Punct(mark) if mark.as_char() == '<' => angles += 1,
            TokenTree::Punct(mark) if mark.as_char() == '>' && !ends_arrow(tokens, index) => angles -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Whether the `>` at `index` belongs to `->` or `=>`.
fn ends_arrow(tokens: &[TokenTree], index: usize) -> bool {
    let before = index.checked_sub(1).map(|before| &tokens[before]);
    matches!(before, Some(TokenTree::Punct(mark)) if mark.spacing() == Spacing::Joint && "-=".contains(mark.as_char()))
}

/// The name in an item `mod NAME;`.
fn file_of_module(item: &[TokenTree]) -> Option<String> {
    let [.., TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Punct(end)] = item else {
        return None;
    };
    (*keyword == "mod" && end.as_char() == ';').then(|| name_of(name))
}

/// Whether `pub` or `pub(...)` precedes.
fn is_after_pub(tokens: &[TokenTree], at: usize) -> bool {
    let is_pub = |at: Option<usize>| matches!(at.map(|at| &tokens[at]), Some(TokenTree::Ident(word)) if *word == "pub");
    let is_group = matches!(at.checked_sub(1).map(|at| &tokens[at]), Some(TokenTree::Group(_)));
    is_pub(at.checked_sub(if is_group { 2 } else { 1 }))
}

/// Whether a group is a visibility restriction such as `pub(super)`.
fn is_restriction(tokens: &[TokenTree], at: usize, group: &Group) -> bool {
    let is_pub = at > 0 && matches!(&tokens[at - 1], TokenTree::Ident(word) if *word == "pub");
    let mut inner = group.stream().into_iter();
    let is_start = matches!(inner.next(), Some(TokenTree::Ident(word)) if is_start(&word) || word == "in");
    is_pub && is_start && (inner.next().is_none() || group.stream().to_string().starts_with("in"))
}

fn name_of(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_string()
}

fn is_punct(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn is_start(ident: &Ident) -> bool {
    ["crate", "self", "super", CRATE].iter().any(|start| *ident == start)
}

fn are_colons(tokens: &[TokenTree], at: usize) -> bool {
    let joins = |mark: &Punct| mark.as_char() == ':' && mark.spacing() == Spacing::Joint;
    matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if joins(mark)) && is_punct(tokens.get(at + 1), ':')
}

fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && are_colons(tokens, at - 2)
}

/// The paths at `at`, several in case of braces, and their end. `base` is the enclosing module or the prefix of a group.
fn expand(tokens: &[TokenTree], mut at: usize, base: &[String]) -> (Vec<Vec<String>>, usize) {
    let mut path = base.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => match name_of(name).as_str() {
                "crate" | CRATE => path.clear(),
                "super" => drop(path.pop()),
                "self" => {}
                other => path.push(other.to_string()),
            },
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                return (expand_group(group, &path), at + 1);
            }
            Some(TokenTree::Punct(mark)) if mark.as_char() == '*' => {
                path.push("*".to_string());
                return (vec![path], at + 1);
            }
            // A turbofish, `<`, is walked separately.
            _ => return (vec![path], at),
        }
        at += 1;
        if !are_colons(tokens, at) {
            break;
        }
        at += 2;
    }
    let is_renamed = matches!(tokens.get(at), Some(TokenTree::Ident(word)) if word == "as");
    if path.is_empty() && is_renamed {
        path.push("*".to_string());
    }
    // `crate` or `super` alone, as in `pub(crate)`.
    (if path.is_empty() { Vec::new() } else { vec![path] }, at)
}

/// The paths in the braces of `path::{...}`.
fn expand_group(group: &Group, path: &[String]) -> Vec<Vec<String>> {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let ends = tokens.iter().enumerate().filter(|(_, token)| is_punct(Some(token), ',')).map(|(at, _)| at);
    let ends: Vec<usize> = ends.chain([tokens.len()]).collect();
    let mut start = 0;
    let mut paths = Vec::new();
    for end in ends {
        let entry: Range<usize> = start..end;
        if !entry.is_empty() {
            paths.extend(expand(&tokens[entry], 0, path).0);
        }
        start = end + 1;
    }
    paths
}
