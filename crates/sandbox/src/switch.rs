//! `CJ_SANDBOX`: the documented way to look for a fault without the sandbox.

use std::str::FromStr;

/// How much of the sandbox is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// All of it.
    #[default]
    On,
    /// System calls outside the profile are logged and allowed; Landlock is off.
    Log,
    /// User and capabilities only.
    Off,
}

/// `CJ_SANDBOX` is none of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CJ_SANDBOX: found `{0}`, expected on, log or off")]
pub struct UnknownSwitch(String);

impl FromStr for Switch {
    type Err = UnknownSwitch;

    fn from_str(text: &str) -> Result<Self, UnknownSwitch> {
        match text.trim() {
            "" | "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            other => Err(UnknownSwitch(other.to_owned())),
        }
    }
}

impl Switch {
    /// What `CJ_SANDBOX` says; unset means on.
    ///
    /// # Errors
    /// When it is none of the words.
    pub fn of_environment() -> Result<Self, UnknownSwitch> {
        std::env::var("CJ_SANDBOX").unwrap_or_default().parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words() {
        assert_eq!("".parse(), Ok(Switch::On));
        assert_eq!("log".parse(), Ok(Switch::Log));
        assert_eq!(" off ".parse(), Ok(Switch::Off));
        let error = "false".parse::<Switch>().unwrap_err();
        assert_eq!(error.to_string(), "CJ_SANDBOX: found `false`, expected on, log or off");
    }
}
