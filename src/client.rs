//! The listener: sockets around the [`Fetcher`], and the playing stage behind it.

mod link;
mod sockets;

pub use crate::fetch::FetchStats;

use crate::audio::Sink;
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::follow::{FollowStats, Follower, Manner, StreamParameters};
use crate::lookup::RetryPolicy;
use crate::pipeline::bell::Bell;
use crate::pipeline::play::{self, Board, Incoming, PlayStatus};
use crate::pipeline::{Stage, Supervision};
use crate::wire::Name;
use sockets::Sockets;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events waiting for the playing stage, which takes them at least once a second: as many segments as a
/// fast path brings of what was missed meanwhile.
const EVENTS_MAX: usize = 256;
/// Sound that was not heard for this long has stopped.
const STALLED_AFTER: Duration = Duration::from_millis(500);
/// How long a thread may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a listener needs.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The stream's domain.
    pub root: Name,
    /// Resolvers, or the server itself; the next one is taken when one fails.
    pub servers: Vec<SocketAddr>,
    /// When to ask again.
    pub policy: RetryPolicy,
    /// From capture to play; `None` takes the least that the path allows.
    pub latency: Option<Duration>,
    /// What the stream is made of, for servers without `config`.
    pub fallback: StreamParameters,
}

impl ClientConfig {
    /// The defaults for a stream and servers.
    pub fn new(root: Name, servers: Vec<SocketAddr>) -> ClientConfig {
        let fallback = StreamParameters::default();
        ClientConfig { root, servers, policy: RetryPolicy::default(), latency: None, fallback }
    }
}

/// What the listener is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Nothing was heard yet.
    Joining,
    /// Sound is heard.
    Playing,
    /// Sound has stopped, and is waited for.
    Stalled,
    /// There is sound, and the sink takes none.
    Blocked,
    /// Nothing answers.
    Unreachable,
    /// The stream has ended.
    Ended,
}

impl State {
    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Joining => "joining",
            State::Playing => "playing",
            State::Stalled => "stalled",
            State::Blocked => "blocked",
            State::Unreachable => "unreachable",
            State::Ended => "ended",
        }
    }
}

/// What a listener is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientStats {
    /// What it is doing.
    pub state: State,
    /// How the stream is followed.
    pub manner: Manner,
    /// Segments.
    pub follow: FollowStats,
    /// The network.
    pub fetch: FetchStats,
    /// Smoothed round-trip time to the server in use.
    pub rtt: Option<Duration>,
    /// The server in use.
    pub server: SocketAddr,
    /// The part of attempts to it that go unanswered, 0 to 1.
    pub loss: f64,
    /// Whether it is the stream's own server, without a resolver between.
    pub direct: bool,
    /// The sound.
    pub play: PlayStatus,
    /// Sound fetched and not yet played.
    pub level: Duration,
    /// Since the start.
    pub elapsed: Duration,
    /// From the start to the first sound.
    pub first_sound: Option<Duration>,
}

#[derive(Debug)]
struct Fetched {
    manner: Manner,
    direct: bool,
    out: bool,
    loss: f64,
    follow: FollowStats,
    fetch: FetchStats,
    rtt: Option<Duration>,
    server: usize,
    /// Packets of sound handed to the playing stage.
    handed: u64,
}

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub struct Client {
    supervision: Arc<Supervision>,
    stages: Vec<Stage>,
    /// Wakes the thread `fetch`.
    waker: Arc<Bell>,
    fetched: Arc<Mutex<Fetched>>,
    board: Arc<Board>,
    servers: Vec<SocketAddr>,
    started: Instant,
}

impl Client {
    /// Starts to listen to the stream of `config` and to play it to `sink`, on threads of its own.
    ///
    /// # Errors
    /// When there is no server, or the system gives no thread or socket.
    pub fn start(config: ClientConfig, sink: Box<dyn Sink>) -> Result<Client, Error> {
        if config.servers.is_empty() {
            return Err(Error::Settings("no server to ask".into()));
        }
        let mut random = Random::new();
        let seed = random.u64()?;
        let now = Instant::now();
        let supervision = Arc::new(Supervision::new()?);
        let board = Arc::new(Board::new()?);
        let waker = Arc::new(Bell::new()?);
        let fetched = Arc::new(Mutex::new(Fetched {
            manner: Manner::Joining,
            direct: false,
            out: false,
            loss: 0.0,
            follow: FollowStats::default(),
            fetch: FetchStats::default(),
            rtt: None,
            server: 0,
            handed: 0,
        }));
        let (events, incoming) = crossbeam_channel::bounded(EVENTS_MAX);
        let (open, end) = crossbeam_channel::bounded(0);
        let follower = Follower::new(config.fallback.clone(), config.latency, seed, now);
        if !Fetcher::is_root(&config.root) {
            return Err(Error::Settings(format!(
                "{} is too long for a stream's root",
                config.root
            )));
        }
        let cookies = config.servers.iter().map(|_| random.u64().map(u64::to_ne_bytes));
        let cookies = cookies.collect::<Result<Vec<_>, _>>()?;
        let latency = config.latency;
        let fetcher = Fetcher::new(config.root, config.policy, follower, cookies);
        let report = Arc::clone(&fetched);
        let sockets = Sockets::new(fetcher, &config.servers, random, (events, open), report);
        let (for_play, shown) = (Arc::clone(&supervision), Arc::clone(&board));
        let play = Stage::spawn("play", &supervision, move || {
            play::play(sink, Incoming { events: incoming, end }, &for_play, &shown, latency)
        })?;
        let (for_fetch, woken) = (Arc::clone(&supervision), Arc::clone(&waker));
        let run = move || sockets.run(&for_fetch, &woken);
        let fetch = match Stage::spawn("fetch", &supervision, run) {
            Ok(stage) => stage,
            Err(error) => {
                supervision.stop();
                play.join(PATIENCE);
                return Err(error);
            }
        };
        Ok(Client {
            supervision,
            stages: vec![fetch, play],
            waker,
            fetched,
            board,
            servers: config.servers,
            started: now,
        })
    }

    /// What the listener is doing.
    pub fn stats(&self) -> ClientStats {
        let play = self.board.status().clone();
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: Instant| at.elapsed() < STALLED_AFTER;
        let state = match () {
            () if play.ended => State::Ended,
            () if play.last_sound.is_some_and(recent) => State::Playing,
            () if self.board.is_writing() => State::Blocked,
            () if fetched.out => State::Unreachable,
            () if play.first_sound.is_none() => State::Joining,
            () => State::Stalled,
        };
        ClientStats {
            state,
            direct: fetched.direct,
            loss: fetched.loss,
            manner: fetched.manner,
            follow: fetched.follow,
            fetch: fetched.fetch,
            rtt: fetched.rtt,
            server: self.servers[fetched.server],
            first_sound: play.first_sound.map(|at| at.saturating_duration_since(self.started)),
            elapsed: self.started.elapsed(),
            level: play.level(Instant::now(), fetched.handed),
            play,
        }
    }

    /// Whether it ended by itself: the stream is over, the sink is closed, or something failed.
    pub fn is_finished(&self) -> bool {
        self.supervision.is_finished()
    }

    /// For a `poll` together with other things to wait for: readable once it is finished by itself.
    /// Nothing is to be read from it.
    pub fn finished_fd(&self) -> BorrowedFd<'_> {
        self.supervision.finished_fd()
    }

    /// For a `poll` together with other things to wait for: readable while [`Client::hear_news`] would
    /// return true. Nothing is to be read from it.
    pub fn news_fd(&self) -> BorrowedFd<'_> {
        self.board.news.fd()
    }

    /// Whether since the last call something happened that a line is worth: the stream was found or
    /// is another one, something stands in the way, or does no more. To be called by one thread;
    /// [`Client::stats`], called afterwards, tells what it is.
    pub fn hear_news(&self) -> bool {
        self.board.news.hear()
    }

    /// Stops, and returns the last state.
    ///
    /// # Errors
    /// The first error that ended a stage.
    pub fn stop(mut self) -> Result<ClientStats, Error> {
        self.end();
        match self.supervision.take_error() {
            Some(error) => Err(error),
            None => Ok(self.stats()),
        }
    }

    fn end(&mut self) {
        self.supervision.stop();
        self.waker.ring();
        self.stages.drain(..).for_each(|stage| stage.join(PATIENCE));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// Unpredictable numbers from the operating system, many at once: for each there is a message, and a system
/// call takes as long as a message does.
#[derive(Debug)]
struct Random {
    octets: [u8; 256],
    /// Those from here on were not given away yet.
    at: usize,
}

impl Random {
    fn new() -> Random {
        Random { octets: [0; 256], at: 256 }
    }

    fn u64(&mut self) -> Result<u64, Error> {
        if self.at == self.octets.len() {
            getrandom::fill(&mut self.octets).map_err(|cause| {
                Error::system("draw random numbers", std::io::Error::other(cause.to_string()))
            })?;
            self.at = 0;
        }
        let (number, _) =
            self.octets[self.at..].split_first_chunk_mut::<8>().expect("whole numbers");
        self.at += number.len();
        Ok(u64::from_ne_bytes(std::mem::take(number)))
    }
}
