//! The system's limit of open descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a server needs beside its connections: sockets, the sound, files.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Allows the process as many descriptors as its connections take, if the system lets it; a warning
/// if it does not.
pub fn raise(connections: usize) -> Option<String> {
    let needed = connections as u64 + DESCRIPTORS_BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= needed {
        return None;
    }
    let most = needed.min(hard);
    let raised = setrlimit(Resource::RLIMIT_NOFILE, most, hard).is_ok();
    let now = if raised { most } else { soft };
    (now < needed).then(|| {
        format!(
            "warning: {connections} connections need {needed} descriptors, and {now} are allowed; raise \
             the limit (ulimit -n, LimitNOFILE) or lower --tcp-connections"
        )
    })
}
