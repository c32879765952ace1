//! Command lines by table: what a command's flags are called, what they take and what they mean is
//! written once, and reading, help texts and suggestions all follow from it.

use super::failure::Failure;
use lexopt::{Arg, Parser};
use std::ffi::OsString;
use std::fmt::Write;

/// Columns of a help text.
const COLUMNS: usize = 79;
/// Where the explanation of a flag begins.
const MEANING_COLUMN: usize = 26;

/// What a flag does to the arguments of type `A`.
pub enum Takes<A> {
    /// No value.
    Nothing(fn(&mut A)),
    /// A value, which it may refuse with a text that says what would be right.
    Value(&'static str, fn(&mut A, &str) -> Result<(), String>),
}

/// A flag.
pub struct Flag<A: 'static> {
    /// Its name, without the hyphens.
    pub long: &'static str,
    /// Its short name.
    pub short: Option<char>,
    /// What it takes.
    pub takes: Takes<A>,
    /// Whether it may be given more than once.
    pub many: bool,
    /// What it means.
    pub meaning: &'static str,
}

impl<A> Flag<A> {
    /// A flag without a value.
    pub const fn switch(long: &'static str, set: fn(&mut A), meaning: &'static str) -> Flag<A> {
        Flag { long, short: None, takes: Takes::Nothing(set), many: false, meaning }
    }

    /// A flag with a value; `form` shows what the value looks like.
    pub const fn value(
        long: &'static str,
        form: &'static str,
        set: fn(&mut A, &str) -> Result<(), String>,
        meaning: &'static str,
    ) -> Flag<A> {
        Flag { long, short: None, takes: Takes::Value(form, set), many: false, meaning }
    }

    /// The same with a short name.
    pub const fn or(self, short: char) -> Flag<A> {
        Flag { short: Some(short), ..self }
    }

    /// The same, allowed more than once.
    pub const fn repeatable(self) -> Flag<A> {
        Flag { many: true, ..self }
    }

    /// `--bitrate N`.
    pub fn form(&self) -> String {
        match self.takes {
            Takes::Nothing(_) => format!("--{}", self.long),
            Takes::Value(form, _) => format!("--{} {form}", self.long),
        }
    }
}

/// Flags under one heading.
pub type Section<A> = (&'static str, &'static [Flag<A>]);

/// A command of the program.
pub struct Command<A: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// How it is called, without its flags: `aodns serve <root>`.
    pub form: &'static str,
    /// What its operands are.
    pub operands: &'static [(&'static str, &'static str)],
    /// Its flags.
    pub sections: &'static [Section<A>],
    /// What follows the flags in its help text.
    pub tables: fn() -> Vec<Table>,
    /// Examples, with what they do.
    pub examples: &'static [(&'static str, &'static str)],
}

/// A table of a help text: heading and rows.
pub struct Table {
    /// Its heading.
    pub title: &'static str,
    /// What is explained, and how.
    pub rows: Vec<(String, String)>,
}

/// What a command line says.
#[derive(Debug)]
pub enum Parsed<A> {
    /// To do it.
    Run {
        /// The flags.
        args: A,
        /// What is no flag.
        operands: Vec<String>,
    },
    /// To explain it.
    Help,
    /// To tell the version.
    Version,
}

impl<A: Default> Command<A> {
    fn flags(&self) -> impl Iterator<Item = &'static Flag<A>> + '_ {
        self.sections.iter().flat_map(|(_, flags)| flags.iter())
    }

    /// A usage error of this command, with the form of each flag that `text` names.
    pub fn wrong(&self, text: impl Into<String>) -> Failure {
        let text = text.into();
        let word = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        let named = |flag: &&Flag<A>| {
            text.split(word).any(|word| word.strip_prefix("--") == Some(flag.long))
        };
        let mut forms: Vec<String> = self.flags().filter(named).map(Flag::form).collect();
        if forms.is_empty() {
            forms.push("[flags]".into());
        }
        let form = format!("{} {}", self.form, forms.join(" "));
        Failure::Usage { text, form, command: self.name }
    }

    fn wrong_value(&self, flag: &Flag<A>, text: String) -> Failure {
        let form = format!("{} {}", self.form, flag.form());
        Failure::Usage { text, form, command: self.name }
    }

    /// Reads the rest of a command line. Opens nothing.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what is not in the table, comes twice, lacks its value or is refused.
    pub fn parse(&self, mut parser: Parser) -> Result<Parsed<A>, Failure> {
        let mut args = A::default();
        let mut operands = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        loop {
            let arg = match parser.next() {
                Ok(Some(arg)) => arg,
                Ok(None) => return Ok(Parsed::Run { args, operands }),
                Err(error) => return Err(self.wrong(lexopt_words(&error))),
            };
            let (name, flag) = match arg {
                Arg::Value(value) => {
                    operands.push(self.text(value, "an argument")?);
                    continue;
                }
                Arg::Long("help") | Arg::Short('h') => return Ok(Parsed::Help),
                Arg::Long("version") | Arg::Short('V') => return Ok(Parsed::Version),
                Arg::Long(long) => {
                    (format!("--{long}"), self.flags().find(|flag| flag.long == long))
                }
                Arg::Short(short) => {
                    (format!("-{short}"), self.flags().find(|flag| flag.short == Some(short)))
                }
            };
            let Some(flag) = flag else { return Err(self.unknown(&name)) };
            if seen.contains(&flag.long) && !flag.many {
                let text = format!("--{} is given twice; once is enough", flag.long);
                return Err(self.wrong_value(flag, text));
            }
            seen.push(flag.long);
            match flag.takes {
                Takes::Nothing(set) => {
                    // Behind a short flag there may be others.
                    if name.starts_with("--") && parser.optional_value().is_some() {
                        let text = format!("--{} takes no value", flag.long);
                        return Err(self.wrong_value(flag, text));
                    }
                    set(&mut args);
                }
                Takes::Value(form, set) => {
                    let missing = || {
                        let text = format!("--{} needs a value: {form}", flag.long);
                        self.wrong_value(flag, text)
                    };
                    let value = match parser.optional_value() {
                        Some(value) => self.text(value, &name)?,
                        None => {
                            let value = parser.value().map_err(|_| missing())?;
                            let value = self.text(value, &name)?;
                            // Another flag is no value, unless it is tied to the name by `=`.
                            if value.starts_with("--") {
                                return Err(missing());
                            }
                            value
                        }
                    };
                    set(&mut args, &value).map_err(|text| {
                        let shown = super::console::escape(&value);
                        self.wrong_value(flag, format!("--{} {shown}: {text}", flag.long))
                    })?;
                }
            }
        }
    }

    fn text(&self, value: OsString, what: &str) -> Result<String, Failure> {
        value.into_string().map_err(|value| {
            let shown = value.to_string_lossy();
            self.wrong(format!("{what} is not valid UTF-8: {}", super::console::escape(&shown)))
        })
    }

    fn unknown(&self, name: &str) -> Failure {
        let known = self.flags().map(|flag| flag.long).chain(["help", "version"]);
        let shown = super::console::escape(name);
        match nearest(name.trim_start_matches('-'), known) {
            Some(near) => {
                let text = format!("unknown flag {shown}; did you mean --{near}?");
                match self.flags().find(|flag| flag.long == near) {
                    Some(flag) => self.wrong_value(flag, text),
                    None => self.wrong(text),
                }
            }
            None => self.wrong(format!("unknown flag {shown}")),
        }
    }

    /// The help text.
    pub fn help(&self) -> String {
        let mut out = String::new();
        paragraph(&mut out, self.about, 0);
        let _infallible = write!(out, "\nUsage: {} [flags]\n", self.form);
        for (name, meaning) in self.operands {
            entry(&mut out, name, meaning);
        }
        for (title, flags) in self.sections {
            let _infallible = write!(out, "\n{title}:\n");
            for flag in *flags {
                let short = flag.short.map_or("    ".into(), |short| format!("-{short}, "));
                let again = if flag.many { "; may be given several times" } else { "" };
                let meaning = format!("{}{again}", flag.meaning);
                entry(&mut out, &format!("{short}{}", flag.form()), &meaning);
            }
        }
        out.push_str("\nAbout the program:\n");
        entry(&mut out, "-h, --help", "this text");
        entry(&mut out, "-V, --version", "version and features of this build");
        for table in (self.tables)() {
            let _infallible = write!(out, "\n{}:\n", table.title);
            for (term, meaning) in &table.rows {
                entry(&mut out, term, meaning);
            }
        }
        out.push_str("\nExamples:\n");
        for (command, meaning) in self.examples {
            let _infallible = writeln!(out, "  {command}");
            paragraph(&mut out, meaning, 6);
        }
        out
    }
}

/// A term with its explanation, in two columns.
pub fn entry(out: &mut String, term: &str, meaning: &str) {
    let room = MEANING_COLUMN - 4;
    if meaning.is_empty() || term.chars().count() > room {
        let _infallible = writeln!(out, "  {term}");
        if !meaning.is_empty() {
            paragraph(out, meaning, MEANING_COLUMN);
        }
        return;
    }
    let from = out.len();
    paragraph(out, meaning, MEANING_COLUMN);
    let padded = format!("  {term:room$}  ");
    out.replace_range(from..from + MEANING_COLUMN, &padded);
}

/// Text in lines that begin at `column`.
fn paragraph(out: &mut String, text: &str, column: usize) {
    let mut at = 0;
    for word in text.split_whitespace() {
        if at == 0 || at + 1 + word.len() > COLUMNS {
            if at > 0 {
                out.push('\n');
            }
            out.extend(std::iter::repeat_n(' ', column));
            at = column + word.len();
        } else {
            out.push(' ');
            at += 1 + word.len();
        }
        out.push_str(word);
    }
    out.push('\n');
}

/// What was most probably meant by `word`.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    for candidate in known {
        let begins = word.len() >= 3 && candidate.starts_with(word);
        let distance = if begins { 1 } else { distance(word, candidate) };
        let near = distance <= 1 + candidate.len().min(word.len()) / 4;
        if near && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The least number of characters to be put in, left out, replaced or swapped with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

fn lexopt_words(error: &lexopt::Error) -> String {
    super::console::escape(&error.to_string())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Args {
        loud: bool,
        size: Option<String>,
        names: Vec<String>,
    }

    static COMMAND: Command<Args> = Command {
        name: "play",
        about: "Plays.",
        form: "aodns play",
        operands: &[],
        sections: &[(
            "Flags",
            &[
                Flag::<Args>::switch("loud", |a| a.loud = true, "loudly").or('l'),
                Flag::<Args>::value(
                    "size",
                    "N",
                    |a, word| match word {
                        "bad" => Err("N is needed".into()),
                        _ => {
                            a.size = Some(word.into());
                            Ok(())
                        }
                    },
                    "how large",
                )
                .or('s'),
                Flag::<Args>::value(
                    "name",
                    "TEXT",
                    |a, word| {
                        a.names.push(word.into());
                        Ok(())
                    },
                    "what is called, several times",
                )
                .repeatable(),
            ],
        )],
        tables: Vec::new,
        examples: &[],
    };

    fn parse(words: &[&str]) -> Result<(Args, Vec<String>), String> {
        match COMMAND.parse(Parser::from_args(words)) {
            Ok(Parsed::Run { args, operands }) => Ok((args, operands)),
            Ok(_) => panic!("no run"),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Reads `words` as flags of `command`; fails the test when they are none.
    pub fn flags_of<A: Default>(command: &Command<A>, words: &[&str]) -> (A, Vec<String>) {
        match command.parse(Parser::from_args(words)) {
            Ok(Parsed::Run { args, operands }) => (args, operands),
            Ok(_) => panic!("{words:?} ask for help"),
            Err(failure) => panic!("{words:?}: {failure}"),
        }
    }

    /// Checks that each flag sets what it should, alone, and that none is forgotten.
    pub fn check_each<A>(command: &Command<A>, cases: &[(&[&str], A)])
    where
        A: Default + PartialEq + std::fmt::Debug,
    {
        for (words, expected) in cases {
            assert_eq!(&flags_of(command, words).0, expected, "{words:?}");
        }
        for flag in command.flags() {
            let long = format!("--{}", flag.long);
            assert!(cases.iter().any(|(words, _)| words.contains(&&*long)), "{long} is not tested");
        }
        let mut names: Vec<_> = command.flags().map(|flag| flag.long).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), command.flags().count(), "a name is taken twice");
    }

    /// Checks a help text: every flag is there, and it is fit for a narrow terminal.
    pub fn check_help<A: Default>(command: &Command<A>) {
        let help = command.help();
        for line in help.lines() {
            assert!(line.chars().count() <= COLUMNS, "too long: {line}");
            assert_eq!(line, line.trim_end());
        }
        for flag in command.flags() {
            assert!(help.contains(&flag.form()), "--{} is not in the help", flag.long);
        }
    }

    #[test]
    fn values_may_be_tied_or_follow() {
        let expected = Args { loud: true, size: Some("3".into()), ..Args::default() };
        for words in [
            &["-l", "-s", "3"][..],
            &["-ls3"],
            &["-l", "-s=3"],
            &["--loud", "--size=3"],
            &["--size", "3", "-l"],
        ] {
            assert_eq!(parse(words).unwrap().0, expected, "{words:?}");
        }
        let (args, operands) = parse(&["a", "--name", "x", "b", "--name=--y", "--", "-c"]).unwrap();
        assert_eq!(args.names, ["x", "--y"]);
        assert_eq!(operands, ["a", "b", "-c"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_right_form() {
        let cases: [(&[&str], &str); 8] = [
            (&["--size"], "--size needs a value: N\nusage: aodns play --size N\n"),
            (&["--size", "--loud"], "--size needs a value: N\n"),
            (&["--size", "bad"], "--size bad: N is needed\nusage: aodns play --size N\n"),
            (&["--size", "1", "-s2"], "--size is given twice; once is enough\n"),
            (&["--loud=yes"], "--loud takes no value\nusage: aodns play --loud\n"),
            (&["--laud"], "unknown flag --laud; did you mean --loud?\nusage: aodns play --loud\n"),
            (&["--xyzzy"], "unknown flag --xyzzy\nusage: aodns play [flags]\n`aodns play --help`"),
            (&["-x"], "unknown flag -x\n"),
        ];
        for (words, expected) in cases {
            let text = parse(words).unwrap_err();
            assert!(text.starts_with(expected), "{words:?}: {text}");
        }
    }

    #[test]
    fn the_nearest_name_is_suggested_and_nothing_far() {
        let known = ["bitrate", "sample-rate", "state", "ns"];
        let near = |word| nearest(word, known.into_iter());
        assert_eq!(near("bitrat"), Some("bitrate"));
        assert_eq!(near("birtate"), Some("bitrate"));
        assert_eq!(near("samplerate"), Some("sample-rate"));
        assert_eq!(near("sam"), Some("sample-rate"));
        assert_eq!(near("stat"), Some("state"));
        assert_eq!(near("port"), None);
        assert_eq!(near(&"x".repeat(100_000)), None);
    }

    #[test]
    fn help_is_in_two_columns() {
        let help = COMMAND.help();
        assert!(help.contains("\n  -l, --loud              loudly\n"), "{help}");
        assert!(help.contains("\n      --name TEXT         what is called,"), "{help}");
        assert!(
            help.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains("; may be given several times"),
            "{help}"
        );
        check_help(&COMMAND);
    }
}
