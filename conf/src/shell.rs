//! Reads `conjure.conf`: assignments and expansions of the shell, without a shell
//! (`spec/operations.md` 4.5).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use crate::arithmetic;
use crate::problem::{Notice, Origin, Problem};

/// Longest value of one variable, so that repeated expansion cannot exhaust memory.
const MAX_VALUE: usize = 64 * 1024;
/// Deepest nesting of `${NAME:-WORD}`.
const MAX_DEPTH: usize = 16;

/// A variable and where its value was set last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The value, quotes removed and expansions made.
    pub value: String,
    /// Where it was set.
    pub origin: Origin,
}

/// Variables by name.
pub(crate) type Scope = BTreeMap<String, Variable>;

/// Why reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The file uses more of the shell than this reader knows.
    Unsupported { line: usize, what: String },
    /// The file is wrong for a shell as well.
    Invalid(Problem),
}

/// Applies the assignments of `text` to `scope`.
///
/// # Errors
/// [`Stop`]; the scope then holds what came before.
pub(crate) fn apply(
    text: &str,
    path: &Path,
    scope: &mut Scope,
    notices: &mut Vec<Notice>,
) -> Result<(), Stop> {
    let counted = Cell::new((0, 1));
    let mut reader = Reader { rest: text, text, path, scope, notices, counted };
    while reader.statement()? {}
    Ok(())
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    path: &'a Path,
    scope: &'a mut Scope,
    notices: &'a mut Vec<Notice>,
    /// An offset into the text and the line it is on, so that lines are counted only once.
    counted: Cell<(usize, usize)>,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'a> Reader<'a> {
    fn line(&self) -> usize {
        let at = self.text.len() - self.rest.len();
        let (from, line) = self.counted.get();
        let passed = self.text.as_bytes()[from..at].iter().filter(|&&b| b == b'\n').count();
        self.counted.set((at, line + passed));
        line + passed
    }

    fn unsupported<T>(&self, what: impl Into<String>) -> Result<T, Stop> {
        Err(Stop::Unsupported { line: self.line(), what: what.into() })
    }

    fn invalid<T>(&self, key: &str, found: impl Into<String>, expected: &str) -> Result<T, Stop> {
        Err(Stop::Invalid(Problem {
            origin: Origin::file(self.path, self.line()),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.to_owned(),
        }))
    }

    fn notice(&mut self, line: usize, text: &str) {
        self.notices.push(Notice { origin: Origin::file(self.path, line), text: text.to_owned() });
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
            if !self.eat("\\\n") {
                return;
            }
        }
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
    }

    /// A name at the cursor, without moving it.
    fn name(&self) -> &'a str {
        if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            return "";
        }
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    /// True at the end of a simple statement.
    fn at_end(&self) -> bool {
        matches!(self.peek(), None | Some('\n' | ';' | '#'))
    }

    /// One statement; false at the end of the file.
    fn statement(&mut self) -> Result<bool, Stop> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = self.peek() else { return Ok(false) };
        if first == '#' {
            self.skip_line();
            return Ok(true);
        }
        if first == ';' {
            return self.invalid("", "a `;` with nothing before it", "a statement");
        }
        let name = self.name();
        let after = &self.rest[name.len()..];
        if name == "function" || after.trim_start().starts_with("()") && !name.is_empty() {
            self.skip_function()?;
        } else if name == "if" && after.starts_with([' ', '\t']) {
            self.skip_if()?;
        } else if after.starts_with('=') || after.starts_with("+=") {
            self.assignments(false)?;
        } else if matches!(name, "export" | "set" | "unset" | "set_default")
            && after.starts_with([' ', '\t'])
        {
            self.rest = after;
            self.skip_blanks();
            match name {
                "export" => self.assignments(true)?,
                "set" => self.allexport()?,
                "unset" => self.unset()?,
                _ => self.set_default()?,
            }
        } else {
            return self.unsupported(format!("`{}`", self.current_line()));
        }
        self.eat(";");
        Ok(true)
    }

    /// `NAME=VALUE ...` up to the end of the statement.
    fn assignments(&mut self, exporting: bool) -> Result<(), Stop> {
        while !self.at_end() {
            let name = self.name();
            let line = self.line();
            let after = &self.rest[name.len()..];
            if name.is_empty() {
                return self.unsupported("something other than NAME=VALUE");
            } else if let Some(rest) = after.strip_prefix('=') {
                self.rest = rest;
                let value = self.value(name)?;
                self.set(name, value, line);
            } else if let Some(rest) = after.strip_prefix("+=") {
                self.rest = rest;
                let added = self.value(name)?;
                let value = format!("{}{added}", self.get(name));
                self.bounded(name, &value)?;
                self.set(name, value, line);
            } else if exporting {
                self.rest = after;
            } else {
                return self.unsupported(format!("a command ({name})"));
            }
            self.skip_blanks();
        }
        Ok(())
    }

    fn allexport(&mut self) -> Result<(), Stop> {
        if !(self.eat("-a") || self.eat("+a")) {
            return self.unsupported("`set` with options other than a");
        }
        self.skip_blanks();
        if self.at_end() { Ok(()) } else { self.unsupported("`set` with arguments") }
    }

    fn unset(&mut self) -> Result<(), Stop> {
        while !self.at_end() {
            let name = self.name();
            if name.is_empty() {
                return self.unsupported("`unset` of something other than names");
            }
            self.scope.remove(name);
            self.rest = &self.rest[name.len()..];
            self.skip_blanks();
        }
        Ok(())
    }

    /// The helper of the reference's default file: sets a variable only if it is empty.
    fn set_default(&mut self) -> Result<(), Stop> {
        let (name, line) = (self.name(), self.line());
        self.rest = &self.rest[name.len()..];
        self.skip_blanks();
        let value = self.value(name)?;
        self.skip_blanks();
        if name.is_empty() || !self.at_end() {
            return self.unsupported("`set_default` without exactly NAME VALUE");
        }
        if self.get(name).is_empty() {
            self.set(name, value, line);
        }
        Ok(())
    }

    /// Skips from the header of a function to the `}` that stands alone on its line.
    fn skip_function(&mut self) -> Result<(), Stop> {
        let start = self.line();
        let mut ended = self.current_line().ends_with('}');
        self.skip_line();
        while !ended {
            if self.rest.is_empty() {
                return self.invalid("", "a function without its end", "a line with only `}`");
            }
            ended = self.current_line() == "}";
            self.skip_line();
        }
        self.notice(start, "function skipped: only assignments are read here");
        Ok(())
    }

    fn current_line(&self) -> &'a str {
        self.rest.split('\n').next().unwrap_or_default().trim_end()
    }

    fn skip_if(&mut self) -> Result<(), Stop> {
        let start = self.line();
        let mut open = 0usize;
        while !self.rest.is_empty() {
            let line = self.current_line();
            self.skip_line();
            let code = line.split(" #").next().unwrap_or_default();
            for word in code.split([' ', '\t', ';', '\r']) {
                match word {
                    "if" => open += 1,
                    "fi" => open = open.saturating_sub(1),
                    _ if word.starts_with('#') => break,
                    _ => {}
                }
            }
            if open == 0 {
                self.notice(start, "`if` block skipped: only assignments are read here");
                return Ok(());
            }
        }
        self.invalid("", "an `if` without its `fi`", "the whole block")
    }

    fn get(&self, name: &str) -> &str {
        self.scope.get(name).map_or("", |v| &v.value)
    }

    fn set(&mut self, name: &str, value: String, line: usize) {
        let origin = Origin::file(self.path, line);
        self.scope.insert(name.to_owned(), Variable { value, origin });
    }

    fn bounded(&self, name: &str, value: &str) -> Result<(), Stop> {
        if value.len() > MAX_VALUE {
            return self.invalid(name, "a value above 64 KiB", "a shorter one");
        }
        Ok(())
    }

    /// Bare text, quoted text and expansions up to a blank or the end of the statement.
    fn value(&mut self, name: &str) -> Result<String, Stop> {
        let mut value = String::new();
        // A shell puts a home folder for `~` here, at the start and behind each colon.
        let mut home = true;
        loop {
            let next = self.peek();
            let continued = self.rest.starts_with("\\\n");
            if home && next == Some('~') {
                return self.unsupported("`~` at the start of a value or behind `:`");
            }
            home = next == Some(':') || home && continued;
            match next {
                None | Some(' ' | '\t' | '\n' | ';') => return Ok(value),
                Some('\r') if self.rest.starts_with("\r\n") || self.rest.len() == 1 => {
                    let line = self.line();
                    self.notice(line, "carriage return at the end of the line ignored");
                    self.next();
                }
                Some('\'') => {
                    let Some((text, rest)) = self.rest[1..].split_once('\'') else {
                        return self.invalid(name, "an opening `'`", "a closing one");
                    };
                    value.push_str(text);
                    self.rest = rest;
                }
                Some('"') => {
                    self.next();
                    self.quoted(name, &mut value)?;
                }
                Some('\\') => {
                    self.next();
                    match self.next() {
                        None | Some('\n') => {}
                        Some(c) => value.push(c),
                    }
                }
                Some('$') if self.rest.starts_with("$\"") => {
                    return self.unsupported("a text to translate");
                }
                Some('$') => self.expansion(name, &mut value, 0)?,
                Some(c @ ('`' | '(' | ')' | '<' | '>' | '&' | '|')) => {
                    return self.unsupported(format!("`{c}` in a value"));
                }
                Some(c) => {
                    value.push(c);
                    self.next();
                }
            }
            self.bounded(name, &value)?;
        }
    }

    /// The rest of a double-quoted text.
    fn quoted(&mut self, name: &str, value: &mut String) -> Result<(), Stop> {
        loop {
            match self.peek() {
                None => return self.invalid(name, "an opening `\"`", "a closing one"),
                Some('"') => {
                    self.next();
                    return Ok(());
                }
                Some('$') => self.expansion(name, value, 0)?,
                Some('`') => return self.unsupported("a command substitution"),
                Some('\\') => {
                    self.next();
                    match self.peek() {
                        Some('\n') => {
                            self.next();
                        }
                        Some(c @ ('"' | '\\' | '$' | '`')) => {
                            value.push(c);
                            self.next();
                        }
                        _ => value.push('\\'),
                    }
                }
                Some(c) => {
                    value.push(c);
                    self.next();
                }
            }
            self.bounded(name, value)?;
        }
    }

    /// `$NAME`, `${NAME}`, `${NAME:-WORD}`, `${NAME-WORD}`, `$((EXPRESSION))`.
    fn expansion(&mut self, key: &str, value: &mut String, depth: usize) -> Result<(), Stop> {
        if depth == MAX_DEPTH {
            return self.unsupported("expansions nested this deeply");
        }
        self.next();
        if self.eat("((") {
            let Some(end) = arithmetic::end(self.rest) else {
                return self.invalid(key, "`$((`", "a closing `))`");
            };
            let text = self.expression(&self.rest[..end])?;
            let result = arithmetic::evaluate(&text, &|name| self.get(name).to_owned());
            match result {
                Ok(number) => value.push_str(&number.to_string()),
                Err(found) => return self.invalid(key, found, "an integer expression"),
            }
            self.rest = &self.rest[end + 2..];
            return Ok(());
        }
        if self.eat("{") {
            let name = self.name();
            self.rest = &self.rest[name.len()..];
            let current = self.scope.get(name).map(|v| v.value.clone());
            if name.is_empty() {
                return self.unsupported("this form of `${`");
            } else if self.eat("}") {
                value.push_str(&current.unwrap_or_default());
            } else if self.eat(":-") {
                let word = self.word(key, depth)?;
                value.push_str(&current.filter(|v| !v.is_empty()).unwrap_or(word));
            } else if self.eat("-") {
                let word = self.word(key, depth)?;
                value.push_str(&current.unwrap_or(word));
            } else {
                return self.unsupported("this form of `${`");
            }
            return Ok(());
        }
        let name = self.name();
        if name.is_empty() {
            return match self.peek() {
                None | Some(' ' | '\t' | '\n' | '"' | ';' | '/' | ':' | ',' | '.' | '=' | '%') => {
                    value.push('$');
                    Ok(())
                }
                _ => self.unsupported("this use of `$`"),
            };
        }
        value.push_str(self.get(name));
        self.rest = &self.rest[name.len()..];
        if self.rest.starts_with("\\\n") {
            return self.unsupported("a name that goes on in the next line");
        }
        Ok(())
    }

    /// The text between `$((` and `))` with `$NAME` and `${NAME}` replaced by their texts, as a
    /// shell does before it computes.
    fn expression(&self, source: &str) -> Result<String, Stop> {
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let braced = rest.starts_with('{');
            let from = usize::from(braced);
            let len = rest[from..].find(|c| !is_name(c)).unwrap_or(rest.len() - from);
            let name = &rest[from..from + len];
            rest = &rest[from + len..];
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                return self.unsupported("this use of `$` in an expression");
            }
            if braced {
                let Some(behind) = rest.strip_prefix('}') else {
                    return self.unsupported("this form of `${` in an expression");
                };
                rest = behind;
            }
            text.push_str(self.get(name));
            self.bounded(name, &text)?;
        }
        text.push_str(rest);
        let known = |c: char| is_name(c) || c.is_ascii_whitespace() || "+-*/%()".contains(c);
        // `+ +` are two signs, `++` changes a variable.
        if !text.chars().all(known) || ["++", "--", "**"].iter().any(|op| text.contains(op)) {
            return self.unsupported(format!("the expression `{text}`"));
        }
        Ok(text)
    }

    /// The WORD of `${NAME:-WORD}` and its closing brace.
    fn word(&mut self, key: &str, depth: usize) -> Result<String, Stop> {
        let mut word = String::new();
        loop {
            match self.peek() {
                Some('}') => {
                    self.next();
                    return Ok(word);
                }
                None | Some('\n') => return self.invalid(key, "`${`", "a closing `}`"),
                Some('$') => self.expansion(key, &mut word, depth + 1)?,
                Some('\'' | '"' | '\\' | '`' | '~') => {
                    return self.unsupported("quotes or `~` inside `${ }`");
                }
                Some(c) => {
                    word.push(c);
                    self.next();
                }
            }
            self.bounded(key, &word)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Scope, Stop> {
        let mut scope = Scope::new();
        apply(text, Path::new("conjure.conf"), &mut scope, &mut Vec::new())?;
        Ok(scope)
    }

    fn value(text: &str) -> String {
        read(text).unwrap()["A"].value.clone()
    }

    /// P39: what a shell makes of comments, quotes, backslashes and dollars.
    #[test]
    fn reads_values_as_a_shell_does() {
        for (text, expected) in [
            ("A=5 # c", "5"),
            ("A=   # c", ""),
            ("A=5#c", "5#c"),
            ("A='a \"b\" $C \\'", "a \"b\" $C \\"),
            ("A=\"a \\\"b\\\" \\$C \\n\"", "a \"b\" $C \\n"),
            ("A=a\\ b", "a b"),
            ("A=a\\\nb", "ab"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A=x'y'\"z\"", "xyz"),
            ("A=1; B=2", "1"),
            ("B=2 A=$B$B", "22"),
            ("A=5$ ", "5$"),
            ("A=\r\n", ""),
            ("B=3\nA=$(( (B+1)*2 ))", "8"),
            ("A=$((2*(3)))", "6"),
            ("A=${B:-${C:-$((1+1))}}", "2"),
            ("A=${B-x}\nA=${A:-y}", "x"),
            ("A=1\nA+=,2\nexport A", "1,2"),
            ("unset A; A=1\nset -a", "1"),
            ("set_default A 4\nset_default A 5", "4"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn skips_functions_and_if_blocks_with_one_notice_each() {
        let text = "f() {\n  A=1\n}\nfunction g {\n  A=2\n}\nif [ -z \"$A\" ]; then\n  A=3\n  \
                    if true; then A=4; fi\nelse\n A=5\nfi\nB=1\n";
        let (mut scope, mut notices) = (Scope::new(), Vec::new());
        apply(text, Path::new("c"), &mut scope, &mut notices).unwrap();
        assert_eq!(scope.keys().collect::<Vec<_>>(), ["B"]);
        let lines: Vec<String> = notices.iter().map(|n| n.origin.to_string()).collect();
        assert_eq!(lines, ["c:1", "c:4", "c:7"]);
    }

    #[test]
    fn stops_at_what_it_does_not_know_and_names_the_line() {
        for text in [
            "A=$(date)",
            "A=`date`",
            "for x in 1; do",
            "A=(1 2)",
            "A=1 ls",
            "A=~/x",
            "A=$1",
            ". f",
            "A=x:~",
            "A=$\"x\"",
            "A=${B:-~}",
        ] {
            assert!(
                matches!(read(&format!("\n{text}")), Err(Stop::Unsupported { line: 2, .. })),
                "{text}"
            );
        }
        for text in [
            "A='x",
            "A=\"x",
            "A=$((1/0))",
            "if true\n",
            "f() {\n",
            "A=${B:-x",
            "A=1;;",
            "A=1 ; ;B=2",
        ] {
            assert!(matches!(read(text), Err(Stop::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn doubling_a_value_again_and_again_is_refused() {
        let text = format!("A=xxxxxxxx\n{}", "A=$A$A\n".repeat(200));
        assert!(matches!(read(&text), Err(Stop::Invalid(_))));
    }

    proptest! {
        #[test]
        fn survives_any_text(text in "(A|B|=|\\+=|\\$|\\{|\\}|:-|\\(\\(|\\)\\)|'|\"|\\\\|\n| |#|if |fi|f\\(\\)|;|é){0,30}") {
            let _ = read(&text);
        }
    }
}
