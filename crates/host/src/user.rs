//! Names and numbers of users, from `/etc/passwd`.

use crate::{Root, tool};

fn entries(root: &Root) -> Vec<(String, u32)> {
    let text = root.read("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
        })
        .collect()
}

/// Number of the user `name` as this host knows it, also where users stand elsewhere than in the file.
pub(crate) fn lookup(name: &str) -> Option<u32> {
    uid_of(&Root::default(), name).or_else(|| {
        let line = tool::output("getent", &["passwd", name]).ok()?;
        line.split(':').nth(2)?.parse().ok()
    })
}

/// Number of the user `name`.
pub fn uid_of(root: &Root, name: &str) -> Option<u32> {
    entries(root).into_iter().find(|(known, _)| known == name).map(|(_, uid)| uid)
}

/// Name of the user with number `uid`.
pub fn name_of(root: &Root, uid: u32) -> Option<String> {
    entries(root).into_iter().find(|(_, known)| *known == uid).map(|(name, _)| name)
}

/// Number of the first group of the user `uid`; a user without an entry has a group of the same number.
pub(crate) fn group_of(root: &Root, uid: u32) -> u32 {
    let text = root.read("/etc/passwd").unwrap_or_default();
    let group = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(3)?.parse().ok())?
    });
    group.unwrap_or(uid)
}
