//! `station config show`: every setting with its value and origin.

use conf::Station;
use conf::catalogue::{self, File, STATION};
use telemetry::process::Exit;

use crate::arguments::Configuration;

/// Arguments of `station config show`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Leave out what nobody set.
    #[arg(long)]
    set: bool,
}

/// A setting as it is printed.
struct Line {
    name: String,
    value: String,
    origin: conf::Origin,
}

/// Prints the settings; fails when a file cannot be read.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let station = match super::load(&arguments.configuration) {
        Ok(station) => station,
        Err(exit) => return exit,
    };
    let mut exit = Exit::Ok;
    let mut files = vec![("conjure.conf".to_owned(), variables(&station))];
    for file in File::ALL {
        let path = super::path_of(file, &station);
        match catalogue::show(file, &path) {
            Ok(shown) => {
                let line =
                    |s: catalogue::Shown| Line { name: s.name, value: s.value, origin: s.origin };
                files.push((path.display().to_string(), shown.into_iter().map(line).collect()));
            }
            Err(problems) => {
                eprintln!("{problems}");
                exit = Exit::Config;
            }
        }
    }
    if arguments.set {
        for (_, lines) in &mut files {
            lines.retain(|line| line.origin != conf::Origin::Default);
        }
    }
    if arguments.json {
        print_json(&files)
    } else {
        print_text(&files)
    }
    exit
}

/// The variables of `conjure.conf`, known ones first and in the order of their explanation.
fn variables(station: &Station) -> Vec<Line> {
    let line = |name: &str, value: &str| Line {
        name: name.to_owned(),
        value: value.to_owned(),
        origin: station.variables.origin(name),
    };
    let known = STATION.iter().filter_map(|variable| {
        let value = station.variables.value(variable.name)?;
        Some(line(variable.name, value))
    });
    let others =
        station.variables.iter().filter(|(name, _)| !STATION.iter().any(|v| v.name == *name));
    known.chain(others.map(|(name, variable)| line(name, &variable.value))).collect()
}

fn print_text(files: &[(String, Vec<Line>)]) {
    for (file, lines) in files {
        println!("# {file}");
        let width =
            lines.iter().map(|line| line.name.len() + line.value.len() + 3).filter(|w| *w <= 60);
        let width = width.max().unwrap_or(0);
        for line in lines {
            // A list that was written over several lines is shown on one.
            let value = line.value.split_whitespace().collect::<Vec<_>>().join(" ");
            println!("{:<width$}  # {}", format!("{} = {value}", line.name), line.origin);
        }
        println!();
    }
}

fn print_json(files: &[(String, Vec<Line>)]) {
    let mut all = serde_json::Map::new();
    for (file, lines) in files {
        let settings = lines.iter().map(|line| {
            let shown =
                serde_json::json!({ "value": line.value, "origin": line.origin.to_string() });
            (line.name.clone(), shown)
        });
        all.insert(file.clone(), serde_json::Value::Object(settings.collect()));
    }
    println!("{}", serde_json::Value::Object(all));
}
