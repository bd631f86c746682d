//! Frames from the tap, as the detector and the balancer read them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use packet::distribution::{Mode, Spreader, Target, frame_hash};
use packet::{Frame, SymmetricHash, tunnel, walk};

fuzz_target!(|bytes: &[u8]| {
    let hash = SymmetricHash::new(7);
    let Some((&offset, captured)) = bytes.split_first() else { return };
    for offset in [0, usize::from(offset)] {
        if let Ok(frame) = Frame::parse(captured, offset) {
            let _ = (frame.transport(), frame.transport_or_capture());
        }
    }
    let _ = walk::vlan_ids(captured).count();
    if let Some(bare) = tunnel::bare(captured) {
        bare.write(captured, &mut Vec::new());
    }
    for mode in [Mode::Ip, Mode::FiveTuple, Mode::RoundRobin, Mode::Auto, Mode::Gre, Mode::Gtp, Mode::Erspan] {
        let hashed = frame_hash(mode, &hash, captured);
        match Spreader::new(mode, 7).target(hashed, 3) {
            Target::One(queue) => assert!(queue < 7),
            other => panic!("{mode} gave {other:?}"),
        }
    }
});
