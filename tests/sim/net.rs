//! Paths between the players of the simulation, and the dice for everything.

use std::time::Duration;

/// A small generator (splitmix64): the same seed, the same run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    pub fn chance(&mut self, part: f64) -> bool {
        ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < part
    }
}

/// One path, the same both ways. Loss strikes each packet in each direction by itself.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub rtt: Duration,
    pub loss: f64,
    /// Part of the datagrams that come twice.
    pub duplicates: f64,
    /// Part of the datagrams that come 150 ms late.
    pub late: f64,
    /// Part of the answers before which a forged one comes.
    pub forged: f64,
}

impl Path {
    pub fn new(rtt_ms: u64, loss_percent: u32) -> Path {
        Path {
            rtt: Duration::from_millis(rtt_ms),
            loss: f64::from(loss_percent) / 100.0,
            duplicates: 0.0,
            late: 0.0,
            forged: 0.0,
        }
    }

    /// One way, with a jitter of up to 3 ms.
    pub fn way(&self, dice: &mut Dice) -> Duration {
        self.rtt / 2 + Duration::from_micros(200 + dice.next() % 2_800)
    }

    /// When the copies of a datagram arrive, from now.
    pub fn datagram(&self, dice: &mut Dice) -> Vec<Duration> {
        if dice.chance(self.loss) {
            return Vec::new();
        }
        let late = if dice.chance(self.late) { Duration::from_millis(150) } else { Duration::ZERO };
        let mut arrivals = vec![self.way(dice) + late];
        if dice.chance(self.duplicates) {
            arrivals.push(self.way(dice) + Duration::from_millis(5));
        }
        arrivals
    }

    /// How long a message of `octets` takes on a connection that is there. A packet that is lost is
    /// sent again after the round trip when one behind it came (RFC 8985), else when the timer runs
    /// out: a round trip and 200 ms, then twice that, and so on (RFC 6298).
    pub fn stream(&self, dice: &mut Dice, octets: usize) -> Duration {
        let mut arrival = Duration::ZERO;
        let packets = octets.div_ceil(1400).max(1);
        for packet in 0..packets {
            let mut delay = Duration::ZERO;
            let mut timer = self.rtt + Duration::from_millis(200);
            let mut again = 0;
            while dice.chance(self.loss) && again < 6 {
                let seen = again == 0 && packet + 1 < packets && !dice.chance(self.loss);
                delay += if seen { self.rtt * 5 / 4 } else { timer };
                timer *= if seen { 1 } else { 2 };
                again += 1;
            }
            arrival = arrival.max(delay);
        }
        arrival + self.way(dice)
    }

    /// How long it takes until a connection can be written to: SYN and SYN+ACK, sent again after
    /// `timer`, then twice that time, and so on.
    pub fn handshake(&self, dice: &mut Dice, mut timer: Duration) -> Duration {
        let mut delay = Duration::ZERO;
        while dice.chance(1.0 - (1.0 - self.loss) * (1.0 - self.loss))
            && delay < Duration::from_secs(20)
        {
            delay += timer;
            timer *= 2;
        }
        delay + self.way(dice) + self.way(dice)
    }
}
