//! How a detector comes to the table.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::Table;
use crate::consumer::connect_as;
use crate::error::AttachError;
use crate::handshake::{ANY_SET, Answer, Hello, Role};

/// Time that the balancer may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A balancer, as far as the fast path goes.
#[derive(Debug)]
pub struct FastPath {
    socket: OwnedFd,
    table: Option<Arc<Table>>,
    namespace: u64,
}

impl FastPath {
    /// Asks the balancer of `cluster` in the folder `dir`.
    ///
    /// # Errors
    /// When there is no balancer, or one that does not know the fast path.
    pub fn ask(dir: &Path, cluster: u32) -> Result<Self, AttachError> {
        let path = crate::socket_path(dir, cluster);
        let hello = Hello::new(Role::FastPath, ANY_SET, 0);
        let (socket, answer, files) = connect_as(&path, hello, PATIENCE)?;
        let Answer::FastPath { namespace, flows } = answer else {
            return Err(AttachError::Protocol("a welcome for another role"));
        };
        if flows != super::BUCKETS * super::SLOTS {
            return Err(AttachError::Protocol("a fast path of another size"));
        }
        let table = files.into_iter().next().map(Table::map).transpose();
        let table = table.map_err(|_| AttachError::Protocol("a fast path that is no table"))?;
        Ok(Self { socket, table: table.map(Arc::new), namespace })
    }

    /// The table; `None` when the balancer has no fast path.
    pub const fn table(&self) -> Option<&Arc<Table>> {
        self.table.as_ref()
    }

    /// Whether flows pass into the network namespace of this process, where the packets that it forwards go.
    pub fn is_here(&self) -> bool {
        self.namespace == super::namespace()
    }

    /// Waits at most `timeout` for the end of the balancer; whether it came.
    pub fn has_ended(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(timeout).ok();
        rustix::event::poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fast_path::{Entered, FlowKey};
    use crate::map::memory_file;
    use crate::server::{Server, ServerOptions};
    use std::num::NonZeroU64;
    use std::os::fd::AsFd;

    fn serve<T: Send>(server: &mut Server, ask: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let asking = scope.spawn(ask);
            while !asking.is_finished() {
                server.poll(Duration::from_millis(1), &mut |_| String::new());
            }
            asking.join().unwrap()
        })
    }

    #[test]
    fn a_detector_gets_the_table_and_knows_when_the_balancer_ends() {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions::new(dir.path().to_owned(), 7, vec![1]);
        let (mut server, _producers) = Server::bind(options, [1; 16]).unwrap();
        let ask = || FastPath::ask(dir.path(), 7);
        let without = serve(&mut server, ask).unwrap();
        assert!(without.table().is_none() && without.is_here());
        let file = memory_file("table", Table::LEN).unwrap();
        let own = Table::map(&file).unwrap();
        server.offer_fast_path(file.as_fd().try_clone_to_owned().unwrap());
        let with = serve(&mut server, ask).unwrap();
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = 17;
        let (key, owner) = (FlowKey::of(&frame).unwrap(), NonZeroU64::MIN);
        let Entered::Fresh(slot) = with.table().unwrap().enter(&key, owner, 5) else {
            panic!("no entry");
        };
        assert_eq!(own.times(slot, owner).map(|(seen, _)| seen), Some(5), "the same memory");
        drop(without);
        server.poll(Duration::ZERO, &mut |_| String::new());
        assert!(!with.has_ended(Duration::ZERO));
        drop(server);
        assert!(with.has_ended(Duration::from_secs(5)));
    }
}
