//! How far behind the live edge to play, and how to get there unheard: [`Steering`].
//!
//! The *latency* is the time from capture to play. Its target follows what the segments that came
//! so far needed: it is above the highest of them, which fades slowly, and above the usual one by
//! as much as lost attempts may take. The latency is brought to the target by playing a little
//! faster or slower, half a percent at most and twice that in the first two minutes, which also makes
//! up for the drift between the server's sample clock and that of the sound card. While nothing is to
//! be corrected the rate is exact.
//!
//! Latencies jitter with the publish times that they are reckoned from, and where none are known,
//! the buffer's level saws with each arrival; so both are filtered by rank before they steer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The largest correction, in parts per million: 9 hundredths of a semitone.
const CORRECTION_PPM_MAX: f64 = 5_000.0;
/// For this long after the start what is far off is corrected twice as fast: who began too far behind
/// would stay there for minutes, and the pitch is nothing that a listener has got used to.
const BRISK: Duration = Duration::from_secs(120);
/// See [`BRISK`].
const BRISK_FACTOR: f64 = 2.0;
/// Correction for each second that the latency is off.
const PPM_PER_SECOND: f64 = 10_000.0;
/// And as much more for each second beyond [`NEAR`], so that a second does not take minutes.
const PPM_PER_SECOND_FAR: f64 = 40_000.0;
/// In seconds. What is off by less is corrected by at most two thousandths.
const NEAR: f64 = 0.2;
/// The least correction towards the target, so that the last of it does not take minutes either.
const PPM_MIN: f64 = 300.0;
/// The latency is left alone until it is off by this, in seconds.
const TOLERANCE: f64 = 0.03;
/// And brought to within this.
const TOLERANCE_ACTIVE: f64 = 0.004;
/// A level of a buffer without known publish times saws; it is left alone until it is off by this.
const TOLERANCE_LEVEL: f64 = 0.4;
/// More than enough is no harm, and is left alone for longer.
const TOLERANCE_LEVEL_HIGH: f64 = 1.5;
/// Over the highest need and the usual one with its allowance.
const MARGIN: Duration = Duration::from_millis(20);
/// The highest need fades to the usual one with this time constant, in seconds.
const PEAK_FADE: f64 = 180.0;
/// The target does not fall faster than the correction can follow, in seconds per second.
const TARGET_FALL_MAX: f64 = 0.004;
/// For this long after the start it does, and high needs fade sooner, down to this time constant:
/// while connections are made and nothing is known, segments take longer than they will.
const SETTLING: Duration = Duration::from_secs(60);
/// See [`SETTLING`]; in seconds.
const PEAK_FADE_MIN: f64 = 10.0;
/// Beyond its target by more than this, and more than lost attempts may take, the latency is brought
/// back by leaving something out.
const EXCESS_MAX: Duration = Duration::from_secs(3);
/// And what was within that is not brought back before it is beyond it by this: a target that falls a
/// little is no reason for an interruption.
const EXCESS_MORE: Duration = Duration::from_secs(1);
/// After an interruption, this much is left out already,
const EXCESS_AT_RETURN: Duration = Duration::from_millis(300);
/// where no more than this is allowed for lost attempts.
const ALLOWANCE_AT_RETURN_MAX: Duration = Duration::from_millis(1000);
/// What comes later than lost attempts may explain, by this, was not held up by them.
const BEYOND_CHANCE: Duration = Duration::from_millis(1000);
/// No target is beyond this.
const TARGET_MAX: Duration = Duration::from_secs(15);
/// Needs that are looked back on.
const NEEDS: usize = 48;
/// Latencies that the median is taken of.
const LATENCIES: usize = 7;
/// The least level of this time counts, where a level is all there is: a list comes every 4 to 11 s.
const LEVEL_SPAN: Duration = Duration::from_secs(16);
/// And it is held at this.
const LEVEL_TARGET: Duration = Duration::from_millis(1500);
/// And taken down gently, in parts per million.
const LEVEL_CORRECTION_PPM_MAX: f64 = 1_000.0;
/// Drift is measured over this time,
const DRIFT_SPAN: Duration = Duration::from_secs(240);
/// at least over this,
const DRIFT_SPAN_MIN: Duration = Duration::from_secs(90);
/// by a latency every so often.
const DRIFT_INTERVAL: Duration = Duration::from_secs(1);
/// Drift below this is left to the tolerance, in parts per million.
const DRIFT_PPM_MIN: f64 = 15.0;

/// Chooses the target of the latency and the correction of the playing rate.
#[derive(Debug)]
pub struct Steering {
    fixed: Option<Duration>,
    needs: VecDeque<Duration>,
    allowance: Duration,
    /// The highest need, fading, in seconds, and when it was looked at.
    peak: Option<(f64, Instant)>,
    target: Option<Duration>,
    /// When playing began.
    started: Option<Instant>,
    /// The latest latency near the target, since it last changed at once.
    near: Option<Duration>,
    latencies: VecDeque<f64>,
    levels: VecDeque<(Instant, f64)>,
    /// Whether the latency is being brought to the target.
    active: bool,
    correction_ppm: f64,
    /// Seconds by which corrections changed the latency so far.
    corrected: f64,
    corrected_at: Option<Instant>,
    /// Latencies as they would be without correction.
    drifting: VecDeque<(Instant, f64)>,
    drift_ppm: Option<f64>,
    /// Whether the drift is being made up for.
    drift_active: bool,
}

impl Steering {
    /// Keeps to the latency `fixed`, or to the least that segments allow.
    pub fn new(fixed: Option<Duration>) -> Steering {
        Steering {
            fixed,
            needs: VecDeque::new(),
            allowance: Duration::ZERO,
            peak: None,
            target: None,
            started: None,
            near: None,
            latencies: VecDeque::new(),
            levels: VecDeque::new(),
            active: false,
            correction_ppm: 0.0,
            corrected: 0.0,
            corrected_at: None,
            drifting: VecDeque::new(),
            drift_ppm: None,
            drift_active: false,
        }
    }

    /// The latency aimed at, once it is known.
    pub fn target(&self) -> Option<Duration> {
        self.target
    }

    /// The correction of the playing rate, in parts per million: positive plays faster.
    pub fn correction_ppm(&self) -> f64 {
        self.correction_ppm
    }

    /// How much faster the listener plays than the server captures, in parts per million, once it
    /// was measured.
    pub fn drift_ppm(&self) -> Option<f64> {
        self.drift_ppm
    }

    /// Playing begins with this latency.
    pub fn handle_start(&mut self, now: Instant, latency: Option<Duration>) {
        self.handle_jump(now);
        self.levels.clear();
        self.started = Some(now);
        self.target = self.fixed.or(latency.map(|latency| latency.min(TARGET_MAX)));
    }

    /// Time since the start; long, if there was none.
    fn playing_for(&self, now: Instant) -> Duration {
        self.started.map_or(Duration::MAX, |started| now.saturating_duration_since(started))
    }

    /// How much faster than later corrections are made.
    fn briskness(&self, now: Instant) -> f64 {
        if self.playing_for(now) < BRISK { BRISK_FACTOR } else { 1.0 }
    }

    /// By how much `latency` is so far beyond the target that playing faster is not worth while.
    pub fn excess(&mut self, latency: Duration) -> Option<Duration> {
        let excess = latency.saturating_sub(self.target?);
        let most = EXCESS_MAX.max(self.allowance);
        if excess <= most {
            self.near = Some(latency);
        }
        let crept = self.near.is_some_and(|near| latency < near + EXCESS_MORE);
        let most = if crept { most + EXCESS_MORE } else { most };
        (excess > most).then_some(excess)
    }

    /// By how much `latency` is beyond the target after an interruption: what is beyond it then was silent
    /// anyway. `None` on a path where attempts are lost, as the next segments may be as late.
    pub fn excess_at_return(&self, latency: Duration) -> Option<Duration> {
        let excess = latency.saturating_sub(self.target?);
        let calm = self.allowance <= ALLOWANCE_AT_RETURN_MAX;
        let most = if calm { EXCESS_AT_RETURN } else { BEYOND_CHANCE };
        (excess > most).then_some(excess)
    }

    /// The latency changed at once: by a wait, or by leaving something out.
    pub fn handle_jump(&mut self, now: Instant) {
        self.account(now);
        self.near = None;
        self.latencies.clear();
        self.drifting.clear();
    }

    /// A segment came that took `need` from capture to arrival, and could have taken `allowance`
    /// more, had attempts been lost.
    pub fn handle_need(&mut self, now: Instant, need: Duration, allowance: Duration) {
        self.needs.push_back(need);
        if self.needs.len() > NEEDS {
            self.needs.pop_front();
        }
        self.allowance = allowance;
        let usual = self.usual().unwrap_or(need).as_secs_f64();
        let faded = self.peak.map_or(0.0, |(peak, at)| {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            let settled = self.playing_for(now).as_secs_f64() / 2.0;
            let fade = settled.clamp(PEAK_FADE_MIN, PEAK_FADE);
            usual + (peak - usual).max(0.0) * (-passed / fade).exp()
        });
        let fall = self.peak.map_or(0.0, |(_, at)| match self.playing_for(now) < SETTLING {
            true => TARGET_MAX.as_secs_f64(),
            false => {
                let passed = now.saturating_duration_since(at).as_secs_f64();
                passed * TARGET_FALL_MAX * self.briskness(now)
            }
        });
        let chance = Duration::from_secs_f64(usual) + self.allowance + BEYOND_CHANCE;
        let outage = self.needs.len() >= NEEDS / 4 && need > chance;
        let need = if outage { Duration::ZERO } else { need };
        let peak = faded.max(need.as_secs_f64()).min(TARGET_MAX.as_secs_f64());
        self.peak = Some((peak, now));
        if let Some(fixed) = self.fixed {
            // Nearer than what every segment takes is no use: each would be late.
            let least = Duration::from_secs_f64(usual) + MARGIN;
            self.target = Some(if self.needs.len() >= 3 { fixed.max(least) } else { fixed });
        } else if self.needs.len() >= 3 {
            let spread = Duration::from_secs_f64(peak);
            let lossy = Duration::from_secs_f64(usual) + self.allowance;
            let target = (spread.max(lossy) + MARGIN).min(TARGET_MAX);
            let least = self.target.map_or(Duration::ZERO, |target| {
                target.saturating_sub(Duration::from_secs_f64(fall)).min(TARGET_MAX)
            });
            self.target = Some(target.max(least));
        }
    }

    /// What a segment needs when no attempt is lost.
    fn usual(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.needs.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 4).copied()
    }

    /// A segment begins to play, with this latency.
    pub fn handle_latency(&mut self, now: Instant, latency: Duration) {
        self.account(now);
        let latency = latency.as_secs_f64();
        self.measure_drift(now, latency);
        self.latencies.push_back(latency);
        if self.latencies.len() > LATENCIES {
            self.latencies.pop_front();
        }
        let Some(target) = self.target else { return };
        let mut sorted: Vec<f64> = self.latencies.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let off = sorted[sorted.len() / 2] - target.as_secs_f64();
        self.steer(off, TOLERANCE, CORRECTION_PPM_MAX, self.briskness(now));
    }

    /// A segment begins to play whose capture time is not known, with this much sound buffered.
    pub fn handle_level(&mut self, now: Instant, level: Duration) {
        self.account(now);
        self.levels.push_back((now, level.as_secs_f64()));
        while self.levels.len() > 1 && now.saturating_duration_since(self.levels[0].0) > LEVEL_SPAN
        {
            self.levels.pop_front();
        }
        let full = now.saturating_duration_since(self.levels[0].0) > LEVEL_SPAN / 2;
        let least = self.levels.iter().map(|level| level.1).fold(f64::MAX, f64::min);
        if full {
            let off = least - LEVEL_TARGET.as_secs_f64();
            match off > 0.0 {
                true => self.steer(off, TOLERANCE_LEVEL_HIGH, LEVEL_CORRECTION_PPM_MAX, 1.0),
                false => self.steer(off, TOLERANCE_LEVEL, CORRECTION_PPM_MAX, 1.0),
            }
        }
    }

    /// Chooses the correction for a latency that is off by `off` seconds, within `ppm_max`. What is far
    /// off is corrected `briskness` times as fast as a settled listener does, and so is the limit.
    fn steer(&mut self, off: f64, tolerance: f64, ppm_max: f64, briskness: f64) {
        let within = if self.active { tolerance * TOLERANCE_ACTIVE / TOLERANCE } else { tolerance };
        self.active = off.abs() > within;
        let drift = match self.drift_ppm {
            Some(ppm) if self.drift_active => -ppm,
            _ => 0.0,
        };
        let far = off.signum() * (off.abs() - NEAR.max(tolerance)).max(0.0);
        let pull = off * PPM_PER_SECOND + far * PPM_PER_SECOND_FAR * briskness;
        let pull = match (self.active, self.drift_active) {
            (true, _) => off.signum() * pull.abs().max(PPM_MIN),
            (false, true) => pull,
            (false, false) => 0.0,
        };
        let ppm_max = ppm_max * briskness;
        self.correction_ppm = (drift + pull).clamp(-ppm_max, ppm_max);
    }

    /// Adds up what the correction did since it was looked at last.
    fn account(&mut self, now: Instant) {
        let passed =
            self.corrected_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.corrected += passed.as_secs_f64() * self.correction_ppm * 1e-6;
        self.corrected_at = Some(now);
    }

    /// Fits a line to the latencies as they would be without correction.
    fn measure_drift(&mut self, now: Instant, latency: f64) {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.drifting.back().is_some_and(|&(at, _)| since(at) < DRIFT_INTERVAL) {
            return;
        }
        self.drifting.push_back((now, latency + self.corrected));
        while self.drifting.front().is_some_and(|&(at, _)| since(at) > DRIFT_SPAN) {
            self.drifting.pop_front();
        }
        let first = self.drifting[0].0;
        if since(first) < DRIFT_SPAN_MIN {
            return;
        }
        let count = self.drifting.len() as f64;
        let time = |at: Instant| at.saturating_duration_since(first).as_secs_f64();
        let mean_time = self.drifting.iter().map(|&(at, _)| time(at)).sum::<f64>() / count;
        let mean = self.drifting.iter().map(|&(_, latency)| latency).sum::<f64>() / count;
        let (mut products, mut squares) = (0.0, 0.0);
        for &(at, latency) in &self.drifting {
            products += (time(at) - mean_time) * (latency - mean);
            squares += (time(at) - mean_time).powi(2);
        }
        // A latency that grows is that of a listener who plays too slowly.
        let ppm = (-1e6 * products / squares).clamp(-2_000.0, 2_000.0);
        self.drift_ppm = Some(ppm);
        let least = if self.drift_active { DRIFT_PPM_MIN / 3.0 } else { DRIFT_PPM_MIN };
        self.drift_active = ppm.abs() > least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A listener whose clock is off by `ppm`, over segments of 720 ms, with a latency that jitters
    /// by up to `jitter`; returns the latency at the end, and the greatest and least of the last half.
    fn follow(ppm: f64, jitter: f64, hours: f64) -> (f64, f64, f64, Steering) {
        let mut steering = Steering::new(None);
        let start = Instant::now();
        let mut latency = 1.0;
        steering.handle_start(start, Some(1000 * MS));
        let (mut time, mut random) = (0.0, 1u64);
        let (mut most, mut least) = (0.0f64, 9.0f64);
        while time < hours * 3600.0 {
            time += 0.72;
            latency -= 0.72 * (ppm + steering.correction_ppm()) * 1e-6;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let noise = ((random >> 40) as f64 / f64::from(1 << 23) - 1.0) * jitter;
            let now = start + Duration::from_secs_f64(time);
            steering.handle_need(now, 740 * MS, 240 * MS);
            steering.handle_latency(now, Duration::from_secs_f64(latency + noise));
            if time > hours * 1800.0 {
                (most, least) = (most.max(latency), least.min(latency));
            }
        }
        (latency, most, least, steering)
    }

    #[test]
    fn drift_of_500_ppm_is_made_up_for() {
        for ppm in [500.0, -500.0, 40.0] {
            let (_, most, least, steering) = follow(ppm, 0.004, 1.0);
            assert!(most < 1.04 && least > 0.96, "{ppm}: {least} to {most}");
            let measured = steering.drift_ppm().unwrap();
            assert!((measured - ppm).abs() < 15.0, "{ppm}: {measured}");
        }
    }

    #[test]
    fn without_drift_nothing_is_corrected() {
        let (_, most, least, steering) = follow(0.0, 0.004, 1.0);
        assert_eq!(steering.correction_ppm(), 0.0);
        assert_eq!((most, least), (1.0, 1.0));
    }

    #[test]
    fn the_target_rises_at_once_and_decays_slowly() {
        let mut steering = Steering::new(None);
        let mut now = Instant::now();
        let mut need = |steering: &mut Steering, need: Duration| {
            now += 720 * MS;
            steering.handle_need(now, need, 240 * MS);
            steering.target().unwrap_or_default()
        };
        let calm = (0..10).map(|_| need(&mut steering, 740 * MS)).last();
        assert_eq!(calm, Some(1000 * MS));
        assert_eq!(need(&mut steering, 2000 * MS), 2020 * MS);
        let soon = (0..14).map(|_| need(&mut steering, 740 * MS)).last().unwrap();
        assert!(soon > 1900 * MS && soon < 2000 * MS, "{soon:?} after 10 s");
        let later = (0..1000).map(|_| need(&mut steering, 740 * MS)).last().unwrap();
        assert!(later < 1010 * MS, "{later:?} after 12 min");
        assert!(need(&mut steering, 3600 * 1000 * MS) <= TARGET_MAX, "bounded");
    }

    #[test]
    fn what_is_far_behind_is_brought_back_but_not_because_the_target_falls_a_little() {
        let mut steering = Steering::new(Some(1000 * MS));
        let now = Instant::now();
        steering.handle_start(now, None);
        assert_eq!(steering.excess(4100 * MS), Some(3100 * MS));
        assert_eq!(steering.excess(3900 * MS), None);
        assert_eq!(steering.excess(4100 * MS), None, "it was near");
        assert_eq!(steering.excess(4950 * MS), Some(3950 * MS), "a second at once");
        steering.handle_jump(now);
        assert_eq!(steering.excess(4100 * MS), Some(3100 * MS), "after a wait it counts anew");
        steering.handle_need(now, 740 * MS, 6000 * MS);
        assert_eq!(steering.excess(6900 * MS), None, "lost attempts may take as long");
    }

    #[test]
    fn a_fixed_latency_that_nothing_can_have_is_raised_to_what_can_be_had() {
        let mut steering = Steering::new(Some(500 * MS));
        let now = Instant::now();
        steering.handle_start(now, Some(750 * MS));
        (0..9).for_each(|_| steering.handle_need(now, 740 * MS, 240 * MS));
        assert_eq!(steering.target(), Some(760 * MS));
    }

    #[test]
    fn a_fixed_latency_stays() {
        let mut steering = Steering::new(Some(1500 * MS));
        let now = Instant::now();
        steering.handle_start(now, Some(1700 * MS));
        (0..9).for_each(|n| steering.handle_need(now, (740 + 500 * (n % 3)) * MS, 240 * MS));
        assert_eq!(steering.target(), Some(1500 * MS));
        steering.handle_latency(now, 1700 * MS);
        assert!((steering.correction_ppm() - 2_000.0).abs() < 0.1);
        for (later, ppm) in [(Duration::ZERO, 10_000.0), (BRISK, 5_000.0)] {
            steering.handle_jump(now + later);
            steering.handle_latency(now + later, 2000 * MS);
            assert_eq!(steering.correction_ppm(), ppm, "far off, after {later:?}");
        }
    }
}
