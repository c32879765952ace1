//! Everything the listener does on the network but for the sockets: questions of the [`Follower`]
//! become lookups at one of several servers, answers come back to it.
//!
//! One question is a *task*. It is asked of the server in use; where there are several, a second
//! one is asked as well when the first is slower than it used to be (a hedge, at most one query in
//! ten, C10), when the first attempt went unanswered, or when the first server failed or denied.
//! A server that fails is left and tried again later. Over TCP there is one connection to a server,
//! pipelined; an attempt that goes unanswered is repeated over another one, as everything on the
//! first may be waiting for one lost packet.
//!
//! No socket, clock or randomness: the caller sends what [`Fetcher::poll_transmit`] says, hands in
//! what arrives, calls [`Fetcher::handle_timeout`] at [`Fetcher::poll_timeout`], and drains
//! [`Fetcher::poll_event`].

mod links;
mod sounding;

use crate::follow::{Ask, Event, Follower, Outcome, Path, Use};
use crate::lookup::{Lookup, Progress, RetryPolicy, Transport};
use crate::units::Sequence;
use crate::upstream::{JOINED_AFTER, Upstream, Verdict};
use crate::wire::{Answer, Name, ParseError, Rcode};
pub use links::LINKS_MAX;
use links::{LinkUse, STUCK_AFTER, Waiting};
use sounding::Soundings;
use std::time::{Duration, Instant};

/// Questions at the same time; the follower keeps to fewer.
const TASKS_MAX: usize = 32;
/// A question is asked anew this often when the server did not like how it was asked: with its cookie,
/// and without EDNS. A server that never likes it has failed.
const ANEW_MAX: u32 = 2;
/// Messages a second, and how many may be saved up. On the worst path that can be listened through it takes
/// a tenth of that; but whatever a server says, and whatever is wrong here, nobody is to be flooded.
const BUDGET_PER_SECOND: f64 = 100.0;
/// See [`BUDGET_PER_SECOND`].
const BUDGET_MAX: f64 = 600.0;
/// Queries beyond the first, for each query: what hedging may cost (C10).
const HEDGE_PART: f64 = 0.1;
/// Hedges that may be saved up.
const HEDGES_MAX: f64 = 3.0;
/// Hedges that may be owed.
const HEDGES_OWED: f64 = 2.0;
/// Times in a row that a server may deny what another has.
const STRIKES_MAX: u32 = 3;
/// Times in a row that a second server may be faster.
const OVERTAKEN_MAX: u32 = 2;
/// While nothing at all answers, attempts start this far apart.
const OUTAGE_INTERVAL: Duration = Duration::from_millis(800);

/// What the network side counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchStats {
    /// Messages sent, over UDP and TCP.
    pub queries: u64,
    /// Octets of DNS messages sent.
    pub octets_out: u64,
    /// Octets of DNS messages received.
    pub octets_in: u64,
    /// Times that a message was due and had to wait, as too many had been sent.
    pub withheld: u64,
    /// Messages that were no answer to anything asked: the sum of the next four.
    pub ignored: u64,
    /// Those with another id or question than any attempt had.
    pub foreign: u64,
    /// Those that cannot be read.
    pub malformed: u64,
    /// Those with an endless chain of CNAMEs.
    pub cname_chains: u64,
    /// Those that came after their lookup had ended.
    pub stale: u64,
    /// Messages that answered what was asked, truncated ones included.
    pub answers: u64,
    /// Truncated answers.
    pub truncated: u64,
    /// Messages that came over connections.
    pub streamed: u64,
    /// Connections opened.
    pub connections: u64,
    /// Handshakes of theirs that were begun anew because nothing was heard of them.
    pub renewed_handshakes: u64,
    /// Operations on sockets that failed, but for the next ones.
    pub socket_errors: u64,
    /// Datagrams that came back because no program has the port that they were sent to.
    pub refused: u64,
    /// Events that the playing stage did not take in time.
    pub overflow: u64,
    /// Attempts after the first of a lookup.
    pub retries: u64,
    /// Queries to a second server because the first was slower than usual.
    pub hedged: u64,
    /// Answers that denied what was asked for.
    pub negatives: u64,
    /// Answers that were errors of the server.
    pub failures: u64,
    /// Lookups without any answer.
    pub silences: u64,
    /// Changes of the server in use.
    pub switches: u64,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To which server.
    pub server: usize,
    /// Which way.
    pub route: Route,
    /// The message, behind two octets with its length, as TCP wants it.
    pub framed: Vec<u8>,
}

impl Transmit {
    /// The message as it goes into a datagram.
    pub fn message(&self) -> &[u8] {
        &self.framed[2..]
    }
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A datagram from a socket of its own, which belongs to this lookup.
    Datagram {
        /// To be named when something arrives there.
        lookup: u64,
    },
    /// The server's connection of this number, below [`LINKS_MAX`]; it is opened if it is not open.
    Stream {
        /// The number.
        link: usize,
        /// Whether it is to be closed first, as nothing comes of it any more.
        anew: bool,
    },
}

/// A server and what the fetcher knows of the connections to it.
#[derive(Debug)]
struct Server {
    upstream: Upstream,
    links: Vec<LinkUse>,
    /// Times in a row that it denied what another server has.
    contradicted: u32,
    /// Until when it is taken to be short of connections.
    short_until: Option<Instant>,
    /// When it gave `config` first: who asks for it from then on need not wait for another server.
    has_config: Option<Instant>,
}

/// A lookup at one server.
#[derive(Debug)]
struct Asked {
    key: u64,
    server: usize,
    lookup: Lookup,
    /// Connections that attempts of it went over.
    links: Vec<usize>,
    hedge: bool,
    /// Attempts over the transport in use that count as lost until it is known better.
    unsure: usize,
    /// How often it was asked anew, in another manner.
    anew: u32,
}

/// A question and the lookups for it.
#[derive(Debug)]
struct Task {
    ask: Ask,
    name: Name,
    asked: Vec<Asked>,
    /// Servers that were asked.
    tried: Vec<usize>,
    /// What a server said that cannot be the last word while another may know better.
    poor: Option<(Answer, Instant)>,
    /// Servers that denied what was asked for.
    denied: Vec<usize>,
    /// Whether it was considered already to hedge.
    considered: bool,
    /// When the live edge is asked for under a new name.
    again: Option<Instant>,
}

/// Asks servers what the follower wants to know.
#[derive(Debug)]
pub struct Fetcher {
    root: Name,
    policy: RetryPolicy,
    follower: Follower,
    servers: Vec<Server>,
    current: usize,
    /// Times in a row that another server was faster than the current one.
    overtaken: u32,
    tasks: Vec<Task>,
    soundings: Soundings,
    next_key: u64,
    /// Messages that may be sent, and when that was reckoned.
    budget: (f64, Option<Instant>),
    /// Hedges that may be sent.
    hedges: f64,
    stats: FetchStats,
}

impl Fetcher {
    /// A fetcher for the stream at `root`, with as many servers as there are client cookies, each of
    /// which is random. The first server is asked first.
    ///
    /// # Panics
    /// When there is no server.
    pub fn new(
        root: Name,
        policy: RetryPolicy,
        follower: Follower,
        cookies: Vec<[u8; 8]>,
    ) -> Fetcher {
        assert!(!cookies.is_empty());
        let server = |cookie| Server {
            upstream: Upstream::new(cookie),
            links: (0..LINKS_MAX).map(|_| LinkUse::default()).collect(),
            contradicted: 0,
            short_until: None,
            has_config: None,
        };
        Fetcher {
            root,
            policy,
            follower,
            servers: cookies.into_iter().map(server).collect(),
            current: 0,
            overtaken: 0,
            tasks: Vec::new(),
            soundings: Soundings::new(),
            next_key: 0,
            budget: (BUDGET_MAX, None),
            hedges: 1.0,
            stats: FetchStats::default(),
        }
    }

    /// The follower.
    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    /// What was counted.
    pub fn stats(&self) -> FetchStats {
        self.stats
    }

    /// What was counted, for the caller to add what it alone sees.
    pub fn stats_mut(&mut self) -> &mut FetchStats {
        &mut self.stats
    }

    /// The server in use.
    pub fn current(&self) -> usize {
        self.current
    }

    /// What is remembered of a server.
    pub fn upstream(&self, server: usize) -> &Upstream {
        &self.servers[server].upstream
    }

    /// Whether an answer to this lookup is still waited for.
    pub fn is_waiting(&self, lookup: u64) -> bool {
        self.soundings.contains(lookup)
            || self.tasks.iter().flat_map(|task| &task.asked).any(|asked| asked.key == lookup)
    }

    /// The next thing to tell the playing stage.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.follower.poll_event()
    }

    /// When to call [`Fetcher::handle_timeout`] and [`Fetcher::poll_transmit`] again, if nothing
    /// happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lookups = self.tasks.iter().flat_map(|task| &task.asked);
        let lookups = lookups.map(|asked| asked.lookup.poll_timeout());
        let hedges = self.tasks.iter().filter_map(|task| self.hedge_due(task));
        let again = self.tasks.iter().filter_map(|task| task.again);
        let room = self.tasks.len() < TASKS_MAX;
        let follower = if room { self.follower.poll_timeout() } else { None };
        let due = lookups.chain(hedges).chain(again).chain(follower).chain(self.sounding_timeout());
        match self.budget {
            (left, Some(at)) if left < 1.0 => {
                let more = at + Duration::from_secs_f64((1.0 - left) / BUDGET_PER_SECOND);
                due.min().map(|due| due.max(more))
            }
            _ => due.min(),
        }
    }

    /// The next message to be sent now; to be called until there is none. `random` is unpredictable:
    /// message ids and nonces are made of it.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<Transmit> {
        let passed = self.budget.1.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let more = passed.as_secs_f64() * BUDGET_PER_SECOND;
        self.budget = ((self.budget.0 + more).min(BUDGET_MAX), Some(now));
        if self.budget.0 < 1.0 {
            self.stats.withheld += 1;
            return None;
        }
        loop {
            let transmit = self.next_transmit(now, random);
            self.budget.0 -= f64::from(u8::from(transmit.is_some()));
            // A connection that is given up ends lookups that had no other way left.
            if transmit.is_some() || !self.end_failed(now) {
                return transmit;
            }
        }
    }

    fn next_transmit(&mut self, now: Instant, random: &mut dyn FnMut() -> u64) -> Option<Transmit> {
        while self.tasks.len() < TASKS_MAX {
            let Some(ask) = self.follower.poll_ask(now) else { break };
            self.begin(now, ask, random());
        }
        for task in 0..self.tasks.len() {
            self.consider_second(now, task);
            self.consider_joining(now, task);
            if self.tasks[task].again.is_some_and(|at| at <= now) {
                self.ask_again(now, task, random());
            }
            for asked in 0..self.tasks[task].asked.len() {
                if let Some(transmit) = self.transmit(now, task, asked, random) {
                    return Some(transmit);
                }
            }
        }
        self.transmit_sounding(now, random)
    }

    /// Hears that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.end_failed(now);
        self.handle_sounding_timeout(now);
        // What was lost since the last answer counts as well.
        self.follower.handle_path(self.path(self.current));
    }

    /// Hears that the listener stood still until now; see [`Follower::handle_sleep`].
    pub fn handle_sleep(&mut self, now: Instant) {
        self.follower.handle_sleep(now);
    }

    /// Ends the lookups whose every attempt went unanswered; whether there were any.
    fn end_failed(&mut self, now: Instant) -> bool {
        let lookups = self.tasks.iter_mut().flat_map(|task| &mut task.asked);
        let failed = lookups.filter_map(|asked| {
            (asked.lookup.handle_timeout(now) == Progress::Failed).then_some(asked.key)
        });
        let failed = failed.collect::<Vec<_>>();
        for &lookup in &failed {
            if let Some((task, asked)) = self.find(lookup) {
                self.handle_silence(now, task, asked);
            }
        }
        !failed.is_empty()
    }

    /// Takes a datagram that arrived at a socket of `lookup`.
    pub fn handle_datagram(&mut self, now: Instant, lookup: u64, message: &[u8]) {
        self.stats.octets_in += message.len() as u64;
        if self.handle_sounding(now, lookup, message) {
            return;
        }
        let Some((task, asked)) = self.find(lookup) else {
            self.stats.stale += 1;
            self.stats.ignored += 1;
            return;
        };
        self.handle_message(now, task, asked, message, Transport::Udp);
    }

    /// Takes a message that arrived on a connection.
    pub fn handle_stream(&mut self, now: Instant, server: usize, link: usize, message: &[u8]) {
        self.stats.octets_in += message.len() as u64;
        self.stats.streamed += 1;
        let id = message.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        self.servers[server].upstream.handle_connection();
        let link = &mut self.servers[server].links[link];
        link.used = Some(now);
        let waiting = link.waiting.iter().position(|waiting| waiting.id == id);
        let waiting = waiting.map(|at| link.waiting.remove(at));
        let Some((task, asked)) = waiting.and_then(|waiting| self.find(waiting.lookup)) else {
            // Late answers are no surprise here: the other attempts of a lookup are answered too.
            self.stats.stale += 1;
            self.stats.ignored += 1;
            return;
        };
        self.handle_message(now, task, asked, message, Transport::Tcp);
    }

    fn find(&self, lookup: u64) -> Option<(usize, usize)> {
        self.tasks.iter().enumerate().find_map(|(index, task)| {
            let asked = task.asked.iter().position(|asked| asked.key == lookup)?;
            Some((index, asked))
        })
    }

    // ---- asking -------------------------------------------------------------------------------

    fn begin(&mut self, now: Instant, ask: Ask, random: u64) {
        let label = match ask {
            Ask::Config => "config".to_string(),
            Ask::List => "sequence".to_string(),
            Ask::Now => format!("now_{}", nonce(random)),
            Ask::Segment(sequence) => format!("seq_{sequence}"),
        };
        let name = self.root.child(label.as_bytes()).expect("checked by is_root");
        let task = Task {
            ask,
            name,
            asked: Vec::new(),
            tried: Vec::new(),
            poor: None,
            denied: Vec::new(),
            considered: false,
            again: None,
        };
        self.tasks.push(task);
        self.choose(now);
        self.ask_server(now, self.tasks.len() - 1, self.current, false);
    }

    /// Lets a second lookup join the one for a segment that is close to being late: from another
    /// port, its attempts between those of the first.
    fn consider_joining(&mut self, now: Instant, task: usize) {
        let this = &self.tasks[task];
        let [first] = &this.asked[..] else { return };
        let (server, lookup) = (first.server, &first.lookup);
        let late = lookup.transport() == Transport::Udp
            && lookup.tried() == JOINED_AFTER
            && lookup.poll_timeout() <= now;
        let upstream = &self.servers[server].upstream;
        if !late || !matches!(this.ask, Ask::Segment(_)) || !upstream.is_lossy() {
            return;
        }
        let mut paces = upstream.paces(&self.policy, true);
        for pace in &mut paces {
            pace.first = pace.then;
        }
        let query = upstream.query(this.name.clone(), now);
        let mut lookup = Lookup::new(query, Transport::Udp, self.policy, paces, now);
        lookup.postpone(now + paces[0].then / 2);
        let key = self.next_key;
        self.next_key += 1;
        let joining =
            Asked { key, server, lookup, links: Vec::new(), hedge: false, unsure: 0, anew: 0 };
        self.tasks[task].asked.push(joining);
    }

    /// Asks for the live edge under a new name, when it was not told in time: there are caches that
    /// keep what has a TTL of 0, and would tell the age as it was when the answer was lost.
    fn ask_again(&mut self, now: Instant, task: usize, random: u64) {
        let this = &mut self.tasks[task];
        if this.again.take().is_none() || this.tried.len() > self.policy.retries as usize {
            return;
        }
        let label = format!("now_{}", nonce(random));
        this.name = self.root.child(label.as_bytes()).expect("checked by is_root");
        let last = this.tried.last().copied();
        let others = self.other_server(now, &Vec::from_iter(last));
        self.ask_server(now, task, others.unwrap_or(self.current), false);
    }

    /// Whether a stream can have this root: there is room for the longest name below it.
    pub fn is_root(root: &Name) -> bool {
        root.child(format!("seq_{}", Sequence::MAX).as_bytes()).is_some()
    }

    fn ask_server(&mut self, now: Instant, task: usize, server: usize, hedge: bool) {
        let upstream = &self.servers[server].upstream;
        let task = &mut self.tasks[task];
        let segment = matches!(task.ask, Ask::Segment(_));
        let transport = if segment { upstream.transport() } else { Transport::Udp };
        let query = upstream.query(task.name.clone(), now);
        let mut paces = upstream.paces(&self.policy, segment);
        if self.follower.is_out() {
            paces
                .iter_mut()
                .for_each(|pace| (pace.first, pace.then) = (OUTAGE_INTERVAL, OUTAGE_INTERVAL));
        }
        let mut policy = self.policy;
        if task.ask == Ask::Now {
            task.again = Some(now + paces[0].first);
            policy.retries = 0;
            // An attempt has its time however few are made.
            paces[0].last = paces[0].last.max(self.policy.interval * self.policy.retries);
        }
        let lookup = Lookup::new(query, transport, policy, paces, now);
        task.asked.push(Asked {
            key: self.next_key,
            server,
            lookup,
            links: Vec::new(),
            hedge,
            unsure: 0,
            anew: 0,
        });
        task.tried.push(server);
        self.next_key += 1;
    }

    /// Leaves a server that is down for the best that is not.
    fn choose(&mut self, now: Instant) {
        if self.servers[self.current].upstream.is_up(now) {
            return;
        }
        // When all have failed, whichever is back first is found by asking them in turn.
        let next = (self.current + 1) % self.servers.len();
        self.switch(self.other_server(now, &[self.current]).unwrap_or(next));
    }

    fn switch(&mut self, server: usize) {
        self.stats.switches += u64::from(server != self.current);
        self.current = server;
        self.overtaken = 0;
    }

    /// The best server that is up and not in `except`: the fastest one; those not known yet count as
    /// fast, so that they become known.
    fn other_server(&self, now: Instant, except: &[usize]) -> Option<usize> {
        let others = (0..self.servers.len()).filter(|server| !except.contains(server));
        let up = others.filter(|&server| self.servers[server].upstream.is_up(now));
        up.min_by_key(|&server| self.servers[server].upstream.rtt())
    }

    /// When a task deserves a second server because the first is slower than usual.
    fn hedge_due(&self, task: &Task) -> Option<Instant> {
        let [first] = &task.asked[..] else { return None };
        let segment = matches!(task.ask, Ask::Segment(_));
        let alone = self.servers.len() < 2 || task.tried.len() > 1 || task.considered;
        // Where another server was faster the last time, it may be needed now: that is owed.
        let least = if self.overtaken > 0 { 1.0 - HEDGES_OWED } else { 1.0 };
        if alone || !segment || self.hedges < least {
            return None;
        }
        let after = self.servers[first.server].upstream.hedge_after(first.lookup.transport())?;
        first.lookup.began().map(|began| began + after)
    }

    /// Asks a second server, if the first one is slow or did not answer the first attempt.
    fn consider_second(&mut self, now: Instant, task: usize) {
        let hedge = self.hedge_due(&self.tasks[task]).is_some_and(|due| due <= now);
        self.tasks[task].considered |= hedge;
        let this = &self.tasks[task];
        let [first] = &this.asked[..] else { return };
        let unanswered = first.lookup.tried() > 0 && first.lookup.poll_timeout() <= now;
        if !(hedge || unanswered) || this.tried.len() >= self.servers.len() {
            return;
        }
        let Some(other) = self.other_server(now, &this.tried) else { return };
        if unanswered {
            // Instead of the second attempt.
            let wait = self.policy.interval;
            self.tasks[task].asked[0].lookup.postpone(now + wait);
        }
        self.ask_server(now, task, other, hedge && !unanswered);
    }

    fn transmit(
        &mut self,
        now: Instant,
        task: usize,
        asked_index: usize,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<Transmit> {
        let [most, _] = self.links(now, self.tasks[task].asked[asked_index].server);
        let asked = &mut self.tasks[task].asked[asked_index];
        if asked.lookup.poll_timeout() > now {
            return None;
        }
        let index = asked.server;
        let mut chosen = (0, false);
        if asked.lookup.transport() == Transport::Tcp && asked.lookup.has_next() {
            let server = &self.servers[index];
            match server.choose_link(now, &asked.links, most) {
                Some(link) => chosen = (link, server.links[link].is_stuck(now)),
                None => {
                    // Everything was tried: what is under way may come, until it is too late.
                    let links = server.links[..most].iter();
                    let stuck = links.filter_map(LinkUse::stuck_at).min();
                    asked.lookup.postpone(stuck.unwrap_or(now + STUCK_AFTER));
                    return None;
                }
            }
        }
        let (link, anew) = chosen;
        if anew {
            self.leave_link(now, index, link);
        }
        let segment = matches!(self.tasks[task].ask, Ask::Segment(_));
        let asked = &mut self.tasks[task].asked[asked_index];
        let server = &mut self.servers[index];
        let id = message_id(random);
        let (transport, framed) = attempt(&mut asked.lookup, now, id, &mut self.stats)?;
        if asked.lookup.tried() > 1 {
            self.stats.retries += 1;
            let late = asked.lookup.overdue(now).max(asked.unsure);
            server.upstream.handle_attempts(now, late - asked.unsure, 0);
            asked.unsure = late;
            // What is late need not be lost: whether other datagrams are shows which it is.
            let near = index == self.current && server.upstream.is_near();
            if segment && near && !self.follower.is_out() {
                self.soundings.ask_one();
            }
        }
        if asked.hedge {
            self.stats.hedged += 1;
            self.hedges -= 1.0;
        } else {
            self.hedges = (self.hedges + HEDGE_PART).min(HEDGES_MAX);
        }
        let route = match transport {
            Transport::Udp => Route::Datagram { lookup: asked.key },
            Transport::Tcp => {
                asked.links.push(link);
                server.links[link].used = Some(now);
                server.links[link].waiting.push(Waiting { lookup: asked.key, id, sent: now });
                Route::Stream { link, anew }
            }
        };
        Some(Transmit { server: asked.server, route, framed })
    }

    // ---- hearing ------------------------------------------------------------------------------

    fn handle_message(
        &mut self,
        now: Instant,
        task: usize,
        asked: usize,
        message: &[u8],
        via: Transport,
    ) {
        let segment = matches!(self.tasks[task].ask, Ask::Segment(_));
        let this = &mut self.tasks[task].asked[asked];
        let upstream = &mut self.servers[this.server].upstream;
        match this.lookup.handle_message(now, message, via) {
            Progress::Answered { answer, sent } => {
                self.stats.answers += 1;
                if segment && via == Transport::Udp {
                    upstream.handle_truncation(false);
                }
                // Only those before the one that was answered are lost for certain.
                let server = this.server;
                let first = server == self.current && upstream.rtt().is_none();
                if first && self.soundings.handle_first_answer(sent) {
                    upstream.handle_restart();
                    self.excuse(now, server);
                }
                let upstream = &mut self.servers[server].upstream;
                for other in self.tasks[task].asked.iter_mut().filter(|a| a.server == server) {
                    let lost = other.lookup.overtaken(sent);
                    upstream.handle_attempts(now, lost.saturating_sub(other.unsure), 0);
                    upstream.handle_doubt(other.unsure.saturating_sub(lost));
                    other.unsure = lost;
                }
                if self.servers[server].upstream.handle_attempts(now, 0, 1) {
                    self.excuse(now, server);
                }
                self.handle_answer(now, task, asked, answer, sent, via);
            }
            Progress::Truncated => {
                self.stats.answers += 1;
                self.stats.truncated += 1;
                this.unsure = 0;
                let server = this.server;
                let over = upstream.handle_attempts(now, 0, 1);
                if segment {
                    upstream.handle_truncation(true);
                }
                if over {
                    self.excuse(now, server);
                }
            }
            Progress::Ignored(error) => self.count_ignored(error),
            Progress::Pending | Progress::Failed => {}
        }
    }

    /// A server answers again: what was asked before went to nobody, whatever comes of it.
    fn excuse(&mut self, now: Instant, server: usize) {
        self.follower.handle_interruption();
        let asked = self.tasks.iter_mut().flat_map(|task| &mut task.asked);
        for asked in asked.filter(|asked| asked.server == server) {
            asked.lookup.excuse(now);
            asked.unsure = 0;
        }
    }

    fn count_ignored(&mut self, error: ParseError) {
        self.stats.ignored += 1;
        match error {
            ParseError::Foreign => self.stats.foreign += 1,
            ParseError::CnameChain => self.stats.cname_chains += 1,
            _ => self.stats.malformed += 1,
        }
    }

    fn handle_answer(
        &mut self,
        now: Instant,
        task: usize,
        asked: usize,
        answer: Answer,
        sent: Instant,
        via: Transport,
    ) {
        let name = self.tasks[task].name.clone();
        let segment = matches!(self.tasks[task].ask, Ask::Segment(_));
        let this = &mut self.tasks[task].asked[asked];
        let server = this.server;
        let upstream = &mut self.servers[server].upstream;
        let verdict = upstream.handle_answer(now, this.lookup.query(), &answer);
        if verdict == Verdict::AskAgain && this.anew < ANEW_MAX {
            this.anew += 1;
            let query = upstream.query(name, now);
            let paces = upstream.paces(&self.policy, false);
            this.key = self.next_key;
            self.next_key += 1;
            this.lookup = Lookup::new(query, via, self.policy, paces, now);
            this.unsure = 0;
            return;
        }
        let time = now.saturating_duration_since(sent);
        if self.tasks[task].ask == Ask::Config && !answer.texts.is_empty() {
            self.servers[server].has_config.get_or_insert(now);
        }
        let upstream = &mut self.servers[server].upstream;
        if segment {
            upstream.handle_response(via, time);
        } else if via == Transport::Udp {
            upstream.handle_round_trip(time);
        }
        if !matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
            self.stats.failures += 1;
            upstream.handle_failure(now);
            self.tasks[task].poor.get_or_insert((answer, sent));
            self.end_lookup(now, task, asked);
        } else if answer.texts.is_empty() {
            self.stats.negatives += 1;
            let task_now = &mut self.tasks[task];
            task_now.denied.push(server);
            // A denial says more than an error, and the longest one holds for all.
            let longer = |poor: &(Answer, Instant)| poor.0.negative_ttl > answer.negative_ttl;
            if !task_now.poor.as_ref().is_some_and(longer) {
                task_now.poor = Some((answer, sent));
            }
            self.end_lookup(now, task, asked);
        } else {
            self.handle_success(now, task, server);
            self.finish(now, task, server, Outcome::Answered { answer, sent });
        }
    }

    /// A server had what was asked for: that tells something about the others.
    fn handle_success(&mut self, now: Instant, task: usize, server: usize) {
        self.servers[server].upstream.handle_success();
        self.servers[server].contradicted = 0;
        for &denier in &self.tasks[task].denied {
            self.servers[denier].contradicted += 1;
            if self.servers[denier].contradicted >= STRIKES_MAX {
                self.servers[denier].upstream.handle_failure(now);
            }
        }
        for asked in &self.tasks[task].asked {
            if asked.server != server && asked.lookup.tried() >= 3 {
                self.servers[asked.server].upstream.handle_failure(now);
            }
        }
        if server == self.current {
            self.overtaken = 0;
        } else if self.tasks[task].tried.contains(&self.current) {
            self.overtaken += 1;
            if self.overtaken >= OVERTAKEN_MAX {
                self.switch(server);
            }
        }
    }

    fn handle_silence(&mut self, now: Instant, task: usize, asked: usize) {
        let this = &self.tasks[task].asked[asked];
        let upstream = &mut self.servers[this.server].upstream;
        self.stats.silences += 1;
        // Where everything is lost, nothing is learned about how much usually is.
        upstream.handle_doubt(this.unsure);
        upstream.forget_soundings();
        upstream.handle_failure(now);
        self.end_lookup(now, task, asked);
    }

    /// One lookup of a task came to nothing. Another server may know better; else the task is over.
    fn end_lookup(&mut self, now: Instant, task: usize, asked: usize) {
        let gone = self.tasks[task].asked.swap_remove(asked);
        if !self.tasks[task].asked.is_empty() {
            return;
        }
        if let Some(other) = self.other_server(now, &self.tasks[task].tried) {
            self.ask_server(now, task, other, false);
            return;
        }
        let outcome = match self.tasks[task].poor.take() {
            Some((answer, sent)) => Outcome::Answered { answer, sent },
            None => Outcome::Silence,
        };
        self.finish(now, task, gone.server, outcome);
    }

    fn finish(&mut self, now: Instant, task: usize, server: usize, outcome: Outcome) {
        let done = self.tasks.swap_remove(task);
        self.follower.handle_path(self.path(server));
        if done.ask == Ask::Config && is_denied(&outcome) {
            // A server of the base layer has nothing to be asked again for.
            self.soundings.leave_out();
        }
        let near = server == self.current && self.servers[server].upstream.is_near();
        if near && !self.is_too_soon() {
            self.soundings.handle_near(now);
        }
        let upstream = &mut self.servers[server].upstream;
        if matches!(done.ask, Ask::Segment(_)) && is_given(&outcome) {
            upstream.handle_segment();
        }
        let restarts = self.follower.stats().restarts;
        if self.follower.handle_result(now, done.ask, outcome) == Use::Useless {
            upstream.handle_failure(now);
        }
        if self.follower.stats().restarts != restarts {
            upstream.handle_restart();
            // What the old run would have answered the new one may not.
            self.excuse(now, server);
            self.tasks.retain(|task| !matches!(task.ask, Ask::Segment(_)));
        }
    }

    /// What segments can expect of the way to a server.
    fn path(&self, server: usize) -> Path {
        let upstream = &self.servers[server].upstream;
        Path {
            round_trip: upstream.rtt().unwrap_or_default(),
            allowance: upstream.retry_allowance(&self.policy),
            is_clogged: upstream.is_clogged(),
            is_surely_clogged: upstream.is_surely_clogged(),
            is_unsure: self.soundings.is_open(),
        }
    }
}

/// Whether what was asked for came.
fn is_given(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered { answer, .. } if !answer.texts.is_empty())
}

/// Whether the answer is that there is nothing.
fn is_denied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered { answer, .. } if answer.texts.is_empty()
        && matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN))
}

/// The next attempt of a lookup with its length prefix, counted.
fn attempt(
    lookup: &mut Lookup,
    now: Instant,
    id: u16,
    stats: &mut FetchStats,
) -> Option<(Transport, Vec<u8>)> {
    let mut framed = vec![0, 0];
    let transport = lookup.poll_transmit(now, id, &mut framed)?;
    let length = (framed.len() - 2) as u16;
    framed[..2].copy_from_slice(&length.to_be_bytes());
    stats.queries += 1;
    stats.octets_out += u64::from(length);
    Some((transport, framed))
}

/// A message id. Not one that begins with white space: there are servers that strip it off.
fn message_id(random: &mut dyn FnMut() -> u64) -> u16 {
    loop {
        let id = random() as u16;
        let first = (id >> 8) as u8;
        if !first.is_ascii_whitespace() && first != 0x0B {
            return id;
        }
    }
}

/// Twelve letters and digits.
fn nonce(mut random: u64) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut letters = String::with_capacity(12);
    for _ in 0..12 {
        letters.push(alphabet[(random % 36) as usize] as char);
        random /= 36;
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::links::*;
    use super::*;

    #[test]
    fn nonces_are_short_names_of_letters_and_digits() {
        for random in [0, 1, u64::MAX, 0x0123_4567_89AB_CDEF] {
            let nonce = nonce(random);
            assert!(nonce.len() == 12 && nonce.bytes().all(|c| c.is_ascii_alphanumeric()));
        }
        assert_ne!(nonce(1), nonce(2));
    }

    const MS: Duration = Duration::from_millis(1);

    fn fetcher(now: Instant) -> Fetcher {
        let follower = Follower::new(crate::follow::StreamParameters::default(), None, 1, now);
        let root = "music.example.com".parse().unwrap();
        Fetcher::new(root, RetryPolicy::default(), follower, vec![[1; 8]])
    }

    /// Questions for `config` over UDP in the first seconds, repetitions and soundings, on a path where
    /// each question is denied after `round_trip` but the repeated one, if `config` is known there,
    /// and the first `lost` soundings. And what the path seems to lose then.
    fn asked_for_config(
        round_trip: Duration,
        config_is_denied: bool,
        lost: usize,
    ) -> (usize, usize, f64) {
        let mut now = Instant::now();
        let end = now + 2_000 * MS;
        let mut fetcher = fetcher(now);
        fetcher.servers[0].has_config = Some(now).filter(|_| !config_is_denied);
        let (mut number, mut asked, mut soundings, mut coming) = (0u64, 0, 0, Vec::new());
        while now < end {
            let mut random = || {
                number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
                number
            };
            while let Some(transmit) = fetcher.poll_transmit(now, &mut random) {
                let Route::Datagram { lookup } = transmit.route else { continue };
                let config = transmit.message()[13..].starts_with(b"config");
                let sounding = fetcher.soundings.contains(lookup);
                asked += usize::from(config && !sounding);
                soundings += usize::from(sounding);
                let answered = if sounding { soundings > lost } else { !config };
                if answered || config_is_denied {
                    coming.push((now + round_trip, lookup, denial(transmit.message())));
                }
            }
            coming.sort_by_key(|(at, ..)| *at);
            let next = fetcher.poll_timeout().into_iter().chain(coming.first().map(|(at, ..)| *at));
            now = next.min().unwrap_or(end).max(now + MS);
            while coming.first().is_some_and(|(at, ..)| *at <= now) {
                let (_, lookup, message) = coming.remove(0);
                fetcher.handle_datagram(now, lookup, &message);
            }
            fetcher.handle_timeout(now);
            while fetcher.poll_event().is_some() {}
        }
        (asked, soundings, fetcher.upstream(0).loss())
    }

    /// NXDOMAIN for the question of a query.
    fn denial(query: &[u8]) -> Vec<u8> {
        let name = 12 + query[12..].iter().position(|&octet| octet == 0).unwrap() + 1;
        let mut answer = query[..name + 4].to_vec();
        answer[2..12].copy_from_slice(&[0x84, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
        answer
    }

    #[test]
    fn messages_beyond_the_budget_wait() {
        let now = Instant::now();
        let mut fetcher = fetcher(now);
        fetcher.budget = (1.0, Some(now));
        let mut random = || 7;
        assert!(fetcher.poll_transmit(now, &mut random).is_some());
        assert!(fetcher.poll_transmit(now, &mut random).is_none());
        assert_eq!((fetcher.stats().queries, fetcher.stats().withheld), (1, 1));
        // The next one, which is due, may be sent after a hundredth of a second.
        let next = fetcher.poll_timeout().expect("something is due");
        assert_eq!(next, now + 10 * MS);
        assert!(fetcher.poll_transmit(next, &mut random).is_some());
    }

    #[test]
    fn a_far_way_is_sounded_a_near_one_less_and_one_without_config_is_not() {
        let (repeated, near, loss) = asked_for_config(5 * MS, false, 0);
        assert!(repeated < 12 && near == 24, "{near} soundings, {repeated} repetitions");
        // One that is lost shows itself while others are answered: how many are is worth knowing, but
        // where it was the only one of 48, playing begins as near to live.
        let (_, near, excused) = asked_for_config(5 * MS, false, 1);
        assert!(near == 48 && excused <= loss, "{near} soundings, {excused} lost, {loss} without");
        let (_, near, lossy) = asked_for_config(5 * MS, false, 7);
        assert!(
            near == 48 && lossy > excused + 0.05,
            "{near} soundings, {lossy} lost, {excused} with one"
        );
        assert_eq!(asked_for_config(120 * MS, false, 0).1, 48);
    }

    #[test]
    fn a_near_server_is_not_sounded_before_it_has_given_config() {
        let now = Instant::now();
        let mut fetcher = fetcher(now);
        let mut random = || 7;
        fetcher.servers[0].upstream.handle_round_trip(5 * MS);
        assert!(fetcher.transmit_sounding(now, &mut random).is_none());
        let later = now + 100 * MS;
        assert!(fetcher.transmit_sounding(later, &mut random).is_none());
        assert_eq!(fetcher.sounding_timeout(), None);
        fetcher.servers[0].has_config = Some(later);
        assert!(fetcher.transmit_sounding(later, &mut random).is_some());
    }

    /// Connections that are kept open to a server on a path that loses half of the attempts.
    fn kept_open(fetcher: &mut Fetcher, now: Instant) -> usize {
        std::iter::from_fn(|| fetcher.poll_open(now)).count()
    }

    #[test]
    fn a_bad_path_gets_more_connections_and_a_server_that_closes_them_at_once_few() {
        let mut now = Instant::now();
        let mut fetcher = fetcher(now);
        assert_eq!(kept_open(&mut fetcher, now), 0);
        let upstream = &mut fetcher.servers[0].upstream;
        upstream.handle_truncation(true);
        upstream.handle_attempts(now, 20, 80);
        assert_eq!(kept_open(&mut fetcher, now), LINKS_WARM_USUAL);
        now += LINK_FRESH;
        fetcher.servers[0].upstream.handle_attempts(now, 120, 30);
        assert_eq!(kept_open(&mut fetcher, now), LINKS_WARM);
        // One that is closed while nothing is asked on it says nothing, nor does one after a while.
        let asked = Waiting { lookup: 7, id: 1, sent: now };
        fetcher.handle_closed(now, 0, 0, true);
        fetcher.servers[0].links[1].waiting.push(asked);
        fetcher.handle_closed(now + SHORT_AFTER, 0, 1, true);
        now += LINK_FRESH;
        assert_eq!(kept_open(&mut fetcher, now), LINKS_WARM);
        let asked = Waiting { sent: now, ..asked };
        fetcher.servers[0].links[2].waiting.push(asked);
        fetcher.handle_closed(now + 300 * MS, 0, 2, true);
        now += LINK_FRESH;
        assert_eq!(kept_open(&mut fetcher, now), LINKS_SHORT);
        now += SHORT_FOR;
        assert_eq!(kept_open(&mut fetcher, now), LINKS_WARM);
        // The server itself closes what brings no question in time.
        tell(&mut fetcher, now, Ask::Now, "v=1;id=00000007;first=0;next=9;age=10;clock=0");
        assert!(fetcher.follower.is_direct());
        fetcher.servers[0].links[2].waiting.push(Waiting { sent: now, ..asked });
        fetcher.handle_closed(now + 300 * MS, 0, 2, true);
        now += LINK_FRESH;
        assert_eq!(kept_open(&mut fetcher, now), LINKS_WARM);
    }

    /// Lets the server itself say this.
    fn tell(fetcher: &mut Fetcher, now: Instant, ask: Ask, text: &str) {
        let answer = Answer {
            rcode: Rcode::NOERROR,
            authoritative: true,
            truncated: false,
            texts: vec![text.into()],
            ttl: 0,
            negative_ttl: None,
            edns: true,
            cookie: None,
        };
        let told = Outcome::Answered { answer, sent: now };
        assert_eq!(fetcher.follower.handle_result(now, ask, told), Use::Useful);
    }

    #[test]
    fn that_most_is_lost_is_asked_once_more_before_playing_begins() {
        for (lost, starting, more) in [(40, true, true), (20, true, false), (40, false, false)] {
            let now = Instant::now();
            let mut fetcher = fetcher(now);
            if starting {
                tell(&mut fetcher, now, Ask::Now, "v=1;id=00000007;first=0;next=9;age=10;clock=0");
                let config = "v=1;id=00000007;codec=opus;rate=16000;channels=1;frame=960;ascii=base91;frames=12;ttl=60;window=75";
                tell(&mut fetcher, now, Ask::Config, config);
                assert!(fetcher.follower.is_starting());
            }
            fetcher.soundings.leave_out();
            fetcher.servers[0].upstream.handle_soundings(now, true, lost, 48 - lost);
            fetcher.handle_timeout(now);
            assert_eq!(fetcher.soundings.is_open(), more, "{lost} lost, {starting}");
            fetcher.soundings.leave_out();
            fetcher.handle_timeout(now);
            assert!(!fetcher.soundings.is_open(), "a second time, {lost} lost");
        }
    }

    /// Datagrams sent until `end`, nothing being answered: the lookups.
    fn datagrams(fetcher: &mut Fetcher, mut now: Instant, end: Instant) -> Vec<(u64, Vec<u8>)> {
        let mut sent = Vec::new();
        while now < end {
            while let Some(transmit) = fetcher.poll_transmit(now, &mut || 0x6162) {
                if let Route::Datagram { lookup } = transmit.route {
                    sent.push((lookup, transmit.message().to_vec()));
                }
            }
            now = fetcher.poll_timeout().unwrap_or(end).max(now + MS).min(end);
            fetcher.handle_timeout(now);
        }
        sent
    }

    #[test]
    fn a_near_server_that_is_late_over_connections_is_sounded_and_gets_none_to_keep() {
        let now = Instant::now();
        for datagrams_are_lost in [false, true] {
            let mut fetcher = fetcher(now);
            let upstream = &mut fetcher.servers[0].upstream;
            upstream.handle_round_trip(5 * MS);
            (0..3).for_each(|_| upstream.handle_truncation(true));
            upstream.handle_attempts(now, 0, fetcher.soundings.leave_out());
            fetcher.begin(now, Ask::Segment(7), 1);
            let sent = datagrams(&mut fetcher, now, now + 300 * MS);
            let config = |(_, message): &&(u64, Vec<u8>)| message[13..].starts_with(b"config");
            let soundings = sent
                .iter()
                .filter(config)
                .filter(|(lookup, _)| fetcher.soundings.contains(*lookup));
            let soundings = soundings.cloned().collect::<Vec<_>>();
            assert_eq!(soundings.len(), 1, "one for one late answer");
            let mut late = now + 301 * MS;
            if datagrams_are_lost {
                late += 250 * MS;
                datagrams(&mut fetcher, now + 301 * MS, late);
            } else {
                let (lookup, message) = &soundings[0];
                fetcher.handle_datagram(late, *lookup, &denial(message));
            }
            assert!(fetcher.upstream(0).is_lossy());
            let open = fetcher.servers[0].links.iter().filter(|link| link.is_open(late)).count();
            let kept = kept_open(&mut fetcher, late);
            let expected = if datagrams_are_lost { LINKS_WARM_USUAL - open } else { 0 };
            assert_eq!(kept, expected, "{datagrams_are_lost}");
            // What nobody waits for any more is closed, with or without an answer.
            fetcher.tasks.clear();
            let closed = std::iter::from_fn(|| fetcher.poll_close(late)).count();
            assert_eq!(closed, if datagrams_are_lost { 0 } else { open });
        }
    }

    #[test]
    fn servers_that_have_all_failed_are_asked_in_turn() {
        let now = Instant::now();
        let Fetcher { root, policy, follower, .. } = fetcher(now);
        let mut fetcher = Fetcher::new(root, policy, follower, vec![[1; 8], [2; 8], [3; 8]]);
        fetcher.servers.iter_mut().for_each(|server| server.upstream.handle_failure(now));
        let chosen = [0; 4].map(|_| {
            fetcher.choose(now);
            fetcher.current
        });
        assert_eq!(chosen, [1, 2, 0, 1]);
        fetcher.servers[2].upstream.handle_success();
        fetcher.choose(now);
        assert_eq!(fetcher.current, 2);
    }

    #[test]
    fn ids_never_begin_with_white_space() {
        let mut number = 0u64;
        let mut next = || {
            number += 1;
            number
        };
        for _ in 0..70_000 {
            let first = (message_id(&mut next) >> 8) as u8;
            assert!(!first.is_ascii_whitespace() && first != 0x0B);
        }
    }
}
