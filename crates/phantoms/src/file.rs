//! The phantom subnet file (`spec/core.md` 4).

use crate::generation::{Generation, Group, Problem};
use crate::select::{Pick, SelectError};
use keys::ClientVersion;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Why a phantom subnet file was refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("error opening configuration file: open {path}: {source}", path = path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("error opening configuration file: ({line}, {column}): {text}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser found.
        text: String,
    },
    /// A value has the wrong type or lies out of range.
    #[error(
        "error unmarshalling configuration file: ({line}, {column}): {key}: found {found}, expected {expected}"
    )]
    Value {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// Dotted path of the key.
        key: String,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A generation key is not a number that a client can name.
    #[error("({line}, {column}): generation {key}: {text}")]
    Generation {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The table key.
        key: String,
        /// What is wrong.
        text: String,
    },
}

/// An oddity that does not stop the file from loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line, from 1.
    pub line: usize,
    /// What was found and what follows.
    pub text: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// A phantom file that was read.
#[derive(Debug)]
pub struct Loaded {
    /// Its generations.
    pub table: PhantomTable,
    /// Oddities, in order of their lines.
    pub warnings: Vec<Warning>,
}

/// All generations of phantom subnets, by number.
#[derive(Debug, Clone, Default)]
pub struct PhantomTable {
    generations: BTreeMap<u32, Generation>,
}

impl PhantomTable {
    /// A table of `generations`.
    pub fn new(generations: impl IntoIterator<Item = (u32, Generation)>) -> Self {
        Self { generations: generations.into_iter().collect() }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or as [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Loaded, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FileError::Open { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of a phantom file. A generation with a doubtful group is loaded and warned
    /// about, so that one bad line does not take a running station down.
    ///
    /// # Errors
    /// On TOML syntax, wrong types, and generation keys that are negative, repeated or no number.
    pub fn parse(text: &str) -> Result<Loaded, FileError> {
        Reader { text, warnings: Vec::new() }.file()
    }

    /// The generation `number`.
    pub fn generation(&self, number: u32) -> Option<&Generation> {
        self.generations.get(&number)
    }

    /// Numbers of all generations, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.generations.keys().copied()
    }

    /// Picks the group of `seed` in generation `number`; the result selects per family.
    ///
    /// # Errors
    /// When the generation is unknown, or as [`Generation::pick`].
    pub fn pick<'a>(
        &'a self,
        number: u32,
        seed: &'a [u8],
        version: ClientVersion,
    ) -> Result<Pick<'a>, SelectError> {
        self.generation(number).ok_or(SelectError::UnknownGeneration)?.pick(seed, version)
    }
}

struct Reader<'t> {
    text: &'t str,
    warnings: Vec<Warning>,
}

type Node<'t> = Spanned<DeValue<'t>>;

const GROUP_KEYS: [&str; 3] = ["Weight", "Subnets", "RandomizeDstPort"];
const GENERATION_KEYS: [&str; 2] = ["Generation", "WeightedSubnets"];

impl Reader<'_> {
    fn file(mut self) -> Result<Loaded, FileError> {
        let root = DeTable::parse(self.text).map_err(|error| {
            let (line, column) = self.position(error.span().map_or(0, |span| span.start));
            FileError::Syntax { line, column, text: error.message().to_owned() }
        })?;
        let mut generations = BTreeMap::new();
        self.warn_unknown(root.get_ref(), &["Networks"]);
        if let Some(networks) = field(root.get_ref(), "Networks") {
            let DeValue::Table(table) = networks.get_ref() else {
                return Err(self.wrong("Networks", networks, "a table of generations"));
            };
            for (key, value) in table {
                let number = self.number(key.get_ref(), key.span())?;
                let generation = self.generation(key.get_ref(), number, value)?;
                if generations.insert(number, generation).is_some() {
                    return Err(self.bad_number(key.get_ref(), key.span(), "defined twice"));
                }
            }
        }
        self.warnings.sort_by_key(|warning| warning.line);
        Ok(Loaded { table: PhantomTable { generations }, warnings: self.warnings })
    }

    fn number(&self, key: &str, span: Range<usize>) -> Result<u32, FileError> {
        let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let text = format!("strconv.Atoi: parsing \"{key}\": invalid syntax");
            return Err(self.bad_number(key, span, &text));
        }
        let significant = digits.trim_start_matches('0');
        if key.starts_with('-') && !significant.is_empty() {
            return Err(self.bad_number(key, span, "no client can name a negative generation"));
        }
        match significant {
            "" => Ok(0),
            digits => digits.parse().map_err(|_| {
                self.bad_number(key, span, "no client can name a generation above 4294967295")
            }),
        }
    }

    fn generation(
        &mut self,
        key: &str,
        number: u32,
        value: &Node<'_>,
    ) -> Result<Generation, FileError> {
        let path = format!("Networks.{key}");
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.wrong(&path, value, "a table"));
        };
        self.warn_unknown(table, &GENERATION_KEYS);
        if let Some(inner) = field(table, "Generation") {
            let written = inner.get_ref().as_integer().and_then(integer);
            if written != Some(i64::from(number)) {
                self.warn(
                    inner.span(),
                    format!("{path}.Generation differs from the table key, which counts"),
                );
            }
        }
        let mut groups = Vec::new();
        let mut spans = Vec::new();
        if let Some(list) = field(table, "WeightedSubnets") {
            let path = format!("{path}.WeightedSubnets");
            let DeValue::Array(items) = list.get_ref() else {
                return Err(self.wrong(&path, list, "an array of tables"));
            };
            for item in items {
                let (group, subnets) = self.group(&path, item)?;
                groups.push(group);
                spans.push((item.span(), subnets));
            }
        }
        let generation = Generation::new(&groups);
        for Problem { at, text } in generation.problems() {
            let span = match *at {
                Some((group, Some(subnet))) => spans[group].1[subnet].clone(),
                Some((group, None)) => spans[group].0.clone(),
                None => value.span(),
            };
            self.warn(span, format!("{path}: {text}"));
        }
        Ok(generation)
    }

    fn group(
        &mut self,
        path: &str,
        item: &Node<'_>,
    ) -> Result<(Group, Vec<Range<usize>>), FileError> {
        let DeValue::Table(table) = item.get_ref() else {
            return Err(self.wrong(path, item, "a table"));
        };
        self.warn_unknown(table, &GROUP_KEYS);
        let mut group = Group::default();
        let mut spans = Vec::new();
        if let Some(weight) = field(table, "Weight") {
            let number = weight.get_ref().as_integer().and_then(integer);
            group.weight = number.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
                self.wrong(&format!("{path}.Weight"), weight, "an integer from 0 to 4294967295")
            })?;
        }
        if let Some(flag) = field(table, "RandomizeDstPort") {
            group.randomize_dst_port = flag.get_ref().as_bool().ok_or_else(|| {
                self.wrong(&format!("{path}.RandomizeDstPort"), flag, "true or false")
            })?;
        }
        if let Some(list) = field(table, "Subnets") {
            let path = format!("{path}.Subnets");
            let DeValue::Array(items) = list.get_ref() else {
                return Err(self.wrong(&path, list, "an array of strings"));
            };
            let mut subnets = Vec::new();
            for text in items {
                let DeValue::String(subnet) = text.get_ref() else {
                    return Err(self.wrong(&path, text, "a string like \"192.0.2.0/24\""));
                };
                subnets.push(subnet.clone().into_owned());
                spans.push(text.span());
            }
            group.subnets = Some(subnets);
        }
        Ok((group, spans))
    }

    fn warn(&mut self, span: Range<usize>, text: String) {
        let (line, _) = self.position(span.start);
        self.warnings.push(Warning { line, text });
    }

    /// Names keys that the reference ignores, with the spelling that was probably meant.
    fn warn_unknown(&mut self, table: &DeTable<'_>, known: &[&str]) {
        let folded = |key: &str| key.replace(['_', '-'], "").to_lowercase();
        let unknown: Vec<_> = table
            .keys()
            .filter(|key| !known.iter().any(|k| spellings(k).iter().any(|s| s == key.get_ref())))
            .map(|key| {
                let meant = known.iter().find(|known| folded(known) == folded(key.get_ref()));
                let hint = meant.map(|m| format!(", write {m}")).unwrap_or_default();
                (key.span(), format!("unknown key {} is ignored{hint}", key.get_ref()))
            })
            .collect();
        for (span, text) in unknown {
            self.warn(span, text);
        }
    }

    fn wrong(&self, key: &str, node: &Node<'_>, expected: &'static str) -> FileError {
        let (line, column) = self.position(node.span().start);
        let shown: String =
            self.text.get(node.span()).unwrap_or_default().chars().take(60).collect();
        let found = format!("{} {shown}", node.get_ref().type_str());
        FileError::Value { line, column, key: key.to_owned(), found, expected }
    }

    fn bad_number(&self, key: &str, span: Range<usize>, text: &str) -> FileError {
        let (line, column) = self.position(span.start);
        FileError::Generation { line, column, key: key.to_owned(), text: text.to_owned() }
    }

    /// Line and column of a byte offset, both from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        (line, before.len() - start + 1)
    }
}

/// The spellings of a key that the reference takes, in its order of preference.
fn spellings(name: &str) -> [String; 4] {
    let (first, rest) = name.split_at(1);
    [
        name.to_owned(),
        name.to_lowercase(),
        name.to_uppercase(),
        format!("{}{rest}", first.to_lowercase()),
    ]
}

fn field<'n, 't>(table: &'n DeTable<'t>, name: &str) -> Option<&'n Node<'t>> {
    spellings(name)
        .iter()
        .find_map(|spelling| table.iter().find(|(key, _)| key.get_ref() == spelling.as_str()))
        .map(|(_, value)| value)
}

fn integer(value: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(value.as_str(), value.radix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    const FILE: &str = r#"
[Networks]
    [Networks.957]
        Generation = 957
        [[Networks.957.WeightedSubnets]]
            Weight = 9
            RandomizeDstPort = true
            Subnets = ["192.122.190.0/24", "2001:48a8:687f:1::/64"]
        [[Networks.957.WeightedSubnets]]
            Weight = 1
            RandomizeDstPort = false
            Subnets = ["141.219.0.0/16", "35.8.0.0/16"]
"#;

    fn warnings(text: &str) -> Vec<String> {
        PhantomTable::parse(text).unwrap().warnings.iter().map(ToString::to_string).collect()
    }

    fn error(text: &str) -> String {
        PhantomTable::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_form_loads() {
        let loaded = PhantomTable::parse(FILE).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.table.numbers().collect::<Vec<_>>(), [957]);
        let seed = [7; 16];
        let pick = loaded.table.pick(957, &seed, ClientVersion(4)).unwrap();
        assert!(pick.phantom(Family::V4).is_ok());
        let unknown = loaded.table.pick(1, &seed, ClientVersion(4)).unwrap_err();
        assert_eq!(unknown.to_string(), "generation number not recognized");
    }

    #[test]
    fn spellings_of_keys() {
        for text in [
            "networks.5.weightedsubnets = [{weight = 1, subnets = [\"10.0.0.0/8\"]}]",
            "NETWORKS.5.WEIGHTEDSUBNETS = [{WEIGHT = 1, SUBNETS = [\"10.0.0.0/8\"]}]",
            "networks.5.weightedSubnets = [{weight = 1, subnets = [\"10.0.0.0/8\"]}]",
        ] {
            let loaded = PhantomTable::parse(text).unwrap();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            let generation = loaded.table.generation(5).unwrap();
            assert!(generation.contains("10.1.1.1".parse().unwrap()), "{text}");
        }
        let snake = "[[Networks.5.WeightedSubnets]]\nWeight = 1\nrandomize_dst_port = true\n\
                     Subnets = [\"10.0.0.0/8\"]";
        assert_eq!(
            warnings(snake),
            ["line 3: unknown key randomize_dst_port is ignored, write RandomizeDstPort"]
        );
    }

    /// `spec/core.md` 4.2, row by row.
    #[test]
    fn load_behaviour() {
        assert!(
            error("[Networks.5]\n[Networks.5]")
                .starts_with("error opening configuration file: (2, ")
        );
        for value in ["Weight = \"9\"", "Weight = 1.5", "Weight = -1", "Weight = 4294967296"] {
            let text = error(&format!("[[Networks.5.WeightedSubnets]]\n{value}"));
            assert!(
                text.starts_with("error unmarshalling configuration file: (2, 10): "),
                "{text}"
            );
        }
        let flag = "[[Networks.5.WeightedSubnets]]\nRandomizeDstPort = \"true\"";
        assert!(error(flag).contains("expected true or false"));
        assert!(error("[Networks]\nfive = 5").contains("strconv.Atoi: parsing \"five\""));
        assert!(error("[Networks]\n5 = 5").contains("expected a table"));
        assert!(error("[Networks.abc]").ends_with("strconv.Atoi: parsing \"abc\": invalid syntax"));
        assert_eq!(PhantomTable::parse("").unwrap().table.numbers().count(), 0);
        assert!(error("[Networks.-1]").contains("negative"));
        assert!(error("[Networks.5]\n[Networks.05]").contains("defined twice"));
        assert!(error("[Networks.4294967296]").contains("above 4294967295"));
        let missing = PhantomTable::load(Path::new("/nonexistent/phantoms.toml")).unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("error opening configuration file: open /nonexistent/phantoms.toml: ")
        );
    }

    #[test]
    fn doubtful_entries_load_with_a_warning() {
        let found = warnings(
            "[Networks.5]\nGeneration = 6\n[[Networks.5.WeightedSubnets]]\nWeight = 1\n\
             Subnets = [\"10.0.0.0/8\",\n\"::ffff:10.0.0.0/104\"]",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("line 2: Networks.5.Generation differs"));
        assert!(found[1].starts_with("line 6: Networks.5: invalid CIDR address"));
    }
}
