//! What is worth a line, and how often.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// At most one line of a kind in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// By how much a count has grown is told once in this time.
const GROWTH_INTERVAL: Duration = Duration::from_secs(60);

/// How much is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing but what ends the program.
    Error,
    /// What should be looked at.
    Warn,
    /// The start, the end, and counters once a minute.
    #[default]
    Info,
    /// Counters every second.
    Debug,
}

impl Level {
    /// Every level, quietest first.
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// The text names no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLevel;

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown level; there are {}", Level::ALL.map(Level::name).join(", "))
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Level, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or(UnknownLevel)
    }
}

/// Lets one line of a kind pass in a second, and counts those that it held back.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Whether a line may be written now, and how many were not since the last one.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Tells now and then by how much a count has grown.
#[derive(Debug, Default)]
pub struct Growth {
    told: u64,
    last: Option<Instant>,
}

impl Growth {
    /// By how much `count` has grown since that was told last, if it is to be told now.
    pub fn pass(&mut self, now: Instant, count: u64) -> Option<u64> {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if count <= self.told || since.is_some_and(|since| since < GROWTH_INTERVAL) {
            return None;
        }
        let grown = count - self.told;
        (self.told, self.last) = (count, Some(now));
        Some(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(throttle.pass(at(0)), Some(0));
        assert_eq!(throttle.pass(at(1)), None);
        assert_eq!(throttle.pass(at(999)), None);
        assert_eq!(throttle.pass(at(1000)), Some(2));
        assert_eq!(throttle.pass(at(1500)), None);
        assert_eq!(throttle.pass(at(9000)), Some(1));
    }

    #[test]
    fn what_grows_is_told_once_a_minute() {
        let start = Instant::now();
        let mut growth = Growth::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(growth.pass(at(0), 0), None);
        assert_eq!(growth.pass(at(1), 3), Some(3));
        assert_eq!(growth.pass(at(2), 5), None);
        assert_eq!(growth.pass(at(61), 9), Some(6));
        assert_eq!(growth.pass(at(200), 9), None);
    }

    #[test]
    fn levels_are_read_by_name() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert_eq!("loud".parse::<Level>(), Err(UnknownLevel));
        assert!(Level::Error < Level::Debug);
    }
}
