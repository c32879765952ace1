//! The server's path without its threads and sockets, for a very long time: encoder, asciializer,
//! packer, window, snapshot, zone. Every answer is read back as a listener reads it.
//!
//! Acceptance: white noise at 48 kHz stereo, digital silence, a 24-hour run in simulated time,
//! windows of 2, 75 and 1000 segments, numbers up to 2^63: no crash, no string that is too long, no
//! segment that is listed and missing.

use aodns::ascii::{AsciiKind, Asciializer};
use aodns::codec::{Decoder, Encoder};
use aodns::segment::{PackLimits, Packer, Reassembled, Segment, decode_list};
use aodns::units::{Channels, Format, Moment, SampleRate, Sequence};
use aodns::window::{RETENTION, Snapshot, Window, first_sequence};
use aodns::wire::{Answer, QueryTemplate, Rcode, Rtype};
use aodns::zone::{Disposition, HOLD_AHEAD, Request, Transport, Zone, tests_support};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[path = "support/stamp.rs"]
mod stamp;
use stamp::{Stamp, StampDecoder, StampEncoder, stamp_of};

const DEFAULTS: PackLimits = PackLimits {
    string_octets_max: 250,
    segment_octets_max: 2000,
    packets_max: 12,
    records_octets_max: usize::MAX,
};

fn start() -> Moment {
    Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 }
}

/// A server made of its state machines, and a listener that doubts it.
struct Station {
    encoder: Box<dyn Encoder>,
    decoder: Box<dyn Decoder>,
    ascii: Box<dyn Asciializer>,
    limits: PackLimits,
    packer: Packer,
    window: Window,
    /// As published last; everything is answered from it.
    snapshot: Snapshot,
    capacity: u64,
    zone: Zone,
    format: Format,
    now: Moment,
    packet: Vec<u8>,
    frames: u64,
    /// Number, first frame and packets of the segments that must be answered: those in the window,
    /// and those that left it a short while ago, with the time when they did.
    published: VecDeque<(Sequence, u64, usize)>,
    left: VecDeque<(Instant, (Sequence, u64, usize))>,
    first_unpublished_frame: u64,
    strings: u64,
    longest_string: usize,
}

impl Station {
    fn new(
        encoder: Box<dyn Encoder>,
        decoder: Box<dyn Decoder>,
        format: Format,
        ascii: AsciiKind,
        limits: PackLimits,
        capacity: usize,
        first: Sequence,
    ) -> Station {
        let (now, ascii) = (start(), ascii.build());
        let longest = format.rate.duration((encoder.frame_samples() * limits.packets_max) as u64);
        let window = Window::new(capacity, format.rate, longest, first, now);
        Station {
            packet: vec![0; ascii.packet_octets_max(limits.text_chars_max())],
            snapshot: window.snapshot(),
            window,
            packer: Packer::new(limits),
            capacity: capacity as u64,
            zone: tests_support::zone_and_snapshot(now).0,
            encoder,
            decoder,
            ascii,
            limits,
            format,
            now,
            frames: 0,
            published: VecDeque::new(),
            left: VecDeque::new(),
            first_unpublished_frame: 0,
            strings: 0,
            longest_string: 0,
        }
    }

    /// Encodes one frame; returns whether that published a segment.
    fn feed(&mut self, pcm: &[i16]) -> bool {
        let octets = self.encoder.encode(pcm, &mut self.packet).expect("the frame is encoded");
        let mut text = Vec::new();
        self.ascii.encode(&self.packet[..octets], &mut text);
        assert!(text.len() <= self.limits.text_chars_max(), "{} characters", text.len());
        self.frames += 1;
        let frame = self.format.rate.duration(self.encoder.frame_samples() as u64);
        self.now = self.now.after(frame);
        let Some(segment) = self.packer.push(&text) else { return false };
        self.publish(&segment);
        true
    }

    fn publish(&mut self, segment: &Segment) {
        let packets = segment.strings.len();
        let samples = (packets * self.encoder.frame_samples()) as u64;
        let number = self.window.publish(segment, samples, self.now);
        self.snapshot = self.window.snapshot();
        let expected = self.published.back().map_or(number, |(newest, ..)| newest + 1);
        assert_eq!(number, expected, "numbers go up by one");
        self.published.push_back((number, self.first_unpublished_frame, packets));
        self.first_unpublished_frame += packets as u64;
        if self.published.len() as u64 > self.capacity {
            let oldest = self.published.pop_front().expect("more than the capacity");
            self.left.push_back((self.now.instant, oldest));
        }
        let now = self.now.instant;
        while self.left.front().is_some_and(|(at, _)| now - *at >= RETENTION) {
            self.left.pop_front();
        }
    }

    /// Asks a question over TCP.
    fn ask(&self, label: &str, may_hold: bool) -> Option<Answer> {
        let name = self.zone.root.child(label.as_bytes()).expect("a short label");
        let asked = QueryTemplate { name, qtype: Rtype::TXT, edns: true, cookie: Vec::new() };
        let (mut query, mut out) = (Vec::new(), Vec::new());
        asked.write(7, &mut query);
        let request = Request {
            message: &query,
            transport: Transport::Tcp,
            client: [127, 0, 0, 1].into(),
            now: self.now,
            may_hold,
            limited: false,
        };
        match self.zone.respond(&self.snapshot, &request, &mut out) {
            Disposition::Reply(_) => {
                assert!(out.len() <= 65_535, "{label}: {} octets", out.len());
                Some(Answer::read(&out, 7, &asked).unwrap_or_else(|e| panic!("{label}: {e}")))
            }
            Disposition::Hold { .. } => None,
            Disposition::Drop => panic!("{label}: dropped"),
        }
    }

    /// The numbers listed, which are the newest without a gap, in one string.
    fn list(&self) -> Vec<Sequence> {
        let answer = self.ask("sequence", true).expect("a list is not held");
        let [text] = &answer.texts[..] else { panic!("{} strings", answer.texts.len()) };
        assert!(text.len() <= 255, "a list of {} characters", text.len());
        let list = decode_list(text).expect("a good list");
        let (oldest, _, _) = *self.published.front().expect("something is published");
        let (newest, _, _) = *self.published.back().expect("something is published");
        let (first, last) = (list[0], list[list.len() - 1]);
        assert!(first >= oldest && last == newest, "{first} to {last}, not {oldest} to {newest}");
        assert!(list.iter().copied().eq(first..=last), "no gap");
        // Whatever their size, 75 numbers fit.
        assert!(list.len() >= self.published.len().min(75), "{} numbers", list.len());
        list
    }

    /// Asks for a segment, reads it as a listener does, and returns its packets.
    fn fetch(&mut self, (number, _, packets): (Sequence, u64, usize)) -> Vec<Vec<u8>> {
        let answer = self.ask(&format!("seq_{number}"), true);
        let answer = answer.unwrap_or_else(|| panic!("{number} is listed and held"));
        assert_eq!(answer.rcode, Rcode::NOERROR);
        assert_eq!(answer.texts.len(), packets, "{number} is listed and missing, or in part");
        assert!(answer.ttl >= 5, "{number}: TTL {}", answer.ttl);
        for string in &answer.texts {
            assert!(string.len() <= self.limits.string_octets_max, "{}", string.len());
            self.longest_string = self.longest_string.max(string.len());
            self.strings += 1;
        }
        let segment = Reassembled::from_strings(&answer.texts, &*self.ascii);
        assert_eq!((segment.packets.len(), segment.damaged), (packets, 0), "{number}");
        segment.packets.into_iter().flatten().collect()
    }

    /// Checks the list, and each listed segment; with `quick`, only those at both ends, and the
    /// oldest that left the window and must still be there.
    fn check(&mut self, quick: bool) {
        let list = self.list();
        let mut wanted: Vec<_> = self.published.iter().copied().collect();
        wanted.retain(|(number, ..)| *number >= list[0]);
        if quick && wanted.len() > 2 {
            wanted = vec![wanted[0], wanted[wanted.len() - 1]];
        }
        wanted.extend(self.left.front().map(|(_, segment)| *segment));
        for segment in wanted {
            self.fetch(segment);
        }
    }

    /// As [`Station::check`] in full, and the stamps of the packets are those of their frames.
    fn check_stamps(&mut self) {
        let list = self.list();
        let all: Vec<_> = self.published.iter().copied().collect();
        let mut pcm = vec![0; self.decoder.frame_samples() * self.format.channels.count()];
        for segment in all {
            let (number, first_frame, _) = segment;
            // What the list has no room for is answered all the same.
            let listed = if number >= list[0] { "listed" } else { "not listed" };
            for (index, packet) in self.fetch(segment).iter().enumerate() {
                self.decoder.decode(Some(packet), &mut pcm).expect("a good packet");
                let stamp = Stamp::Frame(first_frame + index as u64);
                assert_eq!(stamp_of(&pcm), stamp, "{number}, {listed}");
            }
        }
    }
}

/// Runs for 24 hours with stamps for sound, in segments of `packets` of 60 ms.
fn a_day(capacity: usize, packets: usize, first: Sequence) -> Station {
    let format = Format::new(SampleRate::HZ_16000, Channels::MONO);
    let limits = PackLimits { segment_octets_max: 64_000, packets_max: packets, ..DEFAULTS };
    let mut station = Station::new(
        Box::new(StampEncoder::new(format, 960, 40)),
        Box::new(StampDecoder::new(format, 960)),
        format,
        AsciiKind::Base91,
        limits,
        capacity,
        first,
    );
    let day = Duration::from_secs(24 * 60 * 60);
    let frames = day.as_millis() as u64 / 60;
    let pcm = vec![0; 960];
    let mut segments = 0u64;
    let mut serial = station.snapshot.serial();
    for frame in 0..frames {
        // At noon, the wall clock is put back by an hour.
        if frame == frames / 2 {
            station.now.unix_ms -= 3_600_000;
        }
        if !station.feed(&pcm) {
            continue;
        }
        segments += 1;
        let snapshot = &station.snapshot;
        let step = snapshot.serial().wrapping_sub(serial);
        assert!((1..1 << 31).contains(&step), "the serial goes forward");
        serial = snapshot.serial();
        assert_eq!(snapshot.next() - first, segments);
        // A full look every so often; at the start, while the window fills, more often.
        if segments % 997 == 0 || [1, 2, 3, 74, 75, 76, 77].contains(&segments) {
            station.check_stamps();
        }
        if segments % 16 == 0 || segments < 200 {
            station.check(true);
            // The next one is held when it is due soon, and denied without being cached before.
            let next = format!("seq_{}", station.snapshot.next());
            let due = station.snapshot.due(station.snapshot.next()).expect("the stream goes on");
            let soon = due - station.now.instant <= HOLD_AHEAD;
            match station.ask(&next, true) {
                None => assert!(soon, "{next} is held too early"),
                Some(answer) => {
                    assert_eq!((answer.rcode, answer.texts.len()), (Rcode::NOERROR, 0));
                    assert!(!soon && answer.negative_ttl.is_some_and(|ttl| ttl <= 1), "{next}");
                }
            }
        }
    }
    station.check_stamps();
    assert_eq!(segments, frames / packets as u64);
    assert_eq!(station.frames, frames);
    station
}

#[test]
fn a_day_with_a_window_of_75_that_crosses_2_to_the_63() {
    let station = a_day(75, 12, (1 << 63) - 60_000);
    assert!(station.snapshot.next() > 1 << 63);
}

#[test]
fn a_day_with_a_window_of_2() {
    // From the wall clock with the default segments, and from 0 with the largest ones.
    a_day(2, 12, first_sequence(start().unix_ms, None));
    a_day(2, 100, 0);
}

#[test]
fn a_day_with_a_window_of_1000() {
    let station = a_day(1000, 100, 1 << 63);
    let snapshot = &station.snapshot;
    assert_eq!(snapshot.next() - snapshot.first(), 1000);
    assert!(snapshot.left_out() > 0, "a list of 1000 does not fit");
}

#[test]
fn segments_of_one_packet_in_every_window() {
    for capacity in [2, 75, 1000] {
        let format = Format::new(SampleRate::HZ_16000, Channels::MONO);
        let mut station = Station::new(
            Box::new(StampEncoder::new(format, 960, 100)),
            Box::new(StampDecoder::new(format, 960)),
            format,
            AsciiKind::Base91,
            PackLimits { packets_max: 1, ..DEFAULTS },
            capacity,
            (1 << 63) - 500,
        );
        for segment in 0..1_200 {
            assert!(station.feed(&vec![0; 960]));
            station.check(segment % 100 != 0);
        }
        station.check_stamps();
    }
}

#[cfg(any(feature = "opus", feature = "codec2"))]
mod sound {
    use super::*;
    use aodns::codec::{CodecKind, EncoderSettings, build_decoder, build_encoder};

    /// xorshift64*: white noise of full scale, the same on every machine.
    struct Noise(u64);

    impl Noise {
        fn fill(&mut self, pcm: &mut [i16]) {
            for sample in pcm {
                self.0 ^= self.0 >> 12;
                self.0 ^= self.0 << 25;
                self.0 ^= self.0 >> 27;
                *sample = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 48) as i16;
            }
        }
    }

    /// Runs `seconds` of noise and as much of silence through a real codec; returns the station.
    fn sound(
        settings: &EncoderSettings,
        ascii: AsciiKind,
        packets_max: usize,
        seconds: u64,
    ) -> Station {
        let format = settings.format;
        let samples = settings.frame_samples().expect("good settings");
        let encoder = build_encoder(settings).expect("an encoder");
        let decoder = build_decoder(settings.kind, format, Some(samples), format.rate);
        let limits = PackLimits { packets_max, ..DEFAULTS };
        let first = first_sequence(start().unix_ms, None);
        let decoder = decoder.expect("a decoder");
        let mut station = Station::new(encoder, decoder, format, ascii, limits, 75, first);
        let mut pcm = vec![0; samples * format.channels.count()];
        let mut heard = vec![0; pcm.len()];
        let frames = format.rate.samples(Duration::from_secs(seconds)) / samples as u64;
        let mut noise = Noise(7);
        for part in 0..2 {
            for _ in 0..frames {
                match part {
                    0 => noise.fill(&mut pcm),
                    _ => pcm.fill(0),
                }
                if station.feed(&pcm) {
                    station.check(true);
                    let newest = *station.published.back().expect("just published");
                    for packet in station.fetch(newest) {
                        let decoded = station.decoder.decode(Some(&packet), &mut heard);
                        assert_eq!(decoded, Ok(samples), "{format}");
                    }
                }
            }
            station.check(false);
            if part == 0 && settings.kind == CodecKind::Opus {
                assert!(station.longest_string > 100, "noise fills the strings");
            }
        }
        station
    }

    #[cfg(feature = "opus")]
    fn opus(hz: u32, channels: Channels) -> EncoderSettings {
        let mut settings = EncoderSettings::new(CodecKind::Opus);
        settings.format = Format::new(SampleRate::new(hz).expect("a rate"), channels);
        settings
    }

    #[cfg(feature = "opus")]
    #[test]
    fn minutes_of_noise_and_silence_at_48_khz_stereo() {
        let station = sound(&opus(48_000, Channels::STEREO), AsciiKind::Base91, 12, 120);
        assert_eq!(station.frames, 4_000);
        // Noise takes the average rate, which is seven tenths of what the strings can hold.
        assert!((165..=250).contains(&station.longest_string), "{}", station.longest_string);
    }

    #[cfg(feature = "opus")]
    #[test]
    fn noise_and_silence_at_every_rate() {
        for rate in SampleRate::STREAM_RATES {
            for channels in [Channels::MONO, Channels::STEREO] {
                sound(&opus(rate.hz(), channels), AsciiKind::Base91, 12, 20);
            }
        }
    }

    #[cfg(feature = "opus")]
    #[test]
    fn noise_and_silence_in_every_text_and_segments_closed_by_size() {
        for ascii in AsciiKind::ALL {
            // Digital silence fills a segment by size only after a hundred packets.
            let station = sound(&opus(48_000, Channels::STEREO), ascii, 100, 8);
            assert!(station.strings > 250, "{ascii}: {} strings", station.strings);
        }
    }

    #[cfg(feature = "codec2")]
    #[test]
    fn noise_and_silence_in_codec2() {
        for kind in CodecKind::ALL.into_iter().filter(|kind| *kind != CodecKind::Opus) {
            sound(&EncoderSettings::new(kind), AsciiKind::Base91, 12, 10);
        }
    }
}
