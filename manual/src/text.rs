//! A command line that is described by a help text alone.

use clap::{Arg, Command};

/// The command `name` with the options of `help`: lines of `-x VALUE  text` or `--long VALUE  text`, whose
/// text may go on in the lines below.
pub(crate) fn command(name: &'static str, help: &'static str) -> Command {
    let mut lines = help.lines();
    let mut command = Command::new(name).about(lines.next().unwrap_or_default());
    let mut more = Vec::new();
    let mut options: Vec<(&str, String)> = Vec::new();
    for line in lines {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if text.starts_with('-') && depth > 0 {
            let (option, text) = text.split_once("  ").unwrap_or((text, ""));
            options.push((option, text.trim().to_owned()));
        } else if let Some((_, text_so_far)) = options.last_mut().filter(|_| depth > 8) {
            text_so_far.push(' ');
            text_so_far.push_str(text);
        } else if !text.is_empty() && !text.starts_with("Usage: ") && depth == 0 {
            more.push(text);
        }
    }
    for (option, text) in options {
        // `--help, --version` are every command's.
        if option.starts_with("--help") {
            continue;
        }
        let (flag, value) = option.split_once(' ').map_or((option, None), |(f, v)| (f, Some(v)));
        let id = flag.trim_start_matches('-');
        let mut arg = Arg::new(id).help(text);
        arg = match flag.strip_prefix("--") {
            Some(long) => arg.long(long),
            None => arg.short(id.chars().next()),
        };
        arg = match value {
            Some(value) => arg.value_name(value),
            None => arg.action(clap::ArgAction::SetTrue),
        };
        command = command.arg(arg);
    }
    command.version(env!("CARGO_PKG_VERSION")).after_help(more.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_help_text_becomes_a_command() {
        let help = "Does it.\n\nUsage: x -c ID\n\n  -c ID    cluster whose\n           queues there are\n      \
                    --all    everything\n      --help, --version\n\nSignals: none.\n";
        let command = command("x", help);
        let of = |id: &str| command.get_arguments().find(|arg| arg.get_id() == id).unwrap().clone();
        assert_eq!(of("c").get_help().unwrap().to_string(), "cluster whose queues there are");
        assert_eq!(of("c").get_short(), Some('c'));
        assert_eq!(of("all").get_long(), Some("all"));
        assert_eq!(command.get_after_help().unwrap().to_string(), "Signals: none.");
    }
}
