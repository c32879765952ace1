//! `aodns demo`: its command line.

use super::failure::Failure;
use super::flags::{self, Command, Table};
use super::values::{put, seconds, word};
use aodns::audio::SinkKind;
use std::time::Duration;

/// How long it lasts when nothing is said.
const SECONDS: Duration = Duration::from_secs(15);

/// The flags as they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DemoArgs {
    pub seconds: Option<Duration>,
    pub output: Option<SinkKind>,
    pub json: bool,
}

/// A flag of this command.
type Flag = flags::Flag<DemoArgs>;

/// The command.
pub static DEMO: Command<DemoArgs> = Command {
    name: "demo",
    about: "Streams the built-in programme from a server to a listener through real DNS messages, \
            both in this process, and reports how that went.",
    form: "aodns demo",
    operands: &[],
    sections: &[(
        "Flags",
        &[
            Flag::value(
                "seconds",
                "N",
                |a, w| put(&mut a.seconds, seconds(w, 3.0..=86_400.0)),
                "how long it lasts, 3 or more (default: 15)",
            ),
            Flag::value(
                "output",
                "SPEC",
                |a, w| put(&mut a.output, word(w)),
                "where the sound goes, see below (default: the default sound output; \
                 aodns-demo.wav where there is none)",
            )
            .or('o'),
            Flag::switch(
                "json",
                |a| a.json = true,
                "JSON lines on standard output; on standard error when that carries the sound",
            ),
        ],
    )],
    tables: || vec![Table { title: "Sound (SPEC)", rows: super::rows(SinkKind::ALL) }],
    examples: &[("aodns demo --seconds 5 -o demo.wav", "five seconds into a file")],
};

/// What `demo` is to do.
#[derive(Clone, Debug)]
pub struct DemoJob {
    /// How long it lasts.
    pub duration: Duration,
    /// Where the sound goes; `None` chooses.
    pub sink: Option<SinkKind>,
    /// Whether to write JSON lines.
    pub json: bool,
}

impl DemoJob {
    /// What follows from a command line. Opens nothing.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what does not fit together.
    pub fn new(args: DemoArgs, operands: &[String]) -> Result<DemoJob, Failure> {
        if let Some(word) = operands.first() {
            let shown = super::console::escape(word);
            return Err(DEMO.wrong(format!("demo takes flags alone; what is {shown}?")));
        }
        let duration = args.seconds.unwrap_or(SECONDS);
        Ok(DemoJob { duration, sink: args.output, json: args.json })
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::tests::{check_each, check_help, flags_of};
    use super::*;

    #[test]
    fn each_flag_sets_its_field() {
        let args = |seconds, output, json| DemoArgs { seconds, output, json };
        let cases: Vec<(&[&str], DemoArgs)> = vec![
            (&["--seconds", "5"], args(Some(Duration::from_secs(5)), None, false)),
            (&["--output", "null"], args(None, Some(SinkKind::Null), false)),
            (&["-o", "x.wav"], args(None, Some(SinkKind::Wav("x.wav".into())), false)),
            (&["--json"], args(None, None, true)),
        ];
        check_each(&DEMO, &cases);
        check_help(&DEMO);
    }

    #[test]
    fn it_lasts_fifteen_seconds_and_takes_flags_alone() {
        let (args, operands) = flags_of(&DEMO, &[]);
        assert_eq!(DemoJob::new(args, &operands).unwrap().duration, Duration::from_secs(15));
        let (args, operands) = flags_of(&DEMO, &["5"]);
        let text = DemoJob::new(args, &operands).unwrap_err().to_string();
        assert!(text.starts_with("demo takes flags alone; what is 5?"), "{text}");
    }
}
