//! A successor gets what it asks for, and talks on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use handover::{Host, socket_path, take_over};

#[test]
fn a_listening_socket_changes_hands_with_what_waits_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path(), "application", 0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kept: OwnedFd = listener.try_clone().unwrap().into();
    let many = (0..40).map(|n| (format!("tun{n}"), kept.try_clone().unwrap()));
    let descriptors =
        many.chain([("tcp".to_owned(), kept.try_clone().unwrap())]).collect::<Vec<_>>();
    let host = Host::bind(&path, descriptors).unwrap();
    let old = std::thread::spawn(move || {
        let (channel, pid) = host.wait().unwrap();
        assert_eq!(pid, std::process::id());
        assert_eq!(channel.receive().unwrap().0, b"ready");
        channel.send(b"stopped", &[]).unwrap();
    });
    // A connection that nobody accepts before the old process is gone.
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();

    let (mut inherited, channel) = take_over("application", &path).unwrap();
    assert!(inherited.take("tun39").is_some() && inherited.take("tun40").is_none());
    let taken: TcpListener = inherited.take("tcp").unwrap().into();
    channel.send(b"ready", &[]).unwrap();
    assert_eq!(channel.receive().unwrap().0, b"stopped");
    old.join().unwrap();
    drop((listener, kept));
    let (mut accepted, _) = taken.accept().unwrap();
    let mut text = [0; 5];
    accepted.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn without_a_predecessor_it_is_said_what_to_do() {
    let error = take_over("detector", "/nonexistent/detector.handover.sock".as_ref()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("--take-over: no running detector answers at /nonexistent/"),
        "{text}"
    );
}
