//! The command line: three commands, each read by a table of flags ([`flags`]) into a plain struct
//! (`*_args`), checked into a configuration, and only then run. Everything that the program prints
//! goes through [`console`].

pub mod console;
mod demo;
mod demo_args;
pub mod descriptors;
pub mod failure;
mod flags;
mod json;
mod listen;
mod listen_args;
mod log;
mod metrics;
mod report;
mod serve;
mod serve_args;
mod serve_job;
mod signals;
mod sound;
mod values;

use console::print;
use demo_args::{DEMO, DemoJob};
use failure::Failure;
use flags::{Command, Parsed};
use lexopt::{Arg, Parser};
use listen_args::{LISTEN, ListenJob};
use serve_args::SERVE;
use serve_job::ServeJob;

/// The program's form.
const FORM: &str = "aodns serve|listen|demo ...";

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub fn run(mut parser: Parser) -> Result<(), Failure> {
    let wrong = |text: String| Failure::Usage { text, form: FORM.into(), command: "" };
    let word = match parser.next() {
        Ok(Some(Arg::Value(word))) => word.to_string_lossy().into_owned(),
        Ok(Some(Arg::Long("help") | Arg::Short('h'))) => "help".into(),
        Ok(Some(Arg::Long("version") | Arg::Short('V'))) => return print(&version()),
        Ok(Some(Arg::Long(long))) => {
            let shown = console::escape(long);
            return Err(wrong(format!("flags go behind the command, and --{shown} is before it")));
        }
        Ok(Some(Arg::Short(short))) => {
            let shown = console::escape(&short.to_string());
            return Err(wrong(format!("flags go behind the command, and -{shown} is before it")));
        }
        Ok(None) => return Err(wrong("a command is missing".into())),
        Err(error) => return Err(wrong(console::escape(&error.to_string()))),
    };
    match word.as_str() {
        "serve" => command(&SERVE, parser, |args, words| serve::run(ServeJob::new(args, words)?)),
        "listen" => {
            command(&LISTEN, parser, |args, words| listen::run(ListenJob::new(args, words)?))
        }
        "demo" => command(&DEMO, parser, |args, words| demo::run(DemoJob::new(args, words)?)),
        "help" => help(parser),
        word => {
            let shown = console::escape(word);
            let near = flags::nearest(word, ["serve", "listen", "demo", "help"].into_iter());
            let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
            Err(wrong(format!("unknown command {shown}{near}")))
        }
    }
}

fn command<A: Default>(
    command: &Command<A>,
    parser: Parser,
    run: impl FnOnce(A, &[String]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match command.parse(parser)? {
        Parsed::Run { args, operands } => run(args, &operands),
        Parsed::Help => print(&command.help()),
        Parsed::Version => print(&version()),
    }
}

fn help(mut parser: Parser) -> Result<(), Failure> {
    let about = match parser.next() {
        Ok(Some(Arg::Value(word))) => word.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    match about.as_str() {
        "serve" => print(&SERVE.help()),
        "listen" => print(&LISTEN.help()),
        "demo" => print(&DEMO.help()),
        _ => print(&overview()),
    }
}

fn overview() -> String {
    let mut out = String::from("Live audio over DNS.\n\nUsage:\n");
    flags::entry(&mut out, SERVE.form, SERVE.about);
    flags::entry(&mut out, LISTEN.form, LISTEN.about);
    flags::entry(&mut out, DEMO.form, DEMO.about);
    out.push_str("\nFlags:\n");
    flags::entry(&mut out, "<command> --help", "the command's flags");
    flags::entry(&mut out, "-h, --help", "this text");
    flags::entry(&mut out, "-V, --version", "version and features of this build");
    out.push_str("\nExit status: 0 done, 1 failed, 2 wrong command line.\n");
    out
}

fn version() -> String {
    let built = |name, yes| format!("{}{name}", if yes { '+' } else { '-' });
    format!(
        "aodns {} {} {} {}\n",
        env!("CARGO_PKG_VERSION"),
        built("device", cfg!(feature = "device")),
        built("opus", cfg!(feature = "opus")),
        built("codec2", cfg!(feature = "codec2"))
    )
}

/// Rows of a help text.
fn rows(forms: &[(&str, &str)]) -> Vec<(String, String)> {
    forms.iter().map(|(form, meaning)| ((*form).into(), (*meaning).into())).collect()
}
