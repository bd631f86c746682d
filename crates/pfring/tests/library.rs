//! The sequences of `spec/ingest.md` 4 and 5, call by call, against the recording fake. The fake and its variables
//! belong to a process, so each test runs itself again in one of its own.

use std::path::Path;
use std::process::Command;

use pfring::{
    AttachError, BURST, Cluster, ClusterError, Consumer, Library, ReceiveError, Ring, RingError,
    Settings,
};
use pfring_fake::Fake;

/// Runs the test `name` again, with the fake in `PFRING_FAKE` and the plan in `PFRING_FAKE_FAIL`, and returns what the
/// fake recorded.
fn record(name: &str, plan: &str) -> (Vec<String>, Vec<String>) {
    let temporary = tempfile::tempdir().unwrap();
    let fake = Fake::build(temporary.path());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]);
    command.env("PFRING_FAKE_NAME", "test").env("PFRING_FAKE_FAIL", plan);
    let output = fake.offer(&mut command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (fake.calls("test"), fake.violations("test"))
}

/// The fake's folder, in the process that has it.
fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os("PFRING_FAKE").map(Into::into)
}

fn library(folder: &Path) -> &'static Library {
    Library::open(folder.join("libpfring.so").as_os_str()).unwrap()
}

fn settings(queues: u32, copies: bool) -> Settings {
    Settings {
        cluster: 98,
        devices: vec!["zc:tap0".to_owned()],
        queues,
        slots: 64,
        buffers: 16,
        packet: 1536,
        node: -1,
        copies,
    }
}

fn packets(folder: &Path, range: std::ops::Range<u8>) {
    let packets: Vec<Vec<u8>> = range.map(|n| vec![n; 60 + usize::from(n)]).collect();
    let device = format!("packets-{}", "zc:tap0");
    let bytes: Vec<u8> = packets
        .iter()
        .flat_map(|packet| [&(packet.len() as u16).to_le_bytes()[..], packet].concat())
        .collect();
    std::fs::write(folder.join(device), bytes).unwrap();
}

fn repeated(line: &str, times: usize) -> Vec<String> {
    vec![line.to_owned(); times]
}

/// The fake writes a line that repeats itself once.
fn deduplicated(lines: Vec<String>) -> Vec<String> {
    let mut lines = lines;
    lines.dedup();
    lines
}

#[test]
fn packets_go_from_a_device_through_a_queue() {
    let name = "packets_go_from_a_device_through_a_queue";
    if let Some(folder) = folder() {
        let library = library(&folder);
        assert_eq!(library.version(), "8.9.0.241017");
        packets(&folder, 0..20);
        let mut cluster = Cluster::create(library, &settings(2, false)).unwrap();
        assert_eq!(cluster.queue_ids(), [0, 1]);
        let mut consumer = Consumer::attach(library, 98, 1).unwrap();
        let mut sent = 0;
        loop {
            let count = cluster.receive(0).unwrap();
            if count == 0 {
                break;
            }
            for index in 0..count {
                let (packet, time) = cluster.packet(index);
                assert_eq!((packet[0], packet.len()), (sent, 60 + usize::from(sent)));
                assert_eq!(time, 1_700_000_000_000_000_005);
                if sent == 3 {
                    packet[1] = 0xff;
                    cluster.truncate(index, 5);
                }
                let queue = if sent == 7 { 1 } else { 2 };
                assert_eq!(cluster.send(index, queue, index + 1 == count), 1);
                sent += 1;
            }
        }
        assert_eq!(sent, 20);
        let mut got = Vec::new();
        let mut counts = Vec::new();
        for _ in 0..3 {
            counts.push(
                consumer
                    .burst(&mut |packets| got.extend(packets.iter().map(|p| p.to_vec())))
                    .unwrap(),
            );
        }
        assert_eq!(counts, [16, 3, 0]);
        let expected = (0..20u8).filter(|n| *n != 7).map(|n| match n {
            3 => vec![3, 0xff, 3, 3, 3],
            n => vec![n; 60 + usize::from(n)],
        });
        assert!(got.iter().cloned().eq(expected));
        assert_eq!(consumer.statistics().unwrap().received, 19);
        let (devices, queues) = cluster.statistics();
        assert_eq!((devices[0].received, queues[0].sent, queues[1].sent), (20, 1, 19));
        cluster.show("ClusterId:    98\n");
        assert_eq!(std::fs::read_to_string(folder.join("stats")).unwrap(), "ClusterId:    98\n");
        cluster.show(&"a line of twenty by.\n".repeat(60));
        assert_eq!(std::fs::read(folder.join("stats")).unwrap().len(), 1023 / 21 * 21);
        drop(consumer);
        return;
    }
    let (calls, violations) = record(name, "");
    assert_eq!(violations, Vec::<String>::new());
    let start: Vec<String> = [
        // One device, two queues: 32,768 + 2 * (64 + 16) + 8.
        "create_cluster 98 1536 0 32936 -1 - 0 = 0",
        "open_device 98 zc:tap0 0 0 = 0",
        "create_queue_pool_pair 98 64 16 = 0",
        "create_queue_pool_pair 98 64 16 = 1",
        "create_buffer_pool 98 8 = 0",
        "get_packet_handle_from_pool 98 working = 1",
        "ipc_attach_queue 98 1 = 0",
        "ipc_attach_buffer_pool 98 1 = 0",
        "get_packet_handle_from_pool 98@1 = 1",
        "recv_pkt_burst zc:tap0 8 0 = 8",
        "send_pkt 98@1 60 0 = 60",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(calls[..start.len()], start);
    assert!(calls.contains(&"send_pkt 98@1 5 0 = 5".to_owned()), "{calls:#?}");
    assert!(calls.contains(&"send_pkt 98@0 67 1 = 67".to_owned()), "{calls:#?}");
    let end = [
        vec!["recv_pkt_burst 98@1 16 0 = 16".to_owned(), "recv_pkt_burst 98@1 16 0 = 3".to_owned()],
        vec!["queue_breakloop 98@1".to_owned()],
        repeated("release_packet_handle_to_pool 98@1", BURST),
        vec!["ipc_detach_queue 98@1".to_owned(), "ipc_detach_buffer_pool 98@1".to_owned()],
        repeated("release_packet_handle_to_pool 98 working", 8),
        vec!["destroy_cluster 98".to_owned()],
    ]
    .concat();
    let end = deduplicated(end);
    assert_eq!(calls[calls.len() - end.len()..], end);
}

#[test]
fn a_packet_goes_to_several_queues() {
    let name = "a_packet_goes_to_several_queues";
    if let Some(folder) = folder() {
        let library = library(&folder);
        packets(&folder, 0..3);
        let mut cluster = Cluster::create(library, &settings(3, true)).unwrap();
        let mut consumers: Vec<Consumer> =
            (0..3).map(|queue| Consumer::attach(library, 98, queue).unwrap()).collect();
        assert_eq!(cluster.receive(0), Ok(3));
        for (index, (mask, copies)) in [(0b111, 3), (0b101, 2), (0b010, 1)].into_iter().enumerate()
        {
            assert_eq!(cluster.send(index, mask, true), copies);
        }
        let got: Vec<Vec<u8>> = consumers
            .iter_mut()
            .map(|consumer| {
                let mut got = Vec::new();
                consumer.burst(&mut |packets| got.extend(packets.iter().map(|p| p[0]))).unwrap();
                got
            })
            .collect();
        assert_eq!(got, [vec![0, 1], vec![0, 2], vec![0, 1]]);
        consumers.clear();
        return;
    }
    let (calls, violations) = record(name, "");
    assert_eq!(violations, Vec::<String>::new());
    let at = |line: &str| {
        calls.iter().position(|call| call == line).unwrap_or_else(|| panic!("{line}: {calls:#?}"))
    };
    assert!(at("create_queue_pool_pair 98 64 16 = 2") < at("create_multi_queue 3 = 0"));
    assert!(at("create_multi_queue 3 = 0") < at("create_buffer_pool 98 8 = 0"));
    assert!(at("send_pkt_multi 60 0x7 1 = 3") < at("send_pkt_multi 61 0x5 1 = 2"));
    assert!(!calls.iter().any(|call| call.starts_with("send_pkt ")), "{calls:#?}");
}

#[test]
fn a_full_queue_drops_and_counts() {
    let name = "a_full_queue_drops_and_counts";
    if let Some(folder) = folder() {
        let library = library(&folder);
        packets(&folder, 0..100);
        let mut cluster = Cluster::create(library, &settings(1, false)).unwrap();
        let mut sent = 0;
        loop {
            let count = cluster.receive(0).unwrap();
            if count == 0 {
                break;
            }
            sent += (0..count).map(|index| cluster.send(index, 1, true)).sum::<u32>();
        }
        let (_, queues) = cluster.statistics();
        assert_eq!((sent, queues[0].sent, queues[0].dropped), (64, 64, 36));
        return;
    }
    assert_eq!(record(name, "").1, Vec::<String>::new());
}

#[test]
fn what_cannot_be_had_is_named_and_what_was_taken_goes_back() {
    let name = "what_cannot_be_had_is_named_and_what_was_taken_goes_back";
    if let Some(folder) = folder() {
        let library = library(&folder);
        // Nobody has made the cluster yet, so it may be tried again.
        let error = Consumer::attach(library, 98, 0).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("pfring_zc_ipc_attach_queue error [Invalid argument"), "{text}");
        assert!(text.contains("98@0: its balancer is not there yet"), "{text}");
        let cluster = Cluster::create(library, &settings(1, false)).unwrap();
        let first = Consumer::attach(library, 98, 0).unwrap();
        let text = Consumer::attach(library, 98, 0).unwrap_err().to_string();
        assert!(text.contains("98@0: another consumer has it"), "{text}");
        assert!(Consumer::attach(library, 98, 1).unwrap_err().to_string().contains("98@1"));
        drop(first);
        // The plan refuses the third pool that is asked for, and the 20th buffer of the fourth one.
        let text = Consumer::attach(library, 98, 0).unwrap_err().to_string();
        assert!(text.contains("pfring_zc_ipc_attach_buffer_pool error [No such device"), "{text}");
        match Consumer::attach(library, 98, 0) {
            Err(AttachError::Buffers { found: 3, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert!(Consumer::attach(library, 98, 0).is_ok());
        drop(cluster);
        return;
    }
    // Buffers: 8 of the producer, 16 of the first consumer, then the fourth that is asked for.
    let plan = "pfring_zc_ipc_attach_buffer_pool@2=19,pfring_zc_get_packet_handle_from_pool@28=12";
    let (calls, violations) = record(name, plan);
    assert_eq!(violations, Vec::<String>::new(), "{calls:#?}");
    let refused = calls.iter().position(|call| call == "ipc_attach_buffer_pool 98 0 = 19").unwrap();
    assert_eq!(calls[refused + 1], "ipc_detach_queue 98@0");
    let short = calls.iter().position(|call| call.ends_with("98@0 = NULL")).unwrap();
    let end = [
        "queue_breakloop 98@0",
        "release_packet_handle_to_pool 98@0",
        "ipc_detach_queue 98@0",
        "ipc_detach_buffer_pool 98@0",
    ];
    assert_eq!(calls[short + 1..][..end.len()], end);
}

#[test]
fn a_cluster_that_fails_half_way_is_taken_down() {
    let name = "a_cluster_that_fails_half_way_is_taken_down";
    let plans = [
        ("pfring_zc_create_cluster=105", "vm.nr_hugepages", false),
        ("pfring_zc_create_cluster=97", "modprobe pf_ring", false),
        ("pfring_zc_open_device=19", "pfring_zc_open_device error [No such device", true),
        (
            "pfring_zc_create_queue_pool_pair@2=12",
            "create_queue_pool_pair error [Cannot allocate",
            true,
        ),
        ("pfring_zc_create_multi_queue=22", "create_multi_queue error [Invalid argument", true),
        ("pfring_zc_create_buffer_pool=12", "create_buffer_pool error [Cannot allocate", true),
        ("pfring_zc_get_packet_handle_from_pool@5=12", "get_packet_handle_from_pool error", true),
    ];
    if let Some(folder) = folder() {
        let plan = std::env::var("PFRING_FAKE_FAIL").unwrap();
        let (_, expected, _) = plans.iter().find(|(known, ..)| *known == plan).unwrap();
        let error: ClusterError =
            Cluster::create(library(&folder), &settings(2, true)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        return;
    }
    for (plan, _, is_made) in plans {
        let (calls, violations) = record(name, plan);
        assert_eq!(violations, Vec::<String>::new(), "{plan}: {calls:#?}");
        assert_eq!(calls.last().unwrap() == "destroy_cluster 98", is_made, "{plan}: {calls:#?}");
    }
}

#[test]
fn the_end_of_the_demo_is_told_from_other_errors() {
    let name = "the_end_of_the_demo_is_told_from_other_errors";
    if let Some(folder) = folder() {
        let library = library(&folder);
        let mut cluster = Cluster::create(library, &settings(1, false)).unwrap();
        let mut consumer = Consumer::attach(library, 98, 0).unwrap();
        assert_eq!(cluster.receive(0), Err(ReceiveError::Demo));
        assert_eq!(cluster.receive(0), Err(ReceiveError::Code(-1)));
        assert_eq!(cluster.receive(0), Ok(0));
        assert_eq!(consumer.burst(&mut |_| panic!("no packet")), Err(ReceiveError::Demo));
        let text = ReceiveError::Demo.to_string();
        assert!(text.contains("five minutes") && text.contains("/etc/pf_ring"), "{text}");
        drop(consumer);
        return;
    }
    let plan =
        "pfring_zc_recv_pkt_burst@1=-6,pfring_zc_recv_pkt_burst@2=5,pfring_zc_recv_pkt_burst@4=-6";
    assert_eq!(record(name, plan).1, Vec::<String>::new());
}

#[test]
fn a_ring_hands_out_what_was_captured_and_no_more() {
    let name = "a_ring_hands_out_what_was_captured_and_no_more";
    if let Some(folder) = folder() {
        let path = folder.join("libpfring.so");
        let record = |captured: usize, wire: u16| {
            let captured = vec![captured as u8; captured];
            [&(captured.len() as u16).to_le_bytes()[..], &wire.to_le_bytes(), &captured].concat()
        };
        std::fs::write(folder.join("packets-tap0"), [record(60, 60), record(64, 1500)].concat())
            .unwrap();
        let mut ring = Ring::open_with(path.as_os_str(), "tap0", 98).unwrap();
        // One byte more would be on a page that cannot be read.
        assert_eq!(ring.receive().unwrap(), Some(&[60; 60][..]));
        assert_eq!(ring.receive().unwrap(), Some(&[64; 64][..]));
        assert_eq!(ring.receive().unwrap(), None);
        let statistics = ring.statistics().unwrap();
        assert_eq!((statistics.received, statistics.dropped), (2, 3));
        assert!(matches!(ring.receive(), Err(RingError::Receive { code: -1, .. })));
        return;
    }
    let (calls, violations) = record(name, "pfring_recv@4=19");
    assert_eq!(violations, Vec::<String>::new());
    let expected = [
        "pfring_open tap0 65535 8 = 0",
        "pfring_set_cluster tap0 98 2 = 0",
        "pfring_set_direction tap0 1 0 = 0",
        "pfring_set_socket_mode tap0 2 0 = 0",
        "pfring_enable_ring tap0 0 0 = 0",
        "pfring_recv tap0 = 1",
        "pfring_recv tap0 = 19",
        "pfring_breakloop tap0",
        "pfring_shutdown tap0",
        "pfring_close tap0",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn a_ring_that_is_refused_is_closed() {
    let name = "a_ring_that_is_refused_is_closed";
    let steps = [
        "pfring_open",
        "pfring_set_cluster",
        "pfring_set_direction",
        "pfring_set_socket_mode",
        "pfring_enable_ring",
    ];
    if let Some(folder) = folder() {
        let error =
            Ring::open_with(folder.join("libpfring.so").as_os_str(), "tap0", 98).unwrap_err();
        let plan = std::env::var("PFRING_FAKE_FAIL").unwrap();
        let text = error.to_string();
        assert!(
            text.contains(plan.split('=').next().unwrap()) && text.contains("modprobe"),
            "{text}"
        );
        return;
    }
    for step in steps {
        let (calls, violations) = record(name, &format!("{step}=97"));
        assert_eq!(violations, Vec::<String>::new(), "{step}");
        assert_eq!(
            calls.last().unwrap() == "pfring_close tap0",
            step != "pfring_open",
            "{calls:#?}"
        );
    }
}

#[test]
fn a_library_without_zc_is_told_from_none_at_all() {
    let temporary = tempfile::tempdir().unwrap();
    let fake = Fake::without_zc(temporary.path());
    let text = Library::open(fake.library().as_os_str()).unwrap_err().to_string();
    for part in ["libpfring.so lacks a function", "pfring_zc_", "without ZC"] {
        assert!(text.contains(part), "{text}");
    }
}
