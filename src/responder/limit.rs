//! The abuse policy: how much a datagram from an address that may be forged can make the server
//! send (dns-behaviour section 3, rules A3 to A7).
//!
//! Each client prefix (/24, /56) has a budget of octets by which answers may exceed their queries,
//! and a count of answers a second. The table has a fixed number of entries in sets of eight,
//! found by a keyed hash; the entry of a set that was not used for longest makes room. No clock:
//! time comes in as milliseconds since the start. No lock is held for longer than the arithmetic.

use siphasher::sip::SipHasher24;
use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Entries in a set.
const WAYS: usize = 8;
/// A prefix is named in the log at most once in this time, in milliseconds.
const LOG_INTERVAL_MS: u32 = 30_000;
/// One that there was no room for is tried again after this time.
const LOG_AGAIN_MS: u32 = 1_000;
/// Prefixes waiting to be named.
const LOG_MAX: usize = 16;

/// The oldest present that a thread may come with, in milliseconds.
const BATCH_AGE_MS_MAX: u32 = 60_000;

/// How much is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Octets a second by which answers to one prefix may exceed their queries (A3).
    pub excess_per_second: u32,
    /// Octets that a prefix may have saved up (A3).
    pub excess_burst: u32,
    /// Answers a second to one prefix (A4).
    pub responses_per_second: u16,
    /// Errors (FORMERR, NOTIMP, BADVERS, REFUSED, NOTAUTH) a second to one prefix (A4).
    pub errors_per_second: u16,
    /// Errors a second to everybody (A4).
    pub errors_per_second_total: u32,
    /// Octets a second by which answers to everybody may exceed their queries (A5).
    pub excess_per_second_total: u32,
    /// Prefixes remembered at the same time (A6).
    pub entries: usize,
    /// Clients that are not limited (A7).
    pub exempt: Vec<Prefix>,
    /// Whether no datagram is limited, whoever sends it. Connections and held questions are.
    pub off: bool,
    /// Whether to count and limit nothing (A8).
    pub dry_run: bool,
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        LimitSettings {
            excess_per_second: 100_000,
            excess_burst: 200_000,
            responses_per_second: 1000,
            errors_per_second: 100,
            errors_per_second_total: 2000,
            excess_per_second_total: 2_000_000,
            entries: 65_536,
            exempt: vec![
                Prefix { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 },
                Prefix { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 },
            ],
            off: false,
            dry_run: false,
        }
    }
}

/// An address prefix: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// The prefix of `bits` bits that `address` is in; `None` when there are more bits than it has.
    pub fn new(address: IpAddr, bits: u8) -> Option<Prefix> {
        let address = match address {
            IpAddr::V4(v4) if bits <= 32 => {
                let kept = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & kept))
            }
            IpAddr::V6(v6) if bits <= 128 => {
                let kept = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & kept))
            }
            _ => return None,
        };
        Some(Prefix { address, bits })
    }

    /// Whether `address` is in it. An IPv4 address in IPv6 clothing counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        Prefix::new(address.to_canonical(), self.bits) == Some(*self)
    }

    /// The prefix that answers to `address` are counted by: /24 or /56.
    pub fn of_client(address: IpAddr) -> Prefix {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { 24 } else { 56 };
        Prefix::new(address, bits).unwrap_or(Prefix { address, bits })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixError;

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address prefix such as 192.0.2.0/24 or 2001:db8::/32")
    }
}

impl std::error::Error for PrefixError {}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| PrefixError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError)?;
        let bits = bits.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
        Prefix::new(address, bits).ok_or(PrefixError)
    }
}

/// What may be done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be sent.
    Send,
    /// Nothing larger than the query may be sent: it is to be truncated, or asked for a cookie.
    Slip(Rule),
    /// Nothing may be sent.
    Drop(Rule),
}

/// Why an answer is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The budget of the client's prefix is spent.
    Budget,
    /// The client's prefix was sent too many answers this second.
    Rate,
    /// Too many errors this second.
    Errors,
    /// The budget of the whole server is spent.
    Total,
}

/// A prefix as it was when it was first limited in a while, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Who.
    pub prefix: Prefix,
    /// Why.
    pub rule: Rule,
}

/// What is known of a prefix. All times in milliseconds, modulo 2^32.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Hash of the prefix; 0 while the entry is free.
    key: u64,
    /// Octets left.
    budget: u32,
    /// When the budget was last filled up.
    filled_ms: u32,
    /// Begin of the second that is being counted.
    second_ms: u32,
    responses: u16,
    errors: u16,
    /// Whether the last answer that the budget could not pay was answered with less.
    slipped: bool,
    /// When the prefix was last named in the log; meaningful when `logged`.
    logged_ms: u32,
    logged: bool,
    used_ms: u32,
}

const FREE: Entry = Entry {
    key: 0,
    budget: 0,
    filled_ms: 0,
    second_ms: 0,
    responses: 0,
    errors: 0,
    slipped: false,
    logged_ms: 0,
    logged: false,
    used_ms: 0,
};

/// A sum over one second, shared by all threads without a lock. Threads that meet at the turn of a
/// second may lose what one of them added; the bound holds to within that.
#[derive(Debug, Default)]
struct SecondSum {
    second: AtomicU64,
    sum: AtomicU64,
}

impl SecondSum {
    /// Adds `more` if the sum of this second stays within `most`.
    fn add_within(&self, now_ms: u64, more: u64, most: u64) -> bool {
        let second = now_ms / 1000 + 1;
        // A thread whose present is a little older counts into the newer second.
        if self.second.fetch_max(second, Ordering::Relaxed) < second {
            self.sum.store(0, Ordering::Relaxed);
        }
        if self.sum.load(Ordering::Relaxed) + more > most {
            return false;
        }
        self.sum.fetch_add(more, Ordering::Relaxed);
        true
    }
}

/// Limits answers to addresses that may be forged.
pub struct Limiter {
    settings: LimitSettings,
    key: [u8; 16],
    sets: Box<[Mutex<[Entry; WAYS]>]>,
    excess_total: SecondSum,
    errors_total: SecondSum,
    limited: Mutex<Vec<Limited>>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Limiter {
    /// An empty table. `key` is random, so that nobody can aim at an entry.
    pub fn new(settings: LimitSettings, key: [u8; 16]) -> Limiter {
        let sets = (settings.entries / WAYS).max(1).next_power_of_two();
        Limiter {
            key,
            sets: (0..sets).map(|_| Mutex::new([FREE; WAYS])).collect(),
            excess_total: SecondSum::default(),
            errors_total: SecondSum::default(),
            limited: Mutex::new(Vec::with_capacity(LOG_MAX)),
            settings,
        }
    }

    /// Whether no datagram is limited.
    pub fn is_off(&self) -> bool {
        self.settings.off
    }

    /// Whether `client` is not limited (A7).
    pub fn is_exempt(&self, client: IpAddr) -> bool {
        self.settings.exempt.iter().any(|prefix| prefix.contains(client))
    }

    /// Whether verdicts are counted and not followed.
    pub fn is_dry_run(&self) -> bool {
        self.settings.dry_run
    }

    /// The prefixes that were limited since the last call, each at most once in 30 s.
    pub fn take_limited(&self) -> Vec<Limited> {
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.drain(..).collect()
    }

    /// Judges an answer of `response_octets` to a query of `query_octets` from `client`, which did
    /// not prove its address, and takes it off the budgets. `error` says whether it is an error.
    /// `now_ms` counts from the start.
    pub fn check(
        &self,
        now_ms: u64,
        client: IpAddr,
        query_octets: usize,
        response_octets: usize,
        error: bool,
    ) -> Verdict {
        let prefix = Prefix::of_client(client);
        let key = self.hash(&prefix);
        let now = now_ms as u32;
        let set = &self.sets[(key as usize >> 1) & (self.sets.len() - 1)];
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = find(&mut set, key, now, self.settings.excess_burst);
        let excess = response_octets.saturating_sub(query_octets) as u32;
        let verdict = self.judge(entry, now_ms, excess, error);
        match verdict {
            Verdict::Send => entry.responses += 1,
            Verdict::Slip(rule) => {
                entry.responses += 1;
                self.name(entry, now, prefix, rule);
            }
            Verdict::Drop(rule) => self.name(entry, now, prefix, rule),
        }
        verdict
    }

    /// The rules in turn; takes what is granted off the budgets.
    fn judge(&self, entry: &mut Entry, now_ms: u64, excess: u32, error: bool) -> Verdict {
        let settings = &self.settings;
        let now = now_ms as u32;
        if since(now, entry.second_ms) >= 1000 {
            (entry.second_ms, entry.responses, entry.errors) = (now, 0, 0);
        }
        if entry.responses >= settings.responses_per_second {
            return Verdict::Drop(Rule::Rate);
        }
        if error {
            let most = u64::from(settings.errors_per_second_total);
            if entry.errors >= settings.errors_per_second
                || !self.errors_total.add_within(now_ms, 1, most)
            {
                return Verdict::Drop(Rule::Errors);
            }
            entry.errors += 1;
        }
        if excess == 0 {
            return Verdict::Send;
        }
        let elapsed = u64::from(since(now, entry.filled_ms));
        let earned = elapsed * u64::from(settings.excess_per_second) / 1000;
        // Time that earned nothing yet is not thrown away.
        if earned > 0 {
            let budget = (u64::from(entry.budget) + earned).min(settings.excess_burst.into());
            (entry.budget, entry.filled_ms) = (budget as u32, now);
        }
        if entry.budget < excess {
            // The first that cannot be paid is answered, so that a client learns why.
            entry.slipped = !entry.slipped;
            return match entry.slipped {
                true => Verdict::Slip(Rule::Budget),
                false => Verdict::Drop(Rule::Budget),
            };
        }
        let most = u64::from(settings.excess_per_second_total);
        if !self.excess_total.add_within(now_ms, excess.into(), most) {
            return Verdict::Slip(Rule::Total);
        }
        entry.budget -= excess;
        Verdict::Send
    }

    /// Notes the prefix for the log, if it was not noted lately.
    fn name(&self, entry: &mut Entry, now: u32, prefix: Prefix, rule: Rule) {
        if entry.logged && since(now, entry.logged_ms) < LOG_INTERVAL_MS {
            return;
        }
        (entry.logged, entry.logged_ms) = (true, now);
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        if limited.len() < LOG_MAX {
            limited.push(Limited { prefix, rule });
        } else {
            // There is room for it once these are taken, and no need to look before that.
            entry.logged_ms = now.wrapping_sub(LOG_INTERVAL_MS - LOG_AGAIN_MS);
        }
    }

    /// Never 0, which stands for a free entry.
    fn hash(&self, prefix: &Prefix) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        match prefix.address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish() | 1
    }
}

/// The entry with `key`, a new one with a full budget in the place of the least used if need be.
fn find(set: &mut [Entry; WAYS], key: u64, now: u32, burst: u32) -> &mut Entry {
    let idle = |entry: &Entry| match entry.key {
        0 => u64::MAX,
        _ => u64::from(since(now, entry.used_ms)),
    };
    let known = set.iter().position(|entry| entry.key == key);
    let index = known.unwrap_or_else(|| {
        let least_used = (0..WAYS).max_by_key(|&index| idle(&set[index])).unwrap_or(0);
        let fresh = Entry { key, budget: burst, filled_ms: now, second_ms: now, ..FREE };
        set[least_used] = fresh;
        least_used
    });
    set[index].used_ms = now;
    &mut set[index]
}

/// Milliseconds from `then` to `now`. Each thread asks the clock once a batch, so that one may come
/// with a present that is a little older than what another has noted already: no time has passed
/// then, and not the 49 days that the difference modulo 2^32 would say.
fn since(now: u32, then: u32) -> u32 {
    let elapsed = now.wrapping_sub(then);
    if elapsed > u32::MAX - BATCH_AGE_MS_MAX { 0 } else { elapsed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(change: fn(&mut LimitSettings)) -> Limiter {
        let mut settings = LimitSettings::default();
        change(&mut settings);
        Limiter::new(settings, [7; 16])
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn prefixes_are_read_and_contain_what_they_should() {
        let prefix: Prefix = "192.0.2.77/24".parse().unwrap();
        assert_eq!(prefix.to_string(), "192.0.2.0/24");
        assert!(prefix.contains(client(200)) && !prefix.contains([192, 0, 3, 1].into()));
        assert!(prefix.contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().contains(client(1)));
        let v6: Prefix = "2001:db8::/32".parse().unwrap();
        assert!(v6.contains("2001:db8:ffff::1".parse().unwrap()) && !v6.contains(client(1)));
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().to_string(), "192.0.2.1/32");
        for bad in ["", "192.0.2.0/33", "::/129", "192.0.2.0/x", "music"] {
            assert_eq!(bad.parse::<Prefix>(), Err(PrefixError));
        }
    }

    #[test]
    fn a3_a_prefix_spends_its_budget_and_earns_it_again() {
        let limiter = limiter(|_| ());
        let next = |now, last| limiter.check(now, client(last), 100, 1200, false);
        // 200 kB pay for 181 answers with an excess of 1100 octets.
        let sent = (0..181).filter(|_| next(0, 1) == Verdict::Send).count();
        assert_eq!(sent, 181);
        // Everybody in the /24 pays from the same budget; slip and silence take turns.
        assert_eq!(next(0, 1), Verdict::Slip(Rule::Budget));
        assert_eq!(next(0, 2), Verdict::Drop(Rule::Budget));
        assert_eq!(next(0, 3), Verdict::Slip(Rule::Budget));
        // What costs nothing is sent.
        assert_eq!(limiter.check(0, client(1), 100, 100, false), Verdict::Send);
        // 100 kB a second: with the 900 octets left, 2 ms pay for one more.
        assert_eq!(next(2, 1), Verdict::Send);
        assert_eq!(next(2, 1), Verdict::Drop(Rule::Budget));
        // Another prefix has a budget of its own.
        assert_eq!(limiter.check(2, [192, 0, 3, 1].into(), 100, 1200, false), Verdict::Send);
    }

    #[test]
    fn a3_a_thread_with_an_older_present_earns_nothing() {
        let limiter = limiter(|_| ());
        let next = |now| limiter.check(now, client(1), 100, 1100, false);
        assert!((0..200).all(|_| next(5000) == Verdict::Send));
        assert_eq!(next(5000), Verdict::Slip(Rule::Budget));
        // Another thread took its batch a moment earlier: neither budget nor counts begin anew.
        assert_eq!(next(4999), Verdict::Drop(Rule::Budget));
        assert_eq!(next(4000), Verdict::Slip(Rule::Budget));
        let free = |now| limiter.check(now, client(1), 100, 100, false);
        let sent = (0..2000).filter(|n| free(5000 - n % 3) == Verdict::Send).count();
        assert_eq!(sent, 1000 - 202);
        assert_eq!(limiter.check(6000, client(1), 100, 1100, false), Verdict::Send);
    }

    #[test]
    fn a4_answers_and_errors_a_second_are_counted() {
        let limiter = limiter(|_| ());
        let answer = |now| limiter.check(now, client(1), 100, 100, false);
        assert!((0..1000).all(|_| answer(5) == Verdict::Send));
        assert_eq!(
            (answer(5), answer(1004)),
            (Verdict::Drop(Rule::Rate), Verdict::Drop(Rule::Rate))
        );
        assert_eq!(answer(1005), Verdict::Send);
        let error = || limiter.check(1005, client(1), 12, 12, true) == Verdict::Send;
        assert_eq!((0..150).filter(|_| error()).count(), 100);
    }

    #[test]
    fn a4_errors_to_everybody_are_counted_together() {
        let limiter = limiter(|_| ());
        let mut sent = 0;
        for third in 0..100 {
            for _ in 0..50 {
                let client = IpAddr::from([10, 0, third, 1]);
                sent += u32::from(limiter.check(0, client, 12, 12, true) == Verdict::Send);
            }
        }
        assert_eq!(sent, 2000);
    }

    #[test]
    fn a5_the_whole_server_has_a_budget() {
        let limiter = limiter(|_| ());
        let mut octets = 0;
        for host in 0..4000u32 {
            let client = IpAddr::from((0x0A00_0000 + (host << 8)).to_be_bytes());
            match limiter.check(0, client, 100, 1100, false) {
                Verdict::Send => octets += 1000,
                verdict => assert_eq!(verdict, Verdict::Slip(Rule::Total)),
            }
        }
        assert_eq!(octets, 2_000_000);
        assert_eq!(limiter.check(1000, client(1), 100, 1100, false), Verdict::Send);
    }

    #[test]
    fn a6_the_table_has_a_fixed_size_and_forgets_the_least_used() {
        let limiter = limiter(|settings| settings.entries = 8);
        let spend = |now, third| limiter.check(now, [10, 0, third, 1].into(), 100, 200_100, false);
        for third in 0..8 {
            assert_eq!(spend(third.into(), third), Verdict::Send);
        }
        // The ninth takes the place of the first, which then begins with a full budget.
        assert_eq!(spend(8, 8), Verdict::Send);
        assert_eq!(spend(9, 7), Verdict::Slip(Rule::Budget));
        assert_eq!(spend(9, 0), Verdict::Send);
    }

    #[test]
    fn a7_loopback_is_exempt_and_prefixes_are_named_once_in_30_s() {
        let limiter = limiter(|settings| settings.excess_burst = 0);
        assert!(
            limiter.is_exempt([127, 0, 0, 1].into()) && limiter.is_exempt([127, 9, 9, 9].into())
        );
        assert!(limiter.is_exempt(Ipv6Addr::LOCALHOST.into()) && !limiter.is_exempt(client(1)));
        for now in [0, 1, 2, 29_000] {
            limiter.check(now, client(1), 0, 1_000_000, false);
        }
        let named = Limited { prefix: Prefix::of_client(client(1)), rule: Rule::Budget };
        assert_eq!(limiter.take_limited(), [named]);
        limiter.check(30_000, client(1), 0, 1_000_000, false);
        assert_eq!(limiter.take_limited(), [named]);
    }

    #[test]
    fn ipv6_clients_are_counted_by_56_bits() {
        let of = |text: &str| Prefix::of_client(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:ff::1"), of("2001:db8:0:1::2"));
        assert_ne!(of("2001:db8:0:100::1"), of("2001:db8:0:1::2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.9"));
    }
}
