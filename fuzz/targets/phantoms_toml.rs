//! The file of phantom subnets: what it takes leads to addresses inside it for every version of
//! client, and what it refuses is named.
#![no_main]

use keys::ClientVersion;
use libfuzzer_sys::fuzz_target;
use phantoms::{Family, PhantomTable};

/// A generation and the head of a group, behind which the interesting part begins.
const HEAD: &str = "[Networks.1]\nGeneration = 1\n[[Networks.1.WeightedSubnets]]\n";

fuzz_target!(|text: &str| {
    read(text);
    read(&format!("{HEAD}{text}"));
    read(&format!("{HEAD}Weight = 1\nSubnets = [{text}]\n"));
    read(&format!("{HEAD}Weight = 1\nSubnets = [\"192.0.2.0/24\", \"{text}\"]\n"));
});

fn read(text: &str) {
    let table = match PhantomTable::parse(text) {
        Ok(loaded) => loaded.table,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let seeds = [[0; 32], [0xff; 32], [0x5a; 32]];
    for number in table.numbers().take(4) {
        let generation = table.generation(number).expect("a number of the table");
        for seed in &seeds {
            for version in [0, 1, 2, 4] {
                let Ok(pick) = table.pick(number, seed, ClientVersion(version)) else { continue };
                for family in [Family::V4, Family::V6] {
                    if let Ok(phantom) = pick.phantom(family) {
                        assert_eq!(phantom.address.is_ipv6(), family == Family::V6);
                        assert!(generation.contains(phantom.address), "{}", phantom.address);
                    }
                }
            }
        }
    }
}
