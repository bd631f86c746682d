//! Default routes and the addresses of their interfaces.

use std::net::IpAddr;

use serde_json::Value;

use crate::tool::{self, CommandError};

/// Why routes or addresses cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The tool printed something else than JSON.
    #[error("ip printed no JSON: {0}; iproute2 4.18 or newer is needed")]
    Json(#[from] serde_json::Error),
}

pub(crate) fn ip(arguments: &[&str]) -> Result<Vec<Value>, RouteError> {
    let text = tool::output("ip", &[&["-j"], arguments].concat())?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_str(&text)?)
}

fn family(v6: bool) -> &'static str {
    if v6 { "-6" } else { "-4" }
}

/// Interfaces of the default routes of a family, the preferred one first.
///
/// # Errors
/// When `ip` fails.
pub fn default_interfaces(v6: bool) -> Result<Vec<String>, RouteError> {
    let mut routes = ip(&[family(v6), "route", "show", "default"])?;
    routes.sort_by_key(|route| route["metric"].as_u64().unwrap_or(0));
    Ok(routes.iter().filter_map(|r| r["dev"].as_str()).map(str::to_owned).collect())
}

/// First address of global scope on the interface of the default route, with that interface.
///
/// # Errors
/// When `ip` fails.
pub fn primary_address(v6: bool) -> Result<Option<(String, IpAddr)>, RouteError> {
    for interface in default_interfaces(v6)? {
        let links = ip(&[family(v6), "address", "show", "dev", &interface, "scope", "global"])?;
        let address = links
            .iter()
            .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
            .filter(|a| a["temporary"] != true && a["deprecated"] != true)
            .find_map(|a| a["local"].as_str()?.parse().ok());
        if let Some(address) = address {
            return Ok(Some((interface, address)));
        }
    }
    Ok(None)
}

/// Every address of this host.
///
/// # Errors
/// When `ip` fails.
pub fn addresses() -> Result<Vec<IpAddr>, RouteError> {
    let links = ip(&["address", "show"])?;
    Ok(links
        .iter()
        .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
        .filter_map(|a| a["local"].as_str()?.parse().ok())
        .collect())
}
