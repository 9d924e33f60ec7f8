//! Just enough of a reader of Rust: tokens without comments and texts, without test modules, and the paths in them.

use std::fs;
use std::path::Path;

/// One file.
pub(crate) struct Source {
    /// From the root of the crate, with `/`.
    pub(crate) path: String,
    /// `["gate", "limit"]` for `src/gate/limit.rs`; empty for the root itself.
    pub(crate) module: Vec<String>,
    /// All lines.
    pub(crate) lines: usize,
    /// Modules in files of their own that are declared here under `cfg(test)`.
    test_modules: Vec<Vec<String>>,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

/// All files below a folder; those of test modules count their lines alone.
pub(crate) fn read_tree(root: &Path, folder: &str) -> Vec<Source> {
    let mut sources = read_files(root, folder);
    let tests: Vec<Vec<String>> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
    for source in &mut sources {
        if tests.iter().any(|test| source.module.starts_with(test)) {
            source.tokens.clear();
        }
    }
    sources
}

fn read_files(root: &Path, folder: &str) -> Vec<Source> {
    let mut entries: Vec<_> =
        fs::read_dir(root.join(folder)).expect("a folder").map(|entry| entry.expect("an entry")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut sources = Vec::new();
    for entry in entries {
        let path = format!("{folder}/{}", entry.file_name().to_str().expect("a plain name"));
        if entry.file_type().expect("a type").is_dir() {
            sources.extend(read_files(root, &path));
        } else if path.ends_with(".rs") {
            sources.push(Source::new(&path, &fs::read_to_string(entry.path()).expect("a text")));
        }
    }
    sources
}

/// The modules that a file declares by `#[cfg(test)]` and, in one of the next lines, `mod name;`.
fn declared_tests(module: &[String], text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut under_test = false;
    for line in text.lines().map(str::trim) {
        let name = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        if let Some(name) = name.filter(|_| under_test) {
            found.push(module.iter().cloned().chain([name.to_owned()]).collect());
        }
        under_test = line == "#[cfg(test)]" || (under_test && line.starts_with("#["));
    }
    found
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let stem = path.strip_prefix("src/").unwrap_or(path);
        let stem = stem.strip_suffix(".rs").unwrap_or(stem);
        let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let test_modules = declared_tests(&module, text);
        let test = module.iter().any(|part| part == "tests");
        Self {
            path: path.to_owned(),
            module,
            lines: text.lines().count(),
            test_modules,
            tokens: if test { Vec::new() } else { without_tests(tokens(text)) },
        }
    }

    /// The lines of match arms that catch everything.
    pub(crate) fn wildcard_arms(&self) -> Vec<usize> {
        self.tokens
            .windows(3)
            .filter(|three| three[0].text == "_" && three[1].text == "=" && three[2].text == ">")
            .map(|three| three[0].line)
            .collect()
    }

    /// Every path, imports taken apart and relative ones made absolute, with its line.
    pub(crate) fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let text = self.text(at);
            if text == "use" || (text == "crate" && self.before(at) == Some("extern")) {
                at = self.tree(at + 1, &[], &mut found);
            } else if self.begins_path(at) {
                let (path, next) = self.path(at);
                if path.len() > 1 {
                    found.push((self.tokens[at].line, path));
                }
                at = next;
            } else {
                at += 1;
            }
        }
        for (_, path) in &mut found {
            self.make_absolute(path);
        }
        found
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn before(&self, at: usize) -> Option<&str> {
        at.checked_sub(1).map(|before| self.text(before))
    }

    fn is_colons(&self, at: usize) -> bool {
        self.text(at) == ":" && self.text(at + 1) == ":"
    }

    /// A word that is not the middle of a path, nor a field or method.
    fn begins_path(&self, at: usize) -> bool {
        is_word(self.text(at)) && self.before(at) != Some(".")
    }

    /// The words of the path that begins here, and where it ends.
    fn path(&self, mut at: usize) -> (Vec<String>, usize) {
        let mut path = vec![self.text(at).to_owned()];
        at += 1;
        while self.is_colons(at) && is_word(self.text(at + 2)) {
            path.push(self.text(at + 2).to_owned());
            at += 3;
        }
        (path, at)
    }

    /// One tree of a `use`; returns where it ends.
    fn tree(&self, mut at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
        if self.is_colons(at) {
            at += 2;
        }
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        let mut path = prefix.to_vec();
        loop {
            match self.text(at) {
                "{" => {
                    at += 1;
                    while self.text(at) != "}" && at < self.tokens.len() {
                        at = self.tree(at, &path, found);
                        if self.text(at) == "," {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                "self" if !path.is_empty() => at += 1,
                word if is_word(word) || word == "*" => {
                    path.push(word.to_owned());
                    at += 1;
                }
                _ => return at + 1,
            }
            if self.is_colons(at) {
                at += 2;
                continue;
            }
            if self.text(at) == "as" {
                at += 2;
            }
            found.push((line, path));
            return at;
        }
    }

    fn make_absolute(&self, path: &mut Vec<String>) {
        let mut base = match path[0].as_str() {
            "self" | "super" => self.module.clone(),
            _ => return,
        };
        while let Some(first) = path.first() {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            path.remove(0);
        }
        base.insert(0, "crate".to_owned());
        base.append(path);
        *path = base;
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Leaves out each item under `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = tokens[at..].iter().take(MARK.len()).map(|token| token.text.as_str()).eq(MARK);
        if marked {
            at = end_of_item(&tokens, at + MARK.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Behind the `;` or the closing brace of the item that begins here, its other attributes included.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                // An import in braces ends with its semicolon.
                if depth == 0 && tokens.get(at + 1).is_none_or(|next| next.text != ";") {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Words, lifetimes left out, and single signs; no comments, no texts, no numbers.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let end = if c == '/' && next == '/' {
            chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
        } else if c == '/' && next == '*' {
            end_of_comment(&chars, at)
        } else if c == '"' {
            end_of_text(&chars, at + 1)
        } else if c == '\'' {
            end_of_quote(&chars, at)
        } else if c.is_alphanumeric() || c == '_' {
            let length = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
            let word: String = chars[at..at + length].iter().collect();
            let after = chars.get(at + length).copied().unwrap_or(' ');
            match (word.as_str(), after) {
                ("r" | "br" | "cr", '"' | '#') => end_of_raw(&chars, at + length).unwrap_or(at + length),
                // The quote itself is next.
                ("b" | "c", '"' | '\'') => at + length,
                _ => {
                    found.push(Token { line, text: word });
                    at + length
                }
            }
        } else {
            if !c.is_whitespace() {
                found.push(Token { line, text: c.to_string() });
            }
            at + 1
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_text(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A character, or else a lifetime, of which only the quote is left out together with its name.
fn end_of_quote(chars: &[char], at: usize) -> usize {
    if chars.get(at + 1) == Some(&'\\') {
        let rest = chars[at + 3..].iter().position(|c| *c == '\'');
        return rest.map_or(chars.len(), |length| at + 3 + length + 1);
    }
    if chars.get(at + 2) == Some(&'\'') {
        return at + 3;
    }
    let name = chars[at + 1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
    at + 1 + name
}

/// Behind a raw text whose `#`s or quote stand here; none where it is a raw word such as `r#type`.
fn end_of_raw(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None;
    }
    let mut end = at + hashes + 1;
    while end < chars.len() {
        if chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}
