//! Selection on the client's side (`spec/core.md` 5.9): always the HKDF algorithm, on the groups of
//! a ClientConf.

use crate::generation::{Generation, Group, Ranges};
use crate::select::{Phantom, SelectError, address_v2};
use crate::subnet::{Family, Subnet};
use keys::{ClientVersion, HkdfStream};

/// The phantom that a client of the current library selects.
///
/// `family` restricts the choice; `None` lays the subnets of both families end to end. Without
/// `weighted`, the subnets of all groups are joined in configuration order and no group is drawn;
/// real sessions are always weighted and restricted.
///
/// # Errors
/// As selection at the station.
pub fn select(
    groups: &[Group],
    seed: &[u8],
    family: Option<Family>,
    weighted: bool,
) -> Result<Phantom, SelectError> {
    if let (Some(family), true) = (family, weighted) {
        let generation = Generation::new(groups);
        return generation.pick(seed, ClientVersion::CURRENT)?.phantom(family);
    }
    let picked: Vec<&Group> = if weighted {
        let index = pick_index(groups, seed)?;
        vec![&groups[index]]
    } else {
        groups.iter().collect()
    };
    let texts = picked.iter().flat_map(|group| group.subnets.iter().flatten());
    let mut subnets = Vec::new();
    for text in texts {
        let subnet = Subnet::parse(text).ok_or_else(|| SelectError::InvalidSubnet(text.clone()))?;
        if family.is_none_or(|family| family == subnet.family()) {
            subnets.push(subnet);
        }
    }
    let stream = HkdfStream::new(seed, b"", b"phantom-addr-id");
    let (subnet, address) = address_v2(&Ranges::new(subnets), stream)?;
    let random_port = picked
        .iter()
        .find(|group| group.subnets.iter().flatten().any(|t| Subnet::parse(t) == Some(subnet)))
        .is_some_and(|group| group.randomize_dst_port);
    Ok(Phantom { address, subnet, random_port })
}

/// Index of the group that `seed` draws.
fn pick_index(groups: &[Group], seed: &[u8]) -> Result<usize, SelectError> {
    let generation = Generation::new(groups);
    if generation.weight_present == 0 {
        return Err(SelectError::NoWeight);
    }
    let mut stream = HkdfStream::new(seed, b"", b"phantom-select-subnet");
    let total = u128::from(generation.weight_present);
    let mut rest = stream.uniform(total).map_err(|_| SelectError::NoWeight)? as u64;
    for &i in &generation.order_present {
        let weight = u64::from(groups[i].weight);
        if rest < weight {
            return Ok(i);
        }
        rest -= weight;
    }
    Err(SelectError::NoWeight)
}

/// The groups of a client without a readable ClientConf (`spec/core.md` 10.2).
pub fn default_groups() -> Vec<Group> {
    let group = |weight, subnets: [&str; 2]| Group {
        weight,
        subnets: Some(subnets.map(str::to_owned).into()),
        randomize_dst_port: false,
    };
    vec![
        group(9, ["192.122.190.0/24", "2001:48a8:687f:1::/64"]),
        group(1, ["141.219.0.0/16", "35.8.0.0/16"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream values for the default list (`spec/core.md` 5.10).
    #[test]
    fn default_list() {
        let groups = default_groups();
        let address = |seed: &str, family| {
            let seed = hex::decode(seed).unwrap();
            select(&groups, &seed, Some(family), true).unwrap().address.to_string()
        };
        let seed = "5a87133b68da3468988a21659a12ed2ece07345c8c1a5b08459ffdea4218d12f";
        assert_eq!(address(seed, Family::V4), "192.122.190.178");
        assert_eq!(address(seed, Family::V6), "2001:48a8:687f:1:b292:3bab:bade:351f");
        let counting = "000102030405060708090a0b0c0d0e0f";
        assert_eq!(address(counting, Family::V4), "192.122.190.252");
        assert_eq!(address(counting, Family::V6), "2001:48a8:687f:1:fc9d:ee40:b05d:6656");
    }
}
