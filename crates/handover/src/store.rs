//! Copies of descriptors in the service manager, for the process after this one.

use std::os::fd::{AsFd, OwnedFd};

use telemetry::process::{notify, notify_with};

/// Lets the service manager keep `descriptors` by name; it passes them to the next process of the
/// service (`FileDescriptorStoreMax=`). Without a manager, or one that keeps none, nothing happens.
pub fn store(descriptors: &[(String, OwnedFd)]) {
    for (name, descriptor) in descriptors {
        // What an earlier process stored under the name is replaced.
        notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
        notify_with(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor.as_fd()]);
    }
}
