//! The architecture's rules, read off the source text: who may import whom, and where sockets,
//! threads, clocks, output and foreign crates may stand.
//!
//! A rule that is in the way of something good is changed here, in the open. Tests and fuzz bodies
//! inside the sources are exempt from all but the last few rules.

use std::fs;
use std::path::Path;

/// The modules from the bottom up. A file may import only from lines above its own module's line.
const LAYERS: &[&[&str]] = &[
    &["units"],
    // Octets and samples.
    &["wire", "ascii", "codec", "resample"],
    // What TXT records carry; sound devices and files.
    &["segment", "audio"],
    // State machines that take the time as an argument.
    &["window", "lookup", "follow"],
    &["zone", "publication", "upstream", "playout"],
    &["fetch"],
    &["error"],
    // Threads.
    &["pipeline"],
    // Sockets.
    &["responder"],
    &["server", "client"],
    // The program; it sees the library from outside.
    &["lib"],
    &["cli"],
    &["main"],
];

/// Imports that go up all the same: the file, the module, and why. None is needed now.
const UPWARD: &[(&str, &str, &str)] = &[];

/// Words, and the only files and directories (as prefixes below `src/`) that may hold them.
const PLACES: &[(&str, &[&str], &[&str])] = &[
    (
        "a socket",
        &["UdpSocket", "TcpStream", "TcpListener", "UnixStream", "UnixListener", "UnixDatagram"],
        &["server", "responder", "client", "cli/metrics.rs"],
    ),
    (
        "a thread",
        &["std::thread", "thread::spawn", "thread::sleep", "thread::Builder"],
        // The command line waits for a signal, and serves its counters.
        &["pipeline", "server", "responder", "client", "audio/device", "cli"],
    ),
    (
        "a clock",
        &["Instant::now", "SystemTime::now", ".elapsed("],
        // A sound device tells the time by its callbacks.
        &["pipeline", "server", "responder", "client", "main", "cli", "audio/device"],
    ),
    (
        "output or exit",
        &["process::exit", "println!", "eprintln!", "print!", "eprint!"],
        &["main", "cli"],
    ),
];

/// Every dependency, and where it may be named.
const CRATES: &[(&str, &[&str])] = &[
    ("base91", &["ascii"]),
    ("codec2", &["codec/codec2.rs"]),
    ("cpal", &["audio/device"]),
    ("crossbeam_channel", &["pipeline", "server", "responder", "client", "audio/device"]),
    ("data_encoding", &["ascii"]),
    ("flate2", &["segment"]),
    ("getrandom", &["server", "responder", "client"]),
    ("hound", &["audio/wav.rs", "audio/wav_sink.rs"]),
    ("lexopt", &["main", "cli"]),
    ("mio", &["responder/tcp.rs", "responder/tcp"]),
    (
        "nix",
        &[
            "responder",
            "client",
            "pipeline",
            "cli/signals.rs",
            "cli/descriptors.rs",
            "cli/console.rs",
        ],
    ),
    ("opus", &["codec/opus.rs"]),
    ("signal_hook", &["main", "cli"]),
    ("siphasher", &["zone", "responder/limit.rs"]),
    ("socket2", &["responder", "client"]),
    // In tests alone; why is told in src/wire.rs.
    ("dns_parser", &[]),
];

/// What is unfinished or left behind; nowhere.
const NOWHERE: &[&str] = &["todo!", "unimplemented!", "dbg!"];

const LINES_MAX: usize = 1200;

/// What is wrong with the file at `path` (below `src/`), one line each.
fn check_source(path: &str, text: &str) -> Vec<String> {
    let mut found = check_any(path, text);
    let code = without_tests(text);
    let lines: Vec<&str> = code.iter().map(|(_, line)| strip_comment(line)).collect();
    let mut say = |at: usize, what: String| found.push(format!("src/{path}:{}: {what}", at + 1));

    let own = module_of(path);
    match layer_of(own) {
        None => say(0, format!("module {own} is on no layer: give it one in tests/tidy.rs")),
        Some(own_layer) => {
            for ((at, _), line) in code.iter().zip(&lines) {
                for (place, _) in line.match_indices("crate::") {
                    if place > 0 && is_word(line.as_bytes()[place - 1]) {
                        continue;
                    }
                    let rest = &line[place + "crate::".len()..];
                    for module in first_segments(rest) {
                        let below = layer_of(module).is_some_and(|layer| layer < own_layer);
                        let known = UPWARD.iter().any(|(p, m, _)| (*p, *m) == (path, module));
                        if module != own && !below && !known {
                            say(*at, format!("{own} imports {module}, which is not below it"));
                        }
                    }
                }
            }
        }
    }
    for ((at, _), line) in code.iter().zip(&lines) {
        for (what, words, places) in PLACES {
            if !is_in(path, places) {
                for word in words.iter().filter(|word| has_word(line, word)) {
                    say(*at, format!("{word}: {what} has no place here"));
                }
            }
        }
        for (name, places) in CRATES {
            if !is_in(path, places) && names_crate(line, name) {
                say(*at, format!("the crate {name} is not named here"));
            }
        }
    }
    for (index, ((at, whole), line)) in code.iter().zip(&lines).enumerate() {
        let above = index.checked_sub(1).map_or("", |before| code[before].1.trim());
        let commented =
            whole.len() > line.len() || above.starts_with("//") && !above.starts_with("//!");
        if line.contains(".unwrap()") && !commented {
            say(*at, "unwrap() without a comment naming the invariant".into());
        }
        if let Some((_, message)) = line.split_once(".expect(") {
            // A message of two words or more, or a comment.
            let quoted = message.strip_prefix('"').and_then(|rest| rest.split('"').next());
            let told = quoted.is_some_and(|quoted| quoted.contains(' '));
            if !told && !commented {
                say(*at, "expect() without a message naming the invariant".into());
            }
        }
    }
    found
}

/// What holds for sources, tests and fuzz targets alike, tests inside included.
fn check_any(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!("{path}:1: does not open with //!"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path}: {lines} lines; split it"));
    }
    for (at, line) in text.lines().enumerate() {
        for word in NOWHERE.iter().filter(|word| has_word(strip_comment(line), word)) {
            found.push(format!("{path}:{}: {word}", at + 1));
        }
    }
    found
}

/// The top-level module that `audio/wav.rs` or `audio.rs` belongs to.
fn module_of(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or_default()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Whether `path` is one of `places` or below it.
fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| {
        path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
    })
}

fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'_'
}

/// Whether `word` stands in `line`, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let octets = line.as_bytes();
    line.match_indices(word).any(|(at, _)| {
        let ends = |edge: Option<&u8>, own: u8| !is_word(own) || edge.is_none_or(|&o| !is_word(o));
        let (first, last) = (word.as_bytes()[0], word.as_bytes()[word.len() - 1]);
        ends(at.checked_sub(1).map(|before| &octets[before]), first)
            && ends(octets.get(at + word.len()), last)
    })
}

/// Whether `line` names the crate: `name::` at the start of a path, or `use name`.
fn names_crate(line: &str, name: &str) -> bool {
    let octets = line.as_bytes();
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].trim_end();
        let begins = !before.ends_with("::") && (at == 0 || !is_word(octets[at - 1]));
        let after = &line[at + name.len()..];
        let used = before.ends_with("use") && after.starts_with([';', ' ']);
        let external = before.ends_with("extern crate");
        (begins && (after.starts_with("::") || used)) || external
    })
}

/// The modules that a path behind `crate::` begins with: one, or those in braces.
fn first_segments(rest: &str) -> Vec<&str> {
    let word = |text: &str| text.bytes().take_while(|&octet| is_word(octet)).count();
    let Some(group) = rest.strip_prefix('{') else { return vec![&rest[..word(rest)]] };
    let mut depth = 0;
    let parts = group.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth <= 0
    });
    let names = parts.map(|part| &part.trim()[..word(part.trim())]);
    names.filter(|name| !name.is_empty()).collect()
}

/// The line without its comment. (A string with `//` in it is cut too, which hides little.)
fn strip_comment(line: &str) -> &str {
    let at = line.match_indices("//").map(|(at, _)| at);
    let mut at = at.filter(|&at| at == 0 || line.as_bytes()[at - 1].is_ascii_whitespace());
    line[..at.next().unwrap_or(line.len())].trim_end()
}

/// The lines, numbered from 0, that are neither tests nor fuzz bodies.
fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    // The indentation of the item that is being left out.
    let mut leaving: Option<usize> = None;
    for (at, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim();
        let exempt = trimmed.starts_with("#[cfg(test)]")
            || trimmed.starts_with("#[cfg(all(test")
            || trimmed.starts_with("pub fn fuzz_")
            || trimmed.starts_with("pub mod tests_support");
        if leaving.is_none() && exempt {
            leaving = Some(indent);
        } else if leaving.is_none() {
            kept.push((at, line));
        }
        let attribute = trimmed.starts_with("#[");
        let ends = trimmed.ends_with(['}', ';', ',']) && !attribute;
        if leaving == Some(indent) && ends {
            leaving = None;
        }
    }
    kept
}

/// The Rust files below `directory`, as paths below it, with their text.
fn sources(directory: &str) -> Vec<(String, String)> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).expect("a directory of sources") {
            let path = entry.expect("an entry of a directory").path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).expect("below the root").to_string_lossy();
                let text = fs::read_to_string(&path).expect("a source in UTF-8");
                found.push((below.replace('\\', "/"), text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort();
    found
}

#[test]
fn the_sources_keep_the_rules() {
    let files = sources("src");
    assert!(files.len() > 20, "the sources are where they were");
    let mut found = Vec::new();
    for (path, text) in &files {
        // Nothing in a file of a fuzz body runs in the program.
        let body = path.ends_with("/fuzz.rs");
        found.extend(if body { check_any(path, text) } else { check_source(path, text) });
    }
    for directory in ["tests", "fuzz/fuzz_targets"] {
        for (path, text) in sources(directory) {
            let path = format!("{directory}/{path}");
            if path != "tests/tidy.rs" {
                found.extend(check_any(&path, &text));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_exception_is_out_of_use() {
    for (path, module, _) in UPWARD {
        let (_, text) = sources("src").into_iter().find(|(found, _)| found == path).unwrap();
        assert!(text.contains(&format!("crate::{module}::")), "{path} does not import {module}");
        assert!(layer_of(module) >= layer_of(module_of(path)), "that is no exception");
    }
}

#[test]
fn every_dependency_has_its_place() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest = manifest.unwrap();
    let (_, rest) = manifest.split_once("\n[dependencies]\n").expect("a section of dependencies");
    let section = rest.split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#') && line.contains('='));
    let names: Vec<_> =
        lines.map(|l| l.split('=').next().unwrap().trim().replace('-', "_")).collect();
    assert!(names.len() > 10);
    for name in &names {
        assert!(CRATES.iter().any(|(known, _)| known == name), "where may {name} be named?");
    }
}

/// Each rule finds what breaks it: the file, the text, and a part of what is said about it.
#[test]
fn every_rule_can_fail() {
    for (path, text, complaint) in [
        ("wire.rs", "//! x\nuse crate::zone::Zone;", "src/wire.rs:2: wire imports zone"),
        ("wire.rs", "//! x\nfn f() { crate::client::g() }", "wire imports client"),
        ("segment.rs", "//! x\nuse crate::{units::Pcm, zone::{A, B}};", "segment imports zone"),
        ("lookup.rs", "//! x\nuse crate::playout::Play;", "lookup imports playout"),
        ("audio/wav.rs", "//! x\nuse crate::error::Error;", "audio imports error"),
        ("novel.rs", "//! x", "module novel is on no layer"),
        ("zone.rs", "//! x\nuse std::net::{IpAddr, UdpSocket};", "UdpSocket: a socket has no"),
        ("follow.rs", "//! x\nfn f() { std::thread::yield_now() }", "a thread has no place"),
        ("audio/wav.rs", "//! x\nfn f() { thread::sleep(x) }", "a thread has no place"),
        ("playout.rs", "//! x\nfn f() { Instant::now(); }", "a clock has no place"),
        ("lookup.rs", "//! x\nfn f() { SystemTime::now(); }", "a clock has no place"),
        ("playout.rs", "//! x\nfn f() { start.elapsed(); }", "a clock has no place"),
        ("pipeline.rs", "//! x\nfn f() { println!(); }", "println!: output"),
        ("server.rs", "//! x\nfn f() { eprintln!(); }", "eprintln!: output"),
        ("client.rs", "//! x\nfn f() { std::process::exit(1) }", "process::exit: output or exit"),
        ("zone.rs", "//! x\nuse crossbeam_channel::Sender;", "crate crossbeam_channel"),
        ("audio.rs", "//! x\nfn f(x: &cpal::Device) {}", "crate cpal"),
        ("segment.rs", "//! x\nuse base91;", "crate base91"),
        ("wire.rs", "//! x\nuse dns_parser::Packet;", "crate dns_parser"),
        ("codec.rs", "//! x\nfn f() { opus::version() }", "crate opus"),
        ("wire.rs", "//! x\nfn f() { x.unwrap() }", "src/wire.rs:2: unwrap()"),
        ("wire.rs", "//! x\nfn f() { x.expect(\"good\") }", "expect()"),
        ("wire.rs", "//! x\nfn f() { x.expect(&text) }", "expect()"),
        ("wire.rs", "use std::fmt;", "does not open with //!"),
        ("wire.rs", "//! x\n#[cfg(test)]\nmod tests {\n    fn f() { todo!() }\n}", "4: todo!"),
        ("wire.rs", "//! x\nfn f() { unimplemented!() }", "unimplemented!"),
        ("wire.rs", "//! x\nfn f() { dbg!(1); }", "dbg!"),
        // The exempt part has an end.
        ("wire.rs", "//! x\n#[cfg(test)]\nmod t {\n}\nfn f() { Instant::now() }", "5: Instant"),
        ("wire.rs", "//! x\npub fn fuzz_x() {\n}\nfn f() { Instant::now() }", "4: Instant"),
        ("wire.rs", "//! x\n#[cfg(test)]\nmod tests;\nuse crate::zone;", "4: wire imports zone"),
    ] {
        let found = check_source(path, text);
        assert!(found.iter().any(|line| line.contains(complaint)), "{text}\n{found:?}");
        assert_eq!(found.len(), 1, "{text}\n{found:?}");
    }
    let long = format!("//! x\n{}", "\n".repeat(LINES_MAX));
    assert_eq!(check_source("wire.rs", &long).len(), 1);
    assert_eq!(check_any("tests/x.rs", "fn f() { dbg!() }").len(), 2);
}

#[test]
fn what_keeps_the_rules_is_left_alone() {
    for (path, text) in [
        ("zone.rs", "//! x\nuse crate::wire::{self, Name};\nuse crate::window::Snapshot;"),
        ("fetch.rs", "//! x\nuse crate::{lookup::Lookup, wire::{Name, Rtype}};"),
        ("audio/wav.rs", "//! x\nuse crate::resample::Resampler;\nuse crate::audio::mix;"),
        ("client/link.rs", "//! x\nuse std::net::TcpStream;\nfn f() { Instant::now(); }"),
        ("audio/device/host.rs", "//! x\nuse cpal::traits;\nuse crossbeam_channel::bounded;"),
        ("codec.rs", "//! x\nuse self::opus::encoder;\nmod codec2;"),
        ("cli/flags.rs", "//! x\nuse lexopt::Parser;\nfn f() { println!(); }"),
        ("main.rs", "//! x\nfn f() { std::process::exit(1) }"),
        ("wire.rs", "//! x\n// Instant::now() is not asked here; todo! neither.\nfn f() {}"),
        ("wire.rs", "//! x\nfn f() {\n    // Two octets were read.\n    x.unwrap()\n}"),
        ("wire.rs", "//! x\nfn f() { x.expect(\"writing to memory does not fail\") }"),
        ("wire.rs", "//! x\n#[cfg(test)]\nmod tests {\n    fn f() { Instant::now().unwrap() }\n}"),
        ("wire.rs", "//! x\npub fn fuzz_x() {\n    Instant::now().unwrap()\n}"),
        ("wire.rs", "//! x\nfn f() { my_println!(); eprintln_count(); }"),
    ] {
        let found = check_source(path, text);
        assert!(found.is_empty(), "{text}\n{found:?}");
    }
}
