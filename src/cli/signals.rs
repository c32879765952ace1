//! SIGINT and SIGTERM as a wish to stop in order.

use super::failure::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody wants the program to stop.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicBool>);

impl Signals {
    /// From now on the first signal is a wish; a second one, should the first not be heeded, ends
    /// the program on the spot.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> Result<Signals, Failure> {
        let wanted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first one looks at the flag before the second one sets it.
            flag::register_conditional_default(signal, Arc::clone(&wanted))
                .and_then(|_| flag::register(signal, Arc::clone(&wanted)))
                .map_err(|cause| Failure::Runtime(format!("cannot handle signals: {cause}")))?;
        }
        Ok(Signals(wanted))
    }

    /// Whether a signal came.
    pub fn stop_wanted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
