//! Weighted lists, as a ClientConf names TLS fingerprints (`spec/registrar.md` 11.6):
//! `entry ("," entry)*` with `entry = [weight "*"] label`; a backslash takes one character literally.

/// The text is no weighted list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a weighted list such as 3*Firefox,Chrome")]
pub struct NotWeighted;

/// Parses a list into weights and labels; the weight of an entry without one is 1.
///
/// # Errors
/// [`NotWeighted`] for an empty list or label, a second `*`, or a weight that is no 32-bit number.
pub fn parse(text: &str) -> Result<Vec<(u32, String)>, NotWeighted> {
    let mut list = Vec::new();
    let mut entry = Entry::default();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => entry.label.push(characters.next().ok_or(NotWeighted)?),
            ',' => list.push(std::mem::take(&mut entry).finish()?),
            '*' => entry.weigh()?,
            other => entry.label.push(other),
        }
    }
    list.push(entry.finish()?);
    Ok(list)
}

#[derive(Default)]
struct Entry {
    weight: Option<u32>,
    label: String,
}

impl Entry {
    fn weigh(&mut self) -> Result<(), NotWeighted> {
        let text = std::mem::take(&mut self.label);
        if self.weight.is_some() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotWeighted);
        }
        self.weight = Some(text.parse().map_err(|_| NotWeighted)?);
        Ok(())
    }

    fn finish(self) -> Result<(u32, String), NotWeighted> {
        if self.label.is_empty() {
            return Err(NotWeighted);
        }
        Ok((self.weight.unwrap_or(1), self.label))
    }
}
