//! The simulated world: a virtual clock, events in order of time, and the players.

use super::net::{Dice, Path};
use super::resolver::{Act, Habits, Resolver};
use super::server::{Answer, ROOT, Run};
use super::stamp::{Stamp, StampDecoder, stamp_of};
use aodns::codec::Decoder;
use aodns::fetch::{FetchStats, Fetcher, LINKS_MAX, Route};
use aodns::follow::{Event, FollowStats, Follower, StreamParameters};
use aodns::lookup::RetryPolicy;
use aodns::playout::{JitterBuffer, Play, PlayoutStats};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// One of the servers that the listener is told of.
#[derive(Clone, Copy, Debug)]
pub struct HopKind {
    /// From the listener to it.
    pub path: Path,
    /// A resolver with these habits; the stream's own server otherwise.
    pub resolver: Option<Habits>,
    /// From the resolver to the server.
    pub upstream: Path,
    /// When it answers nothing.
    pub dead: (Duration, Duration),
}

impl HopKind {
    pub fn direct(path: Path) -> HopKind {
        let never = (Duration::MAX, Duration::MAX);
        HopKind { path, resolver: None, upstream: Path::new(20, 0), dead: never }
    }

    pub fn resolver(path: Path, habits: Habits) -> HopKind {
        HopKind { resolver: Some(habits), ..HopKind::direct(path) }
    }
}

/// What happens during a run.
#[derive(Clone, Debug)]
pub struct Setting {
    pub hops: Vec<HopKind>,
    pub length: Duration,
    /// How much faster than true the sound card is, in parts per million.
    pub card_ppm: f64,
    pub latency: Option<Duration>,
    /// While the network is gone.
    pub outage: (Duration, Duration),
    /// While the listener's machine sleeps, and whether its monotonic clock stops meanwhile.
    pub sleep: (Duration, Duration),
    pub clock_stops: bool,
    pub resolver_restarts: Vec<Duration>,
    /// When the listener begins.
    pub join: Duration,
    pub seed: u64,
}

impl Setting {
    pub fn new(hops: Vec<HopKind>, length: Duration, seed: u64) -> Setting {
        let never = (Duration::MAX, Duration::MAX);
        Setting {
            hops,
            length,
            card_ppm: 0.0,
            latency: None,
            outage: never,
            sleep: never,
            clock_stops: false,
            resolver_restarts: Vec::new(),
            join: 5000 * MS,
            seed,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub frames: u64,
    /// Frames that were concealed or silent after sound had begun.
    pub silent: u64,
    pub gaps: u64,
    /// From capture to play, of each segment's worth of frames, in ms, with the time.
    pub latencies: Vec<(Duration, f32)>,
    pub queries: u64,
    pub first_sound: Option<Duration>,
    /// Pieces of silence: from, to.
    pub silences: Vec<(Duration, Duration)>,
    pub causes: BTreeMap<&'static str, u64>,
    /// Times that the fetcher wanted to be called again at once, having done all there is to do.
    pub spins: u64,
    pub fetch: FetchStats,
    pub follow: FollowStats,
    pub playout: PlayoutStats,
    pub level_max: Duration,
    pub drift_ppm: Option<f64>,
    /// Queries that reached each server.
    pub asked: Vec<u64>,
    pub server_queries: u64,
    pub current: usize,
    /// Frames that were heard twice or out of order.
    pub disorder: u64,
    /// When each run of the server was heard first.
    pub heard: BTreeMap<usize, Duration>,
}

impl Outcome {
    pub fn gap_ratio(&self) -> f64 {
        self.silent as f64 / self.frames.max(1) as f64
    }

    /// When a run of the server was heard first.
    pub fn heard_run(&self, run: usize) -> Option<Duration> {
        self.heard.get(&run).copied()
    }

    /// Latency below which `part` of all lie, in ms.
    pub fn latency(&self, part: f64) -> f64 {
        let mut sorted: Vec<f32> = self.latencies.iter().map(|(_, latency)| *latency).collect();
        sorted.sort_by(f32::total_cmp);
        let index = (sorted.len().max(1) - 1) as f64 * part;
        f64::from(sorted.get(index as usize).copied().unwrap_or(f32::NAN))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Datagram { hop: usize, lookup: u64 },
    Stream { hop: usize, link: usize, generation: u32 },
}

impl Via {
    fn hop(self) -> usize {
        match self {
            Via::Datagram { hop, .. } | Via::Stream { hop, .. } => hop,
        }
    }

    fn tcp(self) -> bool {
        matches!(self, Via::Stream { .. })
    }
}

/// Who asked the server.
#[derive(Clone, Debug)]
enum Asker {
    Listener(Via),
    Resolver { hop: usize, key: Vec<u8>, tcp: bool },
}

enum Happening {
    Wake,
    Pull,
    /// A message reaches a hop, or the listener.
    Reach(Via, Vec<u8>),
    Return(Via, Vec<u8>),
    /// A message reaches the stream's server, for the first time or after it was held.
    Server {
        asker: Asker,
        message: Vec<u8>,
        may_hold: bool,
    },
    Upstream {
        hop: usize,
        key: Vec<u8>,
        message: Vec<u8>,
    },
    Timeout {
        hop: usize,
        key: Vec<u8>,
        id: u16,
    },
    RestartResolvers,
}

/// A connection of the listener.
#[derive(Clone, Copy, Default)]
struct Stream {
    generation: u32,
    used: Option<Duration>,
    up: Duration,
    there: Duration,
    back: Duration,
}

pub struct World {
    setting: Setting,
    runs: Vec<Arc<Run>>,
    base: Instant,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
    order: u64,
    dice: Dice,
    ids: Dice,
    resolvers: Vec<Option<Resolver<Via>>>,
    streams: Vec<[Stream; LINKS_MAX]>,
    fetcher: Fetcher,
    buffer: JitterBuffer,
    decoder: StampDecoder,
    frame: Duration,
    wake_at: Option<Duration>,
    /// Whether it slept through what was to wake it.
    slept: bool,
    pulling: bool,
    last_frame: Option<(usize, u64)>,
    silent_since: Option<Duration>,
    result: Outcome,
}

impl World {
    pub fn new(setting: Setting, runs: Vec<Arc<Run>>, base: Instant) -> World {
        let fallback = StreamParameters::default();
        let follower = Follower::new(fallback, setting.latency, setting.seed, base + setting.join);
        let cookies = (0..setting.hops.len()).map(|hop| [hop as u8; 8]).collect();
        let root = ROOT.parse().expect("a valid name");
        let fetcher = Fetcher::new(root, RetryPolicy::default(), follower, cookies);
        let mut buffer = JitterBuffer::new(60 * MS);
        if let Some(latency) = setting.latency {
            buffer.fix_latency(latency);
        }
        let result = Outcome {
            frames: 0,
            silent: 0,
            gaps: 0,
            latencies: Vec::new(),
            queries: 0,
            first_sound: None,
            silences: Vec::new(),
            causes: BTreeMap::new(),
            spins: 0,
            fetch: fetcher.stats(),
            follow: fetcher.follower().stats(),
            playout: buffer.stats(),
            level_max: Duration::ZERO,
            drift_ppm: None,
            asked: Vec::new(),
            server_queries: 0,
            current: 0,
            disorder: 0,
            heard: BTreeMap::new(),
        };
        World {
            resolvers: setting.hops.iter().map(|hop| hop.resolver.map(Resolver::new)).collect(),
            streams: vec![[Stream::default(); LINKS_MAX]; setting.hops.len()],
            dice: Dice::new(setting.seed),
            ids: Dice::new(setting.seed ^ 0xABCD),
            runs,
            base,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            order: 0,
            fetcher,
            buffer,
            decoder: StampDecoder::new(StreamParameters::default().format, 960),
            frame: 60 * MS,
            wake_at: None,
            slept: false,
            pulling: false,
            last_frame: None,
            silent_since: None,
            setting,
            result,
        }
    }

    fn at(&mut self, time: Duration, happening: Happening) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.happenings.push(None);
            self.happenings.len() - 1
        });
        self.happenings[slot] = Some(happening);
        self.order += 1;
        self.queue.push(Reverse((time, self.order, slot)));
    }

    pub fn run(mut self) -> Outcome {
        // Once the server has something to tell.
        self.at(self.setting.join, Happening::Wake);
        for time in self.setting.resolver_restarts.clone() {
            self.at(time, Happening::RestartResolvers);
        }
        while let Some(Reverse((time, _, slot))) = self.queue.pop() {
            if time > self.setting.length {
                break;
            }
            self.now = time;
            self.free.push(slot);
            let happening = self.happenings[slot].take().expect("each slot is used once");
            self.happen(happening);
        }
        if let Some(since) = self.silent_since {
            self.result.silences.push((since, self.now));
        }
        self.result.fetch = self.fetcher.stats();
        self.result.queries = self.fetcher.stats().queries;
        self.result.follow = self.fetcher.follower().stats();
        self.result.playout = self.buffer.stats();
        self.result.gaps = self.buffer.stats().gaps;
        self.result.drift_ppm = self.buffer.steering().drift_ppm();
        self.result.current = self.fetcher.current();
        self.result.asked = self
            .resolvers
            .iter()
            .map(|r| r.as_ref().map_or(0, |resolver| resolver.asked))
            .collect();
        self.result
    }

    fn within(&self, (from, to): (Duration, Duration)) -> bool {
        (from..to).contains(&self.now)
    }

    /// The listener's monotonic clock.
    fn instant(&self) -> Instant {
        let (from, to) = self.setting.sleep;
        let slept = if self.setting.clock_stops {
            self.now.min(to).saturating_sub(from)
        } else {
            Duration::ZERO
        };
        self.base + (self.now - slept)
    }

    fn happen(&mut self, happening: Happening) {
        let asleep = self.within(self.setting.sleep);
        match happening {
            Happening::Wake if asleep => {
                self.slept = true;
                self.at(self.setting.sleep.1, Happening::Wake);
            }
            Happening::Pull if asleep => self.at(self.setting.sleep.1, Happening::Pull),
            Happening::Return(..) if asleep => {}
            Happening::Wake => {
                if std::mem::take(&mut self.slept) {
                    let now = self.instant();
                    self.fetcher.handle_sleep(now);
                }
                if self.wake_at.is_none_or(|at| at <= self.now) {
                    self.wake_at = None;
                }
                self.listen();
            }
            Happening::Pull => self.pull(),
            Happening::Reach(via, message) => self.reach(via, message),
            Happening::Return(via, message) => {
                let now = self.instant();
                match via {
                    Via::Datagram { lookup, .. } => {
                        self.fetcher.handle_datagram(now, lookup, &message)
                    }
                    Via::Stream { hop, link, generation } => {
                        if self.streams[hop][link].generation == generation {
                            self.fetcher.handle_stream(now, hop, link, &message);
                        }
                    }
                }
                self.listen();
            }
            Happening::Server { asker, message, may_hold } => self.ask(asker, message, may_hold),
            Happening::Upstream { hop, key, message } => {
                let Some(resolver) = &mut self.resolvers[hop] else { return };
                let acts = resolver.handle_answer(self.now, &mut self.dice, &key, &message);
                self.act(hop, acts);
            }
            Happening::Timeout { hop, key, id } => {
                let Some(resolver) = &mut self.resolvers[hop] else { return };
                let acts = resolver.handle_timeout(self.now, &mut self.dice, &key, id);
                self.act(hop, acts);
            }
            Happening::RestartResolvers => {
                let now = self.instant();
                for hop in 0..self.resolvers.len() {
                    if let Some(resolver) = &mut self.resolvers[hop] {
                        resolver.restart();
                        self.drop_streams(now, hop);
                    }
                }
            }
        }
    }

    fn drop_streams(&mut self, now: Instant, hop: usize) {
        for link in 0..LINKS_MAX {
            let stream = &mut self.streams[hop][link];
            if stream.used.take().is_some() {
                stream.generation += 1;
                self.fetcher.handle_closed(now, hop, link, true);
            }
        }
    }

    // ---- the listener -------------------------------------------------------------------------

    /// Lets the fetcher do what is due, as the socket loop does.
    fn listen(&mut self) {
        let now = self.instant();
        self.fetcher.handle_timeout(now);
        loop {
            let ids = &mut self.ids;
            let Some(transmit) = self.fetcher.poll_transmit(now, &mut || ids.next()) else { break };
            let message = transmit.message().to_vec();
            self.send(transmit.server, transmit.route, message);
        }
        while let Some((hop, link)) = self.fetcher.poll_open(now) {
            self.open(hop, link);
        }
        while let Some(event) = self.fetcher.poll_event() {
            self.handle(now, event);
        }
        if !self.pulling {
            if let Some(at) = self.buffer.begins_at() {
                self.pulling = true;
                let wait = at.saturating_duration_since(now);
                self.at(self.now + wait, Happening::Pull);
            }
        }
        if let Some(at) = self.fetcher.poll_timeout() {
            self.result.spins += u64::from(at <= now);
            let at = self.now + at.saturating_duration_since(now).max(Duration::from_micros(1));
            if self.wake_at.is_none_or(|wake_at| at < wake_at) {
                self.wake_at = Some(at);
                self.at(at, Happening::Wake);
            }
        }
    }

    /// Opens a connection, unless it is open.
    fn open(&mut self, hop: usize, link: usize) {
        let path = self.setting.hops[hop].path;
        let stream = &mut self.streams[hop][link];
        let idle = |used| self.now.saturating_sub(used) > 5000 * MS;
        if stream.used.is_none_or(idle) {
            // Scattered as the sockets of the listener do it, without using up the dice.
            let part = 0.75 + (stream.generation * 37 % 51) as f64 / 100.0;
            let timer = self.fetcher.handshake_patience(hop).mul_f64(part);
            let up = self.now + path.handshake(&mut self.dice, timer);
            let generation = stream.generation + 1;
            *stream = Stream { generation, used: None, up, there: up, back: up };
        }
        stream.used = Some(self.now);
    }

    fn send(&mut self, hop: usize, route: Route, message: Vec<u8>) {
        let path = self.setting.hops[hop].path;
        let gone = self.within(self.setting.outage);
        match route {
            Route::Datagram { lookup } => {
                if gone {
                    return;
                }
                for delay in path.datagram(&mut self.dice) {
                    let via = Via::Datagram { hop, lookup };
                    self.at(self.now + delay, Happening::Reach(via, message.clone()));
                }
            }
            Route::Stream { link, anew } => {
                if gone {
                    return;
                }
                if anew {
                    self.streams[hop][link].used = None;
                }
                self.open(hop, link);
                let mut stream = self.streams[hop][link];
                let begin = self.now.max(stream.up);
                let arrival = begin + path.stream(&mut self.dice, message.len());
                stream.there = stream.there.max(arrival);
                self.streams[hop][link] = stream;
                let via = Via::Stream { hop, link, generation: stream.generation };
                self.at(stream.there, Happening::Reach(via, message));
            }
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Stream(stream) => {
                let samples = stream.frame_samples.unwrap_or(960);
                self.frame = stream.format.rate.duration(u64::from(samples));
                self.decoder = StampDecoder::new(stream.format, samples as usize);
                self.buffer.restart(self.frame);
            }
            Event::Start { sequence, play_at, fresh } => {
                self.buffer.start(now, sequence, play_at, fresh);
            }
            Event::Segment { sequence, segment, captured, need, allowance } => {
                self.buffer.insert(sequence, segment.packets, captured);
                if let Some(need) = need {
                    self.buffer.handle_need(now, need, allowance);
                }
                self.result.level_max = self.result.level_max.max(self.buffer.level());
            }
            Event::Lost(sequence, cause) => self.buffer.lose(sequence, cause),
            Event::Ended | Event::Trouble(_) => {}
        }
    }

    /// The sound card wants a frame.
    fn pull(&mut self) {
        let now = self.instant();
        let heard = loop {
            match self.buffer.pull(now) {
                Play::Prime(_) => {}
                Play::Idle => {
                    self.pulling = false;
                    return self.listen();
                }
                Play::Packet(packet) => {
                    let mut pcm = vec![0; self.decoder.frame_samples()];
                    let decoded = self.decoder.decode(Some(&packet), &mut pcm);
                    break decoded.is_ok().then(|| stamp_of(&pcm));
                }
                Play::Conceal | Play::Silence => break None,
            }
        };
        self.result.frames += 1;
        if let Some(Stamp::Frame(frame)) = heard {
            self.result.first_sound.get_or_insert(self.now);
            if let Some(since) = self.silent_since.take() {
                self.result.silences.push((since, self.now));
            }
            self.hear(frame);
        } else {
            self.result.silent += 1;
            self.silent_since.get_or_insert(self.now);
        }
        if let Some(gap) = self.buffer.take_gap() {
            *self.result.causes.entry(gap.cause.text()).or_default() += 1;
        }
        let ppm = self.setting.card_ppm + self.buffer.steering().correction_ppm();
        let time = self.frame.as_secs_f64() / (1.0 + ppm * 1e-6);
        self.at(self.now + Duration::from_secs_f64(time), Happening::Pull);
    }

    fn hear(&mut self, frame: u64) {
        // The newest run that had captured the frame by now.
        let captured = |run: &Run| run.begins <= self.now && run.captured(frame) <= self.now;
        let Some(index) = self.runs.iter().rposition(|run| captured(run)) else {
            self.result.disorder += 1;
            return;
        };
        self.result.heard.entry(index).or_insert(self.now);
        let ordered = self.last_frame.is_none_or(|last| last.0 < index || last.1 < frame);
        self.result.disorder += u64::from(!ordered);
        self.last_frame = Some((index, frame));
        if frame % 12 == 0 {
            let latency = self.now - self.runs[index].captured(frame);
            self.result.latencies.push((self.now, latency.as_secs_f32() * 1000.0));
        }
    }

    // ---- the network --------------------------------------------------------------------------

    fn reach(&mut self, via: Via, message: Vec<u8>) {
        let hop = via.hop();
        if self.within(self.setting.hops[hop].dead) {
            return;
        }
        match &mut self.resolvers[hop] {
            Some(resolver) => {
                let acts =
                    resolver.handle_query(self.now, &mut self.dice, via, via.tcp(), &message);
                self.act(hop, acts);
            }
            None => self.ask(Asker::Listener(via), message, true),
        }
    }

    fn act(&mut self, hop: usize, acts: Vec<Act<Via>>) {
        for act in acts {
            match act {
                Act::Reply { via, message } => self.reply(via, message),
                Act::Ask { key, id, message, tcp, timeout } => {
                    let path = self.setting.hops[hop].upstream;
                    let asker = Asker::Resolver { hop, key: key.clone(), tcp };
                    let delays = if tcp {
                        let shake = path.handshake(&mut self.dice, 1000 * MS);
                        vec![shake + path.stream(&mut self.dice, message.len())]
                    } else {
                        path.datagram(&mut self.dice)
                    };
                    for delay in delays {
                        let (asker, message) = (asker.clone(), message.clone());
                        let happening = Happening::Server { asker, message, may_hold: true };
                        self.at(self.now + delay, happening);
                    }
                    // A connection is not given up that soon.
                    let timeout = if tcp { timeout.max(3000 * MS) } else { timeout };
                    self.at(self.now + timeout, Happening::Timeout { hop, key, id });
                }
            }
        }
    }

    /// The stream's server takes a query.
    fn ask(&mut self, asker: Asker, message: Vec<u8>, may_hold: bool) {
        let running = |run: &&Arc<Run>| (run.begins..run.ends).contains(&self.now);
        let Some(run) = self.runs.iter().find(running).cloned() else {
            return;
        };
        self.result.server_queries += u64::from(may_hold);
        let tcp = match &asker {
            Asker::Listener(via) => via.tcp(),
            Asker::Resolver { tcp, .. } => *tcp,
        };
        match run.respond(self.base, self.now, &message, tcp, may_hold) {
            Answer::Never => {}
            Answer::At(time) => {
                self.at(time, Happening::Server { asker, message, may_hold: false });
            }
            Answer::Now(answer) => match asker {
                Asker::Listener(via) => self.reply(via, answer),
                Asker::Resolver { hop, key, tcp } => {
                    let path = self.setting.hops[hop].upstream;
                    let delays = if tcp {
                        vec![path.stream(&mut self.dice, answer.len())]
                    } else {
                        path.datagram(&mut self.dice)
                    };
                    for delay in delays {
                        let happening =
                            Happening::Upstream { hop, key: key.clone(), message: answer.clone() };
                        self.at(self.now + delay, happening);
                    }
                }
            },
        }
    }

    /// A message goes back to the listener.
    fn reply(&mut self, via: Via, message: Vec<u8>) {
        let hop = via.hop();
        let path = self.setting.hops[hop].path;
        if self.within(self.setting.outage) {
            return;
        }
        if let Via::Stream { link, generation, .. } = via {
            let stream = &mut self.streams[hop][link];
            if stream.generation == generation {
                let arrival = self.now + path.stream(&mut self.dice, message.len());
                stream.back = stream.back.max(arrival);
                let back = stream.back;
                self.at(back, Happening::Return(via, message));
            }
            return;
        }
        if self.dice.chance(path.forged) {
            // A guess at the id, with an answer of its own; a right guess would be bad luck.
            let mut forged = message.clone();
            forged[0] ^= 0x5A;
            self.at(self.now + MS, Happening::Return(via, forged));
        }
        for delay in path.datagram(&mut self.dice) {
            self.at(self.now + delay, Happening::Return(via, message.clone()));
        }
    }
}
