//! The fake notices what it is there to notice. Everything that is done here is forbidden.

use std::ffi::c_void;
use std::process::Command;
use std::ptr::{null, null_mut};

use pfring_fake::Fake;
use pfring_sys::zc::{Zc, pfring_zc_pkt_buff, pfring_zc_queue_mode as mode};

/// A cluster with one queue, and a consumer of it, by their pointers.
struct Parts {
    zc: Zc,
    cluster: *mut c_void,
    queue: *mut c_void,
    pool: *mut c_void,
    handles: [*mut pfring_zc_pkt_buff; 17],
}

/// Runs the test `name` again with the fake, lets `offend` do something there, and looks for what the fake says of it.
fn offence(name: &str, says: &str, offend: unsafe fn(&mut Parts)) {
    if let Some(folder) = std::env::var_os("PFRING_FAKE") {
        let library = std::path::Path::new(&folder).join("libpfring.so");
        // SAFETY: the fake checks whatever it is given before it uses it.
        unsafe {
            let zc = Zc::new(library).unwrap();
            let cluster = zc.pfring_zc_create_cluster(98, 1536, 0, 1000, -1, null(), 0);
            let (mut queue, mut pool) = (null_mut(), null_mut());
            let made =
                zc.pfring_zc_create_queue_pool_pair(cluster, 64, 32, &raw mut queue, &raw mut pool);
            assert_eq!(made, 0);
            zc.pfring_zc_create_buffer_pool(cluster, 8);
            let queue = zc.pfring_zc_ipc_attach_queue(98, 0, mode::rx_only);
            let pool = zc.pfring_zc_ipc_attach_buffer_pool(98, 0);
            let handles = [(); 17].map(|()| zc.pfring_zc_get_packet_handle_from_pool(pool));
            let mut parts = Parts { zc, cluster, queue, pool, handles };
            offend(&mut parts);
            // What is left open is an offence too, but not this one.
            std::mem::forget(parts);
        }
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let fake = Fake::build(temporary.path());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env("PFRING_FAKE_NAME", "test");
    let output = fake.offer(&mut command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let violations = fake.violations("test");
    assert!(violations.iter().any(|line| line.contains(says)), "{says}: {violations:#?}");
}

macro_rules! offences {
    ($($name:ident, $says:literal, $do:expr;)+) => {$(
        #[test]
        fn $name() {
            offence(stringify!($name), $says, $do);
        }
    )+};
}

offences! {
    a_buffer_is_released_twice, "release_packet_handle_to_pool: buffer 0 is not held", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_release_packet_handle_to_pool(p.pool, p.handles[0]);
        p.zc.pfring_zc_release_packet_handle_to_pool(p.pool, p.handles[0]);
    };
    a_queue_is_used_after_it_was_detached, "recv_pkt_burst: 98@0 is gone", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_ipc_detach_queue(p.queue);
        p.zc.pfring_zc_recv_pkt_burst(p.queue, p.handles.as_mut_ptr(), 16, 0);
    };
    buffers_are_not_released, "ipc_detach_buffer_pool 98@0: 17 buffers were not released", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_ipc_detach_queue(p.queue);
        p.zc.pfring_zc_ipc_detach_buffer_pool(p.pool);
    };
    a_queue_is_not_detached, "exit: 98@0 was not given back", |_| ();
    a_burst_is_too_large, "recv_pkt_burst 98@0: a burst of 17", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_recv_pkt_burst(p.queue, p.handles.as_mut_ptr(), 17, 0);
    };
    a_wait_without_end, "recv_pkt_burst 98@0: it waits", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_recv_pkt_burst(p.queue, p.handles.as_mut_ptr(), 16, 1);
    };
    a_pool_is_taken_for_a_queue, "recv_pkt_burst: 98@0 is something else", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_recv_pkt_burst(p.pool, p.handles.as_mut_ptr(), 16, 0);
    };
    a_pointer_of_nobody, "stats: a pointer that nobody was given", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_stats(p.handles[0].cast(), null_mut());
    };
    a_cluster_is_too_small, "open_device: the cluster has 1000 buffers", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_open_device(p.cluster, c"zc:tap0".as_ptr(), mode::rx_only, 0);
    };
    a_cluster_goes_while_buffers_are_held, "destroy_cluster 98: 17 buffers are still held", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_destroy_cluster(p.cluster);
    };
    a_queue_is_attached_to_send, "ipc_attach_queue 98 0: mode 1", |p| unsafe {
        // SAFETY: the fake checks.
        p.zc.pfring_zc_ipc_attach_queue(98, 0, mode::tx_only);
    };
}
