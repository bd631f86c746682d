//! Every case of `core-gorand.json` and `core-phantoms.json`.

use keys::ClientVersion;
use phantoms::prng::{SeededRand, varint};
use phantoms::{
    Family, Generation, Group, Phantom, PhantomTable, SelectError, Subnet, client, order,
};
use std::collections::BTreeMap;
use vectors::{Tally, Value, hex, load};

fn cases<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    file[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

fn word(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap(), 16).unwrap()
}

/// Draws a double as Go's `Float64` does.
fn float(rand: &mut SeededRand) -> f64 {
    loop {
        let drawn = rand.next_63() as f64 / (1u64 << 63) as f64;
        if drawn < 1.0 {
            return drawn;
        }
    }
}

/// Go's `Shuffle` of 0..n.
fn shuffled(rand: &mut SeededRand, n: u64) -> Vec<u64> {
    let mut list: Vec<u64> = (0..n).collect();
    for i in (1..n).rev() {
        let m = i + 1;
        let mut product = (rand.next_63() >> 31 & 0xffff_ffff) * m;
        if (product & 0xffff_ffff) < m {
            let threshold = ((1 << 32) - m) % m;
            while (product & 0xffff_ffff) < threshold {
                product = (rand.next_63() >> 31 & 0xffff_ffff) * m;
            }
        }
        list.swap(i as usize, (product >> 32) as usize);
    }
    list
}

/// Reads a C99 hexadecimal float such as `0x1.e3f0bfeb0bf65p-1`.
fn c99(text: &str) -> f64 {
    let (mantissa, exponent) = text.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = i64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap();
    digits as f64 * 2f64.powi(exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32)
}

#[test]
fn core_gorand() {
    let file = load("core-gorand.json");
    let mut tally = Tally::new("core-gorand.json");
    for case in cases(&file, "streams") {
        let seed = case["seed"].as_i64().unwrap();
        let fresh = || SeededRand::new(seed);
        let mut rand = fresh();
        for expected in cases(case, "uint64") {
            assert_eq!(rand.next_u64(), word(expected), "{seed}");
        }
        let mut rand = fresh();
        let last = (0..700).map(|_| rand.next_u64()).last();
        assert_eq!(last, Some(word(&case["uint64_number_700"])), "{seed}");
        let mut read = [0; 23];
        fresh().fill(&mut read);
        assert_eq!(read.as_slice(), hex(&case["read_23"]));
        for (modulus, draws) in case["intn"].as_object().unwrap() {
            let mut rand = fresh();
            for expected in draws.as_array().unwrap() {
                let drawn = rand.below(modulus.parse().unwrap());
                assert_eq!(drawn, expected.as_u64().unwrap(), "{seed} mod {modulus}");
            }
        }
        let mut rand = fresh();
        for expected in cases(case, "float64") {
            assert_eq!(float(&mut rand), c99(expected.as_str().unwrap()), "{seed}");
        }
        let shuffle: Vec<u64> =
            cases(case, "shuffle_10").iter().map(|v| v.as_u64().unwrap()).collect();
        assert_eq!(shuffled(&mut fresh(), 10), shuffle, "{seed}");
        tally.pass();
    }
    // The table itself: with seed s, draw n is the sum of two words of the seeded state, each an
    // LCG part xor a table word; 607 draws of one seed pin all of them.
    let cooked: Vec<u64> = cases(&file, "cooked").iter().map(word).collect();
    let lcg = |x: u64| x * 48271 % ((1 << 31) - 1);
    let mut x = (0..20).fold(1, |x, _| lcg(x));
    let mut state: Vec<u64> = cooked
        .iter()
        .map(|word| {
            let a = lcg(x);
            let b = lcg(a);
            x = lcg(b);
            a << 40 ^ b << 20 ^ x ^ word
        })
        .collect();
    let mut rand = SeededRand::new(1);
    for n in 0..607 {
        let (feed, tap) = ((333 + 607 - n) % 607, (606 + 607 - n) % 607);
        state[feed] = state[feed].wrapping_add(state[tap]);
        assert_eq!(rand.next_u64(), state[feed], "draw {n}");
    }
    tally.pass();
    tally.finish();
}

fn groups(config: &Value) -> Vec<Group> {
    let list = config.as_array().unwrap();
    list.iter()
        .map(|group| Group {
            weight: u32::try_from(group["weight"].as_u64().unwrap()).unwrap(),
            subnets: group.get("subnets").map(|subnets| {
                let subnets = subnets.as_array().unwrap();
                subnets.iter().map(|s| s.as_str().unwrap().to_owned()).collect()
            }),
            randomize_dst_port: group["randomize_dst_port"].as_bool().unwrap(),
        })
        .collect()
}

fn compare(case: &Value, result: Result<Phantom, SelectError>) {
    match (case.get("error"), result) {
        (Some(expected), Err(error)) => {
            assert_eq!(error.to_string(), expected.as_str().unwrap(), "{case}");
        }
        (None, Ok(phantom)) => {
            let ip = case["ip"].as_str().unwrap();
            assert_eq!(phantom.address.to_string(), ip, "{case}");
            assert_eq!(
                phantom.random_port,
                case["random_port_supported"].as_bool().unwrap(),
                "{case}"
            );
            if let Some(expected) = case.get("subnet") {
                let expected = Subnet::parse(expected.as_str().unwrap());
                assert_eq!(Some(phantom.subnet), expected, "{case}");
            }
            if let Some(expected) = case.get("ip_hex") {
                let bytes = match phantom.address {
                    std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                    std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                assert_eq!(bytes, hex(expected), "{case}");
            }
        }
        (_, result) => panic!("{case}: {result:?}"),
    }
}

#[test]
fn core_phantoms() {
    let file = load("core-phantoms.json");
    let mut tally = Tally::new("core-phantoms.json");
    let configs: BTreeMap<&str, Vec<Group>> = file["configs"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, config)| (name.as_str(), groups(config)))
        .collect();
    let number = |name: &str| configs.keys().position(|&n| n == name).unwrap() as u32;
    let table = PhantomTable::new(
        configs.iter().map(|(name, groups)| (number(name), Generation::new(groups))),
    );
    for case in cases(&file, "station_cases") {
        let seed = hex(&case["seed"]);
        let version = ClientVersion(case["client_lib_version"].as_u64().unwrap() as u32);
        let v6 = case.get("v6").is_some_and(|v6| v6.as_bool().unwrap());
        let family = if v6 { Family::V6 } else { Family::V4 };
        let generation = case["config"].as_str().map_or(u32::MAX, number);
        let result = table.pick(generation, &seed, version).and_then(|pick| pick.phantom(family));
        compare(case, result);
        tally.pass();
    }
    for case in cases(&file, "client_cases") {
        let seed = hex(&case["seed"]);
        let family = match case["filter"].as_u64() {
            None => None,
            Some(4) => Some(Family::V4),
            Some(6) => Some(Family::V6),
            Some(other) => panic!("filter {other}"),
        };
        let groups = &configs[case["config"].as_str().unwrap()];
        compare(case, client::select(groups, &seed, family, case["weighted"].as_bool().unwrap()));
        tally.pass();
    }
    for case in cases(&file, "varint") {
        let (value, count) = varint(&hex(&case["bytes"]));
        assert_eq!(value, case["value"].as_i64().unwrap(), "{case}");
        assert_eq!(i64::from(count), case["n"].as_i64().unwrap(), "{case}");
        tally.pass();
    }
    for case in cases(&file, "go_sort_order") {
        let numbers =
            |name| -> Vec<u64> { cases(case, name).iter().map(|v| v.as_u64().unwrap()).collect() };
        let weights: Vec<u32> = numbers("weights").into_iter().map(|w| w as u32).collect();
        let order: Vec<u64> = order::ascending(&weights).into_iter().map(|i| i as u64).collect();
        assert_eq!(order, numbers("order"), "{case}");
        tally.pass();
    }
    tally.finish();
}
