//! The counters of server and listener as words and as JSON. A counter more is a line more here.

use super::console::escape;
use super::json::{Field, Value};
use Value::{Bool, Count, Number, Object, Seconds, Text};
use aodns::client::{ClientStats, State};
use aodns::follow::{Manner, StreamParameters, Trouble};
use aodns::pipeline::play::GapReport;
use aodns::responder::ResponderStats;
use aodns::responder::limit::Rule;
use aodns::server::ServerStats;
use aodns::zone::Outcome;
use std::time::Duration;

/// What a server did, for JSON.
pub fn server_fields(stats: &ServerStats) -> Vec<Field> {
    let answers = &stats.responder;
    vec![
        ("elapsed_s", Seconds(Some(stats.elapsed))),
        ("captured_s", Seconds(Some(stats.captured))),
        ("frames", Count(stats.frames)),
        ("overrun_samples", Count(stats.overrun_samples)),
        ("encode_failures", Count(stats.encode_failures)),
        ("packet_octets", Count(stats.packet_octets)),
        ("record_octets", Count(stats.record_octets)),
        ("segments", Count(stats.segments)),
        ("first_sequence", Count(stats.first)),
        ("next_sequence", Count(stats.next)),
        ("left_out", Count(stats.left_out)),
        ("state_failures", Count(stats.state_failures)),
        ("ended", Bool(stats.ended)),
        ("udp_queries", Count(answers.udp_queries)),
        ("tcp_queries", Count(answers.tcp_queries)),
        ("ignored", Count(answers.ignored)),
        ("answers", Object(outcomes(answers))),
        ("octets_in", Count(answers.octets_in)),
        ("octets_out", Count(answers.octets_out)),
        ("verified", Count(answers.verified)),
        ("held", Count(answers.held)),
        ("released", Count(answers.released)),
        ("hold_expired", Count(answers.hold_expired)),
        ("hold_refused", Count(answers.hold_refused)),
        ("limited_budget", Count(answers.limited_budget)),
        ("limited_total", Count(answers.limited_total)),
        ("dropped_budget", Count(answers.dropped_budget)),
        ("dropped_rate", Count(answers.dropped_rate)),
        ("dropped_errors", Count(answers.dropped_errors)),
        ("receive_errors", Count(answers.receive_errors)),
        ("send_errors", Count(answers.send_errors)),
        ("tcp_open", Count(answers.tcp_open)),
        ("tcp_waiting_octets", Count(answers.tcp_waiting)),
        ("tcp_accepted", Count(answers.tcp_accepted)),
        ("tcp_refused", Count(answers.tcp_refused)),
        ("tcp_timed_out", Count(answers.tcp_timed_out)),
        ("tcp_evicted", Count(answers.tcp_evicted)),
        ("answer_p50_s", Seconds(answers.answer_time(0.5))),
        ("answer_p99_s", Seconds(answers.answer_time(0.99))),
    ]
}

fn outcomes(answers: &ResponderStats) -> Vec<Field> {
    Outcome::ALL.map(|outcome| (outcome.name(), Count(answers.answers_of(outcome)))).into()
}

/// What a listener did, for JSON.
pub fn client_fields(stats: &ClientStats) -> Vec<Field> {
    let (follow, fetch, play) = (&stats.follow, &stats.fetch, &stats.play);
    let playout = &play.playout;
    vec![
        ("elapsed_s", Seconds(Some(stats.elapsed))),
        ("state", Text(Some(state(stats).into()))),
        ("manner", Text(Some(manner(stats.manner).into()))),
        ("first_sound_s", Seconds(stats.first_sound)),
        ("latency_s", Seconds(play.latency)),
        ("target_s", Seconds(play.target)),
        ("buffer_s", Seconds(Some(stats.level))),
        ("drift_ppm", Number(play.drift_ppm)),
        ("correction_ppm", Number(Some(play.correction_ppm))),
        ("underruns", Count(play.underruns)),
        ("written_s", Seconds(Some(play.written))),
        ("segments", Count(follow.segments)),
        ("lost", Count(follow.lost)),
        ("damaged", Count(follow.damaged)),
        ("misses", Count(follow.misses)),
        ("silences", Count(follow.silences)),
        ("refusals", Count(follow.refusals)),
        ("unreadable", Count(follow.unreadable)),
        ("oversized_records", Count(follow.oversized_records)),
        ("oversized_segments", Count(follow.oversized_segments)),
        ("out_of_range", Count(follow.out_of_range)),
        ("stale_lists", Count(follow.stale_lists)),
        ("outages", Count(follow.outages)),
        ("restarts", Count(follow.restarts)),
        ("jumps", Count(follow.jumps)),
        ("gaps", Count(playout.gaps)),
        ("frames_played", Count(playout.played)),
        ("frames_missing", Count(playout.missing)),
        ("frames_stalled", Count(playout.stalled)),
        ("late", Count(playout.late)),
        ("duplicates", Count(playout.duplicates)),
        ("skipped", Count(playout.skipped)),
        ("crowded", Count(playout.crowded)),
        ("undecodable", Count(play.undecodable)),
        ("wrong_duration", Count(play.wrong_duration)),
        ("queries", Count(fetch.queries)),
        ("octets_out", Count(fetch.octets_out)),
        ("octets_in", Count(fetch.octets_in)),
        ("octets_per_second", Number(octets_per_second(stats))),
        ("withheld", Count(fetch.withheld)),
        ("retries", Count(fetch.retries)),
        ("hedged", Count(fetch.hedged)),
        ("negatives", Count(fetch.negatives)),
        ("failures", Count(fetch.failures)),
        ("switches", Count(fetch.switches)),
        ("ignored", Count(fetch.ignored)),
        ("foreign", Count(fetch.foreign)),
        ("malformed", Count(fetch.malformed)),
        ("cname_chains", Count(fetch.cname_chains)),
        ("stale", Count(fetch.stale)),
        ("answers", Count(fetch.answers)),
        ("truncated", Count(fetch.truncated)),
        ("streamed", Count(fetch.streamed)),
        ("connections", Count(fetch.connections)),
        ("renewed_handshakes", Count(fetch.renewed_handshakes)),
        ("socket_errors", Count(fetch.socket_errors)),
        ("refused", Count(fetch.refused)),
        ("overflow", Count(fetch.overflow)),
        ("server", Text(Some(stats.server.to_string()))),
        ("rtt_s", Seconds(stats.rtt)),
        ("loss", Number(Some(stats.loss))),
        ("direct", Bool(stats.direct)),
        ("trouble", Text(play.trouble.map(|(trouble, _)| trouble_words(trouble, stats)))),
        ("stream", play.stream.as_ref().map_or(Text(None), |stream| Object(stream_fields(stream)))),
        ("ended", Bool(play.ended)),
    ]
}

fn stream_fields(stream: &StreamParameters) -> Vec<Field> {
    vec![
        ("codec", Text(Some(stream.codec.name().into()))),
        ("sample_rate", Count(stream.format.rate.hz().into())),
        ("channels", Count(stream.format.channels.count() as u64)),
        ("frame_samples", stream.frame_samples.map_or(Text(None), |samples| Count(samples.into()))),
        ("encoding", Text(Some(stream.ascii.name().into()))),
        ("title", Text(Some(stream.title.clone()))),
    ]
}

/// Octets of DNS messages, both ways, per second of sound.
pub fn octets_per_second(stats: &ClientStats) -> Option<f64> {
    let octets = stats.fetch.octets_in + stats.fetch.octets_out;
    let seconds = stats.play.written.as_secs_f64();
    (seconds > 0.0).then(|| octets as f64 / seconds)
}

fn manner(manner: Manner) -> &'static str {
    match manner {
        Manner::Joining => "joining",
        Manner::Schedule => "schedule",
        Manner::List => "list",
    }
}

/// What the listener is doing, in a word.
pub fn state(stats: &ClientStats) -> &'static str {
    match (stats.state, stats.play.trouble) {
        (State::Ended, _) => "ended",
        (State::Blocked, _) => "blocked",
        (_, Some(_)) | (State::Stalled | State::Unreachable, None) => "waiting",
        (state, None) => state.name(),
    }
}

/// What stands in the way.
pub fn trouble_words(trouble: Trouble, stats: &ClientStats) -> String {
    let fetch = &stats.fetch;
    match trouble {
        Trouble::Silence if fetch.octets_in == 0 && fetch.refused > 0 => {
            "no answer; no server listens at this address and port".into()
        }
        Trouble::Silence if fetch.truncated > 0 && fetch.streamed == 0 => {
            "what does not fit a datagram is not to be had, as nothing answers over TCP; is TCP let \
             through to this port?"
                .into()
        }
        Trouble::Silence if fetch.answers == 0 && fetch.ignored > 0 => {
            "what comes back is no answer to what was asked; is this a DNS server?".into()
        }
        Trouble::Silence if fetch.octets_in == 0 && fetch.socket_errors > 0 => {
            "questions could not be sent; is there a network, and are there descriptors left?"
                .into()
        }
        Trouble::Silence => "no answer".into(),
        Trouble::Refusal(rcode) => format!("the server answers {rcode}"),
        Trouble::UnknownStream => "the stream's codec or encoding is not known here".into(),
        Trouble::NoStream => "there is no stream of this name".into(),
        Trouble::NothingNew => "nothing new is published".into(),
        Trouble::Unreadable => "the stream's records cannot be read".into(),
        _ => format!("{trouble:?}"),
    }
}

/// What the stream is made of.
pub fn stream_words(stream: &StreamParameters) -> String {
    let title = match stream.title.as_str() {
        "" => String::new(),
        title => format!("\"{}\", ", escape(title)),
    };
    format!("{title}{} {} in {}", stream.codec, stream.format, stream.ascii)
}

/// A gap and its cause.
pub fn gap_words(report: &GapReport) -> String {
    let cause = report.gap.cause.text();
    format!("gap at {}: segment {} {cause}", clock(report.at), report.gap.sequence)
}

/// Why a client's answers are limited.
pub fn rule_words(rule: Rule) -> &'static str {
    match rule {
        Rule::Budget => "more octets than its budget",
        Rule::Rate => "too many answers a second",
        Rule::Errors => "too many errors a second",
        Rule::Total => "the budget of the whole server",
    }
}

/// The listener's status line.
pub fn client_line(stats: &ClientStats) -> String {
    let play = &stats.play;
    if stats.state == State::Blocked {
        return format!("blocked: the output takes no sound ({} of it wait)", short(stats.level));
    }
    if let Some((trouble, _)) = play.trouble {
        return format!("waiting: {} ({})", trouble_words(trouble, stats), stats.server);
    }
    let playout = &play.playout;
    let latency = play.latency.map_or("-".into(), short);
    let target = play.target.map_or("-".into(), short);
    let drift = play.drift_ppm.map_or(String::new(), |ppm| format!("  drift {ppm:+.0} ppm"));
    let rtt = stats.rtt.map_or("-".into(), short);
    let gaps = if playout.gaps == 1 { "gap" } else { "gaps" };
    format!(
        "{} {}  latency {latency} (aim {target})  buffer {}{drift}  {} ok {} lost {} {gaps}  \
         {} rtt {rtt}",
        state(stats),
        clock(play.written),
        short(stats.level),
        stats.follow.segments,
        stats.follow.lost,
        playout.gaps,
        stats.server,
    )
}

/// The listener's last words.
pub fn client_report(stats: &ClientStats) -> String {
    let (follow, fetch, play) = (&stats.follow, &stats.fetch, &stats.play);
    let playout = &play.playout;
    let rate = octets_per_second(stats).map_or("-".into(), |rate| format!("{rate:.0} octets/s"));
    rows(&[
        ("time to first sound", stats.first_sound.map_or("-".into(), short)),
        ("latency", play.latency.map_or("unknown".into(), short)),
        ("sound", clock(play.written)),
        ("segments", format!("{}, {} lost, {} late", follow.segments, follow.lost, playout.late)),
        ("gaps", playout.gaps.to_string()),
        ("on the wire", format!("{rate} of sound, {} questions", fetch.queries)),
    ])
}

/// Lines of names and values.
pub fn rows(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.iter().map(|(name, value)| format!("  {name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The server's counter line: what happened since `before`.
pub fn server_line(stats: &ServerStats, before: &ServerStats) -> String {
    let (now, then) = (&stats.responder, &before.responder);
    let kinds = Outcome::ALL.into_iter().filter_map(|outcome| {
        let count = now.answers_of(outcome) - then.answers_of(outcome);
        (count > 0).then(|| format!("{} {count}", outcome.name()))
    });
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    let kinds = if kinds.is_empty() { kinds } else { format!(" ({kinds})") };
    let time = |quantile| now.answer_time(quantile).map_or("-".into(), short);
    format!(
        "{} segments, {} queries{kinds}, {} held, {} truncated, {} limited, {} tcp open, answered \
         in {} (p50) {} (p99)",
        stats.segments - before.segments,
        now.queries() - then.queries(),
        now.held - then.held,
        now.answers_of(Outcome::Truncated) - then.answers_of(Outcome::Truncated),
        limited(now) - limited(then),
        now.tcp_open,
        time(0.5),
        time(0.99)
    )
}

/// Answers cut short or left out by the abuse policy.
pub fn limited(stats: &ResponderStats) -> u64 {
    stats.limited_budget
        + stats.limited_total
        + stats.dropped_budget
        + stats.dropped_rate
        + stats.dropped_errors
}

/// The server's status line.
pub fn server_status(stats: &ServerStats, before: &ServerStats, interval: Duration) -> String {
    let (now, then) = (&stats.responder, &before.responder);
    let rate = |count: u64| count as f64 / interval.as_secs_f64().max(1e-3);
    format!(
        "live {}  {} segments  {:.0} queries/s  {:.1} kB/s out  {} limited",
        clock(stats.captured),
        stats.segments,
        rate(now.queries() - then.queries()),
        rate(now.octets_out - then.octets_out) / 1e3,
        limited(now)
    )
}

/// The server's last words.
pub fn server_report(stats: &ServerStats) -> String {
    let answers = &stats.responder;
    let time = |quantile| answers.answer_time(quantile).map_or("-".into(), short);
    let mut lines = vec![
        ("sound", clock(stats.captured)),
        ("segments", stats.segments.to_string()),
        ("queries", format!("{} udp, {} tcp", answers.udp_queries, answers.tcp_queries)),
        ("octets", format!("{} in, {} out", answers.octets_in, answers.octets_out)),
        ("held", answers.held.to_string()),
        ("limited", limited(answers).to_string()),
        ("answered in", format!("{} (p50), {} (p99)", time(0.5), time(0.99))),
    ];
    if stats.overrun_samples > 0 {
        lines.push(("lost at capture", format!("{} samples", stats.overrun_samples)));
    }
    rows(&lines)
}

/// `1:02:03`, `2:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A time in the unit that suits it: `1.24 s`, `35 ms`, `12 us`.
pub fn short(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        1_000_000.. => format!("{:.2} s", time.as_secs_f64()),
        10_000.. => format!("{} ms", micros / 1000),
        1_000.. => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{micros} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let cases = [(12, "12 us"), (1_500, "1.5 ms"), (35_900, "35 ms"), (1_240_000, "1.24 s")];
        for (micros, words) in cases {
            assert_eq!(short(Duration::from_micros(micros)), words);
        }
        assert_eq!(clock(Duration::from_secs(59)), "0:59");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }

    #[test]
    fn every_outcome_is_in_the_report() {
        let fields = server_fields(&ServerStats::default());
        let json = super::super::json::object(&fields);
        for outcome in Outcome::ALL {
            assert!(json.contains(&format!("\"{}\":0", outcome.name())), "{json}");
        }
    }
}
