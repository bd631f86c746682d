//! Phantom selection for every client version (`spec/core.md` 5).

use crate::generation::{Generation, Members, Prepared, Ranges};
use crate::prng::{SeededRand, varint};
use crate::subnet::{Family, Subnet};
use keys::{ClientVersion, HkdfStream, PhantomSelection};
use std::net::IpAddr;

const GROUP_INFO: &[u8] = b"phantom-select-subnet";
const ADDRESS_INFO: &[u8] = b"phantom-addr-id";

/// Why no phantom could be selected. The texts are those of the reference where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The generation is not in the table.
    #[error("generation number not recognized")]
    UnknownGeneration,
    /// Versions 0 and 1: the total weight is 0.
    #[error("zero Choices with Weight >= 1")]
    NoChoices,
    /// Later versions: the total weight is 0, where the reference crashes.
    #[error("the weights of the generation add up to 0")]
    NoWeight,
    /// Versions 0 and 1: the seed is an unfinished varint.
    #[error("failed to seed random for weighted rand")]
    Seed,
    /// The picked group has no subnets.
    #[error("parseSubnets - no subnets provided")]
    NoSubnets,
    /// The picked group has a subnet that cannot be read.
    #[error("invalid CIDR address: {0}")]
    InvalidSubnet(String),
    /// Version 0: nothing in the family, or single addresses only.
    #[error("No valid addresses specified")]
    NoAddressesV0,
    /// Version 0: the address number is 0, which lies in no range.
    #[error("let's rewrite the phantom address selector")]
    NoRangeV0,
    /// Version 1: nothing in the family.
    #[error("no valid addresses specified")]
    NoAddressesV1,
    /// Later versions: nothing in the family.
    #[error("no valid addresses specified to select")]
    NoAddresses,
    /// The family's subnets hold more addresses than can be counted.
    #[error("the subnets hold 2^128 addresses or more")]
    TooManyAddresses,
}

/// A selected phantom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phantom {
    /// Its address.
    pub address: IpAddr,
    /// The subnet that the address was taken from.
    pub subnet: Subnet,
    /// Whether its group supports destination ports other than 443.
    pub random_port: bool,
}

/// A picked group. It is picked before and independently of the family, so that both phantoms of
/// a session come from the same group.
#[derive(Debug)]
pub struct Pick<'a> {
    group: Option<&'a Prepared>,
    draw: AddressDraw<'a>,
}

#[derive(Debug)]
enum AddressDraw<'a> {
    /// Seed, and its varint value.
    V0(&'a [u8], i64),
    V1(&'a [u8], i64),
    V2(HkdfStream),
}

impl Generation {
    /// Picks the group of `seed`.
    ///
    /// # Errors
    /// When the generation has nothing to pick from, or the seed cannot seed versions 0 and 1.
    pub fn pick<'a>(
        &'a self,
        seed: &'a [u8],
        version: ClientVersion,
    ) -> Result<Pick<'a>, SelectError> {
        match version.phantom_selection() {
            PhantomSelection::V0 => self.pick_seeded(seed, |value| AddressDraw::V0(seed, value)),
            PhantomSelection::V1 => self.pick_seeded(seed, |value| AddressDraw::V1(seed, value)),
            PhantomSelection::V2 => self.pick_hkdf(seed),
        }
    }

    fn pick_seeded<'a>(
        &'a self,
        seed: &'a [u8],
        draw: impl FnOnce(i64) -> AddressDraw<'a>,
    ) -> Result<Pick<'a>, SelectError> {
        let (value, count) = varint(seed);
        if count == 0 {
            return Err(SelectError::Seed);
        }
        if self.weight_all == 0 {
            return Err(SelectError::NoChoices);
        }
        let rest = SeededRand::new(value).below(self.weight_all);
        let group = self.group_at(&self.order_all, rest);
        Ok(Pick { group, draw: draw(value) })
    }

    fn pick_hkdf<'a>(&'a self, seed: &'a [u8]) -> Result<Pick<'a>, SelectError> {
        let mut stream = HkdfStream::new(seed, b"", GROUP_INFO);
        let addresses = stream.with_info(ADDRESS_INFO);
        if self.groups.is_empty() {
            return Ok(Pick { group: None, draw: AddressDraw::V2(addresses) });
        }
        if self.weight_present == 0 {
            return Err(SelectError::NoWeight);
        }
        let rest = stream.uniform(self.weight_present.into()).map_err(|_| SelectError::NoWeight)?;
        let group = self.group_at(&self.order_present, rest as u64);
        Ok(Pick { group, draw: AddressDraw::V2(addresses) })
    }

    /// The group in whose share of the running weight total `rest` falls.
    fn group_at(&self, order: &[usize], mut rest: u64) -> Option<&Prepared> {
        order.iter().map(|&i| &self.groups[i]).find(|group| {
            let weight = u64::from(group.weight);
            let found = rest < weight;
            rest = rest.saturating_sub(weight);
            found
        })
    }
}

impl Pick<'_> {
    /// The phantom of `family` in the picked group.
    ///
    /// # Errors
    /// When the group has no usable subnet of the family, or the seed falls into a gap of
    /// version 0.
    pub fn phantom(&self, family: Family) -> Result<Phantom, SelectError> {
        let Some(group) = self.group else {
            return Err(SelectError::NoAddresses);
        };
        let ranges = match &group.members {
            Members::None => return Err(SelectError::NoSubnets),
            Members::Invalid(text) => return Err(SelectError::InvalidSubnet(text.clone())),
            Members::Ready { v4, v6 } => match family {
                Family::V4 => v4,
                Family::V6 => v6,
            },
        };
        let (subnet, address) = match &self.draw {
            AddressDraw::V0(seed, value) => address_v0(ranges, seed, *value)?,
            AddressDraw::V1(seed, value) => address_v1(ranges, seed, *value)?,
            AddressDraw::V2(stream) => address_v2(ranges, stream.clone())?,
        };
        Ok(Phantom { address, subnet, random_port: group.random_port })
    }
}

fn address_v0(ranges: &Ranges, seed: &[u8], value: i64) -> Result<(Subnet, IpAddr), SelectError> {
    let total = ranges.total.ok_or(SelectError::TooManyAddresses)?;
    // Every range is one address short.
    let total = total - ranges.subnets.len() as u128;
    if total == 0 {
        return Err(SelectError::NoAddressesV0);
    }
    let id = fold(seed, total, true);
    let mut low = 0;
    for &subnet in &ranges.subnets {
        let high = low + (subnet.size().unwrap_or(u128::MAX) - 1);
        if low < id && id <= high {
            return Ok((subnet, seeded_address(subnet, value)));
        }
        low = high;
    }
    Err(SelectError::NoRangeV0)
}

fn address_v1(ranges: &Ranges, seed: &[u8], value: i64) -> Result<(Subnet, IpAddr), SelectError> {
    let total = ranges.total.ok_or(SelectError::TooManyAddresses)?;
    if total == 0 {
        return Err(SelectError::NoAddressesV1);
    }
    let (subnet, _) = ranges.locate(fold(seed, total, false)).ok_or(SelectError::NoAddressesV1)?;
    Ok((subnet, seeded_address(subnet, value)))
}

pub(crate) fn address_v2(
    ranges: &Ranges,
    mut stream: HkdfStream,
) -> Result<(Subnet, IpAddr), SelectError> {
    let total = ranges.total.ok_or(SelectError::TooManyAddresses)?;
    let id = stream.uniform(total).map_err(|_| SelectError::NoAddresses)?;
    let (subnet, offset) = ranges.locate(id).ok_or(SelectError::NoAddresses)?;
    Ok((subnet, subnet.address(offset)))
}

/// Versions 0 and 1 draw the address from the PRNG; the seed's number chose only the subnet.
fn seeded_address(subnet: Subnet, value: i64) -> IpAddr {
    let bytes = subnet.family().bits() as usize / 8;
    let mut drawn = [0; 16];
    SeededRand::new(value).fill(&mut drawn[16 - bytes..]);
    let offset = u128::from_be_bytes(drawn);
    let mask = subnet.size().map_or(u128::MAX, |size| size - 1);
    subnet.address(offset & mask)
}

/// The big-endian number `seed`, modulo `total` when it exceeds it (or reaches it, unless
/// `keep_equal`).
fn fold(seed: &[u8], total: u128, keep_equal: bool) -> u128 {
    let significant = &seed[seed.iter().take_while(|&&byte| byte == 0).count()..];
    if significant.len() <= 16 {
        let id = significant.iter().fold(0u128, |id, &byte| id << 8 | u128::from(byte));
        return if keep_equal && id == total { id } else { id % total };
    }
    let mut rest = 0u128;
    for byte in significant {
        for bit in (0..8).rev() {
            let carried = rest >> 127 == 1;
            rest = rest << 1 | u128::from(byte >> bit & 1);
            if carried || rest >= total {
                rest = rest.wrapping_sub(total);
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Group;
    use proptest::prelude::*;

    fn worked_example() -> (Generation, Vec<u8>) {
        let group = |weight, subnets: &[&str]| Group {
            weight,
            subnets: Some(subnets.iter().map(|&s| s.to_owned()).collect()),
            randomize_dst_port: weight == 9,
        };
        let generation = Generation::new(&[
            group(9, &["192.122.190.0/24", "10.0.0.0/31", "2001:48a8:687f:1::/64"]),
            group(1, &["141.219.0.0/16", "35.8.0.0/16"]),
        ]);
        let seed = "5a87133b68ea3468988a21659a12ed2ece07345c8c1a5b08459ffdea4218d12f";
        (generation, hex::decode(seed).unwrap())
    }

    /// The worked examples of `spec/core.md` 5.10.
    #[test]
    fn worked_examples() {
        let (generation, seed) = worked_example();
        for (version, family, address) in [
            (0, Family::V4, "192.122.190.130"),
            (1, Family::V4, "192.122.190.130"),
            (2, Family::V4, "192.122.190.164"),
            (4, Family::V6, "2001:48a8:687f:1:5da6:63e0:48a4:b3e"),
        ] {
            let pick = generation.pick(&seed, ClientVersion(version)).unwrap();
            let phantom = pick.phantom(family).unwrap();
            assert_eq!(phantom.address.to_string(), address, "version {version}");
            assert!(phantom.random_port);
            assert!(phantom.subnet.contains(phantom.address));
        }
    }

    #[test]
    fn weights_of_zero_are_errors_for_every_version() {
        let generation = Generation::new(&[Group { subnets: Some(vec![]), ..Group::default() }]);
        let error = |version| generation.pick(&[5; 16], ClientVersion(version)).unwrap_err();
        assert_eq!(error(0), SelectError::NoChoices);
        assert_eq!(error(4), SelectError::NoWeight);
        let absent = Generation::new(&[Group { weight: 1, ..Group::default() }]);
        assert_eq!(absent.pick(&[5; 16], ClientVersion(4)).unwrap_err(), SelectError::NoWeight);
    }

    proptest! {
        #[test]
        fn the_long_fold_equals_the_short_one(seed in any::<[u8; 16]>(), total in 1u128..) {
            let mut padded = vec![1];
            padded.extend(seed);
            let short = fold(&seed, total, false);
            let high = fold(&[vec![1], vec![0; 16]].concat(), total, false);
            let sum = short.checked_add(high).map_or_else(
                || short.wrapping_add(high).wrapping_sub(total),
                |sum| sum % total,
            );
            prop_assert_eq!(fold(&padded, total, false), sum);
        }

        #[test]
        fn any_seed_selects_inside_the_subnet(
            seed in proptest::collection::vec(any::<u8>(), 0..40),
            version in 0u32..6,
            v6 in any::<bool>(),
        ) {
            let (generation, _) = worked_example();
            let family = if v6 { Family::V6 } else { Family::V4 };
            let pick = generation.pick(&seed, ClientVersion(version));
            if let Ok(phantom) = pick.and_then(|pick| pick.phantom(family)) {
                prop_assert!(phantom.subnet.contains(phantom.address));
            }
        }
    }
}
