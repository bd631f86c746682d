//! Becoming an ordinary user, for a daemon that was started as root (`--user`, `CJ_USER`).

use std::path::Path;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// An account of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// There is no such account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no user `{0}`; make one (useradd --system {0}), or give UID:GID")]
pub struct UnknownUser(String);

impl FromStr for User {
    type Err = UnknownUser;

    fn from_str(text: &str) -> Result<Self, UnknownUser> {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self::find(text, &read("/etc/passwd"), &read("/etc/group"))
    }
}

impl User {
    /// `CJ_USER`, where it is set.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn of_environment() -> Result<Option<Self>, UnknownUser> {
        match std::env::var("CJ_USER") {
            Ok(name) if !name.is_empty() => name.parse().map(Some),
            _ => Ok(None),
        }
    }

    fn find(text: &str, passwd: &str, group: &str) -> Result<Self, UnknownUser> {
        let unknown = || UnknownUser(text.to_owned());
        if let Some((uid, gid)) = text.split_once(':') {
            let (uid, gid) = (uid.parse().ok(), gid.parse().ok());
            let (uid, gid) = uid.zip(gid).ok_or_else(unknown)?;
            return Ok(Self { name: text.to_owned(), uid, gid, groups: vec![gid] });
        }
        let account = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == text)?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some((name.to_owned(), uid, gid))
        };
        let (name, uid, gid) = passwd.lines().find_map(account).ok_or_else(unknown)?;
        let member = |line: &str| {
            let mut fields = line.split(':');
            let id = fields.nth(2)?.parse::<u32>().ok()?;
            fields.next()?.split(',').any(|member| member.trim() == name).then_some(id)
        };
        let mut groups: Vec<u32> = group.lines().filter_map(member).collect();
        if !groups.contains(&gid) {
            groups.insert(0, gid);
        }
        Ok(Self { name, uid, gid, groups })
    }

    /// As it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of the account.
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Changes user and groups of this thread for good. Permitted capabilities stay, to be given up
    /// one by one.
    pub(crate) fn become_it(&self) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        if rustix::process::geteuid() == uid && rustix::process::getegid() == gid {
            return Ok(());
        }
        rustix::thread::set_keep_capabilities(true)?;
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nconjure:x:1000:1000::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nconjure:x:1000:\nssl-cert:x:110:www,conjure\n";

    #[test]
    fn accounts_are_found_by_name_or_number() {
        let user = User::find("conjure", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (1000, 1000, &[1000, 110][..]));
        let user = User::find("65534:65533", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (65534, 65533));
        for text in ["conjur", "", "1000", "a:b", "1:"] {
            let error = User::find(text, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(&format!("no user `{text}`")), "{error}");
        }
    }
}
