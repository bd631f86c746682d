//! One generation of phantom subnets, prepared for selection (`spec/core.md` 4, 5).

use crate::order::ascending;
use crate::subnet::{Family, Subnet};

/// One weighted group as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Relative weight.
    pub weight: u32,
    /// CIDR texts; `None` when the list is absent, which differs from an empty one.
    pub subnets: Option<Vec<String>>,
    /// Whether destination ports other than 443 reach the group.
    pub randomize_dst_port: bool,
}

/// What a picked group offers.
#[derive(Debug, Clone)]
pub(crate) enum Members {
    /// No subnets, absent or empty list.
    None,
    /// The first CIDR text that cannot be read.
    Invalid(String),
    /// Subnets of each family in list order.
    Ready { v4: Ranges, v6: Ranges },
}

/// Subnets in list order and how many addresses they hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges {
    pub(crate) subnets: Vec<Subnet>,
    /// `None` when it does not fit 128 bits.
    pub(crate) total: Option<u128>,
}

impl Ranges {
    pub(crate) fn new(subnets: Vec<Subnet>) -> Self {
        let total = subnets.iter().try_fold(0u128, |sum, net| sum.checked_add(net.size()?));
        Self { subnets, total }
    }

    /// The subnet in which position `id` of all ranges laid end to end falls, and the offset in it.
    pub(crate) fn locate(&self, mut id: u128) -> Option<(Subnet, u128)> {
        for &net in &self.subnets {
            match net.size() {
                Some(size) if id >= size => id -= size,
                _ => return Some((net, id)),
            }
        }
        None
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) weight: u32,
    pub(crate) random_port: bool,
    pub(crate) members: Members,
}

/// The groups of one generation with everything that does not depend on a seed computed once.
#[derive(Debug, Clone)]
pub struct Generation {
    pub(crate) groups: Vec<Prepared>,
    /// All groups in ascending order of weight, for client versions 0 and 1.
    pub(crate) order_all: Vec<usize>,
    pub(crate) weight_all: u64,
    /// Groups with a subnet list, sorted by themselves, for later versions.
    pub(crate) order_present: Vec<usize>,
    pub(crate) weight_present: u64,
    written: Vec<Group>,
    problems: Vec<Problem>,
}

/// A doubtful entry of a generation; selection works around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Index of the group, and of the subnet in it, if the problem has one.
    pub at: Option<(usize, Option<usize>)>,
    /// What is wrong and what follows.
    pub text: String,
}

/// Above this many groups, Go's sort is no longer stable.
const STABLE_GROUPS: usize = 12;

impl Generation {
    /// Prepares `groups`, in configuration order.
    pub fn new(groups: &[Group]) -> Self {
        let mut problems = Vec::new();
        let prepared: Vec<Prepared> =
            groups.iter().enumerate().map(|(i, group)| prepare(i, group, &mut problems)).collect();
        let weights: Vec<u32> = groups.iter().map(|group| group.weight).collect();
        let present: Vec<usize> =
            (0..groups.len()).filter(|&i| groups[i].subnets.is_some()).collect();
        let present_weights: Vec<u32> = present.iter().map(|&i| weights[i]).collect();
        let sum = |weights: &[u32]| weights.iter().map(|&weight| u64::from(weight)).sum();
        let generation = Self {
            groups: prepared,
            order_all: ascending(&weights),
            weight_all: sum(&weights),
            order_present: ascending(&present_weights).into_iter().map(|i| present[i]).collect(),
            weight_present: sum(&present_weights),
            written: groups.to_vec(),
            problems: Vec::new(),
        };
        generation.whole_problems(&weights, &mut problems);
        Self { problems, ..generation }
    }

    /// The groups as configured, in their order, which clients must keep.
    pub fn groups(&self) -> &[Group] {
        &self.written
    }

    /// Doubtful entries found while preparing.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether `address` lies in a subnet of any group.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.groups.iter().any(|group| match &group.members {
            Members::Ready { v4, v6 } => {
                v4.subnets.iter().chain(&v6.subnets).any(|net| net.contains(address))
            }
            _ => false,
        })
    }

    fn whole_problems(&self, weights: &[u32], problems: &mut Vec<Problem>) {
        let mut add = |text: String| problems.push(Problem { at: None, text });
        if weights.is_empty() {
            return add("no groups; every selection fails".to_owned());
        }
        if self.weight_present == 0 {
            add("the total weight is 0; every selection fails, give a group a weight".to_owned());
        }
        let mut distinct = weights.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if weights.len() > STABLE_GROUPS && distinct.len() < weights.len() {
            add(format!(
                "{} groups with repeated weights; above {STABLE_GROUPS} groups the order of equal \
                 weights differs between releases of Go, make the weights distinct",
                weights.len()
            ));
        }
    }
}

fn prepare(index: usize, group: &Group, problems: &mut Vec<Problem>) -> Prepared {
    let mut problem = |subnet: Option<usize>, text: String| {
        problems.push(Problem { at: Some((index, subnet)), text });
    };
    let texts = group.subnets.as_deref().unwrap_or_default();
    let mut invalid = None;
    let mut subnets = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let Some(net) = Subnet::parse(text) else {
            problem(Some(i), format!("invalid CIDR address: {text}; the group cannot be selected"));
            invalid.get_or_insert_with(|| text.clone());
            continue;
        };
        let leading = match net.base() {
            std::net::IpAddr::V4(base) => base.octets()[0],
            std::net::IpAddr::V6(base) => base.octets()[0],
        };
        if leading == 0 {
            problem(
                Some(i),
                format!("{text} starts with a zero byte; reference peers choose other addresses"),
            );
        }
        subnets.push(net);
    }
    let members = match invalid {
        Some(text) => Members::Invalid(text),
        None if texts.is_empty() => {
            problem(None, "a group without subnets; selecting it fails".to_owned());
            Members::None
        }
        None => {
            let of = |family| subnets.iter().filter(|n| n.family() == family).copied().collect();
            let (v4, v6) = (Ranges::new(of(Family::V4)), Ranges::new(of(Family::V6)));
            if v6.total.is_none() {
                problem(None, "the IPv6 subnets hold 2^128 addresses or more".to_owned());
            }
            Members::Ready { v4, v6 }
        }
    };
    Prepared { weight: group.weight, random_port: group.randomize_dst_port, members }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(weight: u32, subnets: &[&str]) -> Group {
        Group {
            weight,
            subnets: Some(subnets.iter().map(|&s| s.to_owned()).collect()),
            randomize_dst_port: false,
        }
    }

    #[test]
    fn problems_name_group_and_subnet() {
        let generation = Generation::new(&[
            group(0, &["10.0.0.0/8", "nonsense"]),
            group(0, &["0.0.0.0/8"]),
            Group::default(),
            group(0, &["::/0"]),
        ]);
        let texts: Vec<_> = generation.problems().iter().map(|p| (p.at, p.text.as_str())).collect();
        assert_eq!(texts[0].0, Some((0, Some(1))));
        assert!(texts[0].1.starts_with("invalid CIDR address: nonsense"));
        assert_eq!(texts[1].0, Some((1, Some(0))));
        assert_eq!(texts[2].0, Some((2, None)));
        assert!(texts.iter().any(|t| t.1.contains("2^128")));
        assert!(texts.iter().any(|t| t.1.contains("total weight is 0")));
    }

    #[test]
    fn membership() {
        let generation = Generation::new(&[group(1, &["10.0.0.0/8", "2001:db8::/64"])]);
        assert!(generation.contains("10.9.9.9".parse().unwrap()));
        assert!(generation.contains("2001:db8::9".parse().unwrap()));
        assert!(!generation.contains("11.0.0.0".parse().unwrap()));
    }
}
