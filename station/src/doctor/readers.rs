//! How the other readers of `conjure.conf` take a line (P39): systemd's `EnvironmentFile=` and docker's
//! `--env-file`. bash and this station take lines alike; `conf/tests/shells.rs` proves it.

/// What a reader makes of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Nothing: a blank line or a comment.
    Nothing,
    /// A variable gets a value.
    Value(String, String),
    /// The line is refused or ignored.
    Refused,
    /// The value goes on in the next line.
    Unfinished,
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Value(name, value) => write!(f, "{name} as `{value}`"),
            Self::Refused => f.write_str("no variable"),
            Self::Unfinished => f.write_str("a value that goes on in the next line"),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// As docker takes it: everything behind `=`, whatever it is.
pub(crate) fn docker(line: &str) -> Reading {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Reading::Nothing;
    }
    match line.split_once('=') {
        Some((name, value)) if !name.is_empty() && !name.contains(char::is_whitespace) => {
            Reading::Value(name.to_owned(), value.to_owned())
        }
        _ => Reading::Refused,
    }
}

/// As systemd takes it (systemd.exec(5)): quotes and backslashes are taken away, nothing is expanded, and
/// a `#` behind a value is part of it.
pub(crate) fn systemd(line: &str) -> Reading {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Reading::Nothing;
    }
    let Some((name, rest)) = line.split_once('=') else { return Reading::Refused };
    if !is_name(name.trim_end()) {
        return Reading::Refused;
    }
    let mut value = String::new();
    let mut chars = rest.trim_start().chars().peekable();
    // Quotes mean something only before and between quoted texts.
    while let Some(quote) = chars.next_if(|c| *c == '\'' || *c == '"') {
        loop {
            match chars.next() {
                None => return Reading::Unfinished,
                Some(c) if c == quote => break,
                Some('\\') if quote == '"' => match chars.next() {
                    None => return Reading::Unfinished,
                    Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                },
                Some(c) => value.push(c),
            }
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
    }
    let quoted = value.len();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                None => return Reading::Unfinished,
                Some(c) => value.push(c),
            },
            c => value.push(c),
        }
    }
    let kept = value[quoted..].trim_end().len();
    value.truncate(quoted + kept);
    Reading::Value(name.trim_end().to_owned(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Reading {
        Reading::Value("A".to_owned(), text.to_owned())
    }

    #[test]
    fn each_reader_has_its_own_rules() {
        for (line, by_systemd, by_docker) in [
            ("A=5", "5", "5"),
            ("A=5 # c", "5 # c", "5 # c"),
            ("A=   # c", "# c", "   # c"),
            ("A=5#c", "5#c", "5#c"),
            ("A='5 6'", "5 6", "'5 6'"),
            ("A=\"a\\\"b\\c\"", "a\"b\\c", "\"a\\\"b\\c\""),
            ("A=a\\ b", "a b", "a\\ b"),
            ("A=$B", "$B", "$B"),
            ("A=5  ", "5", "5  "),
            ("A=", "", ""),
        ] {
            assert_eq!(systemd(line), value(by_systemd), "{line}");
            assert_eq!(docker(line), value(by_docker), "{line}");
        }
        assert_eq!(systemd("export A=5"), Reading::Refused);
        assert_eq!(docker("export A=5"), Reading::Refused);
        assert_eq!(systemd("A=\"5"), Reading::Unfinished);
        assert_eq!(systemd("; x"), Reading::Nothing);
        assert_eq!(docker("  # x"), Reading::Nothing);
    }
}
