//! A caching resolver of the simulation, after the measurements of real ones: least TTLs, negative
//! caching, records in any order, truncation, retries of its own, failures that are remembered.

use super::net::Dice;
use aodns::wire::{self, Answer, Query, QueryTemplate, Rcode, Reading, Rtype};
use std::collections::HashMap;
use std::time::Duration;

/// How a resolver treats what it caches.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Least TTL of what exists, and of what does not, in seconds.
    pub floor: u64,
    pub negative_floor: u64,
    /// How long a failure is remembered, in seconds.
    pub failure: u64,
    /// First timeout towards the server; doubled with each try.
    pub timeout: Duration,
    pub tries: u32,
    /// Denies everything.
    pub lies: bool,
}

impl Habits {
    /// As unbound: TTLs as they are.
    pub const PLAIN: Habits = Habits {
        floor: 0,
        negative_floor: 0,
        failure: 5,
        timeout: Duration::from_millis(376),
        tries: 5,
        lies: false,
    };

    /// TTLs below `floor` seconds are raised to it.
    pub fn with_floor(floor: u64) -> Habits {
        Habits { floor, negative_floor: floor, ..Habits::PLAIN }
    }
}

/// What is cached for a name.
#[derive(Clone)]
enum Kept {
    Texts(Vec<Vec<u8>>),
    Nothing(Rcode),
    Failure,
}

/// A client that waits.
#[derive(Clone)]
pub struct Waiting<V> {
    pub via: V,
    pub tcp: bool,
    query: Vec<u8>,
}

struct Pending<V> {
    clients: Vec<Waiting<V>>,
    template: QueryTemplate,
    id: u16,
    tries: u32,
    tcp: bool,
}

/// What a resolver wants done.
pub enum Act<V> {
    /// Answer a client.
    Reply { via: V, message: Vec<u8> },
    /// Ask the server, and call [`Resolver::handle_timeout`] after the time.
    Ask { key: Vec<u8>, id: u16, message: Vec<u8>, tcp: bool, timeout: Duration },
}

pub struct Resolver<V> {
    habits: Habits,
    cache: HashMap<Vec<u8>, (Duration, Kept)>,
    pending: HashMap<Vec<u8>, Pending<V>>,
    next_id: u16,
    /// Queries that went to the server.
    pub asked: u64,
}

impl<V: Copy> Resolver<V> {
    pub fn new(habits: Habits) -> Resolver<V> {
        Resolver { habits, cache: HashMap::new(), pending: HashMap::new(), next_id: 0, asked: 0 }
    }

    /// Loses its memory.
    pub fn restart(&mut self) {
        self.cache.clear();
        self.pending.clear();
    }

    pub fn handle_query(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        via: V,
        tcp: bool,
        message: &[u8],
    ) -> Vec<Act<V>> {
        let Reading::Query(query) = Query::read(message) else { return Vec::new() };
        let Some(question) = query.question else { return Vec::new() };
        let key = question.name().to_ascii_lowercase();
        let client = Waiting { via, tcp, query: message.to_vec() };
        if self.habits.lies {
            let reply = response(dice, &client, &Kept::Nothing(Rcode::NXDOMAIN), 1);
            return vec![Act::Reply { via, message: reply }];
        }
        if self.cache.len() > 4000 {
            self.cache.retain(|_, (expires, _)| *expires > now);
        }
        if let Some((expires, kept)) = self.cache.get(&key).filter(|(expires, _)| *expires > now) {
            let left = (*expires - now).as_secs() as u32;
            return vec![Act::Reply { via, message: response(dice, &client, kept, left) }];
        }
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.clients.push(client);
            return Vec::new();
        }
        let (name, _) = wire::Name::read(message, wire::HEADER_OCTETS).expect("it was read before");
        let template = QueryTemplate { name, qtype: Rtype::TXT, edns: true, cookie: Vec::new() };
        let pending = Pending { clients: vec![client], template, id: 0, tries: 0, tcp: false };
        self.pending.insert(key.clone(), pending);
        vec![self.ask(&key)]
    }

    fn ask(&mut self, key: &[u8]) -> Act<V> {
        self.next_id = self.next_id.wrapping_add(1);
        self.asked += 1;
        let pending = self.pending.get_mut(key).expect("called for what is pending");
        pending.id = self.next_id;
        let timeout = self.habits.timeout * (1 << pending.tries.min(3));
        pending.tries += 1;
        let mut message = Vec::new();
        pending.template.write(pending.id, &mut message);
        Act::Ask { key: key.to_vec(), id: pending.id, message, tcp: pending.tcp, timeout }
    }

    pub fn handle_answer(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        key: &[u8],
        message: &[u8],
    ) -> Vec<Act<V>> {
        let Some(pending) = self.pending.get_mut(key) else { return Vec::new() };
        let Ok(answer) = Answer::read(message, pending.id, &pending.template) else {
            return Vec::new();
        };
        if answer.truncated {
            if pending.tcp {
                return Vec::new();
            }
            pending.tcp = true;
            pending.tries = pending.tries.saturating_sub(1);
            return vec![self.ask(key)];
        }
        let (kept, ttl) = if answer.texts.is_empty() {
            let ttl = u64::from(answer.negative_ttl.unwrap_or(60)).max(self.habits.negative_floor);
            (Kept::Nothing(answer.rcode), ttl)
        } else {
            (Kept::Texts(answer.texts), u64::from(answer.ttl).max(self.habits.floor))
        };
        self.complete(now, dice, key, kept, ttl)
    }

    pub fn handle_timeout(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        key: &[u8],
        id: u16,
    ) -> Vec<Act<V>> {
        let Some(pending) = self.pending.get(key).filter(|pending| pending.id == id) else {
            return Vec::new();
        };
        if pending.tries < self.habits.tries {
            return vec![self.ask(key)];
        }
        let ttl = self.habits.failure;
        self.complete(now, dice, key, Kept::Failure, ttl)
    }

    fn complete(
        &mut self,
        now: Duration,
        dice: &mut Dice,
        key: &[u8],
        kept: Kept,
        ttl: u64,
    ) -> Vec<Act<V>> {
        let Some(pending) = self.pending.remove(key) else { return Vec::new() };
        let replies = pending.clients.iter().map(|client| Act::Reply {
            via: client.via,
            message: response(dice, client, &kept, ttl as u32),
        });
        let replies = replies.collect();
        if ttl > 0 {
            self.cache.insert(key.to_vec(), (now + Duration::from_secs(ttl), kept));
        }
        replies
    }
}

/// The response to a client's query, truncated where it does not fit.
fn response<V>(dice: &mut Dice, client: &Waiting<V>, kept: &Kept, ttl: u32) -> Vec<u8> {
    let query = &client.query;
    let question_end = wire::HEADER_OCTETS
        + query[wire::HEADER_OCTETS..].iter().position(|&o| o == 0).expect("a name ends")
        + 5;
    let edns = query[11] > 0;
    let (mut flags, mut counts) = (0x8180u16, [1u16, 0, 0, u16::from(edns)]);
    let mut records = Vec::new();
    match kept {
        Kept::Texts(texts) => {
            let mut order: Vec<usize> = (0..texts.len()).collect();
            for index in (1..order.len()).rev() {
                order.swap(index, dice.below(index + 1));
            }
            for index in order {
                wire::write_txt_record(&mut records, ttl, &texts[index]);
            }
            counts[1] = texts.len() as u16;
        }
        Kept::Nothing(rcode) => {
            flags |= rcode.0;
            wire::write_record_head(&mut records, &wire::QUESTION_POINTER, Rtype::SOA, ttl, 22);
            records.extend_from_slice(&[0, 0]);
            for number in [1, 5, 2, 3600, ttl] {
                records.extend_from_slice(&number.to_be_bytes());
            }
            counts[2] = 1;
        }
        Kept::Failure => flags |= Rcode::SERVFAIL.0,
    }
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let limit = if edns { wire::UDP_PAYLOAD_MAX } else { wire::UDP_PAYLOAD_PLAIN };
    if !client.tcp && question_end + records.len() + opt.len() > limit {
        flags |= wire::FLAG_TC;
        records.clear();
        (counts[1], counts[2]) = (0, 0);
    }
    let mut out = query[..question_end].to_vec();
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    for (index, count) in counts.iter().enumerate() {
        out[4 + 2 * index..6 + 2 * index].copy_from_slice(&count.to_be_bytes());
    }
    out.extend_from_slice(&records);
    if edns {
        out.extend_from_slice(&opt);
    }
    out
}
