//! The fuzz targets' corpus, without a fuzzer: every committed file goes through its body.
//!
//! `cargo test --test corpus -- --ignored` writes the seeds anew; what a fuzzer found is kept
//! beside them under a name of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "support/json.rs"]
mod json;

#[path = "support/seeds.rs"]
mod seeds;

#[path = "support/differential.rs"]
#[allow(dead_code)]
mod differential;

/// A fuzz target's body.
type Body = fn(&[u8]);

/// Every target, as in `fuzz/fuzz_targets`.
const TARGETS: [(&str, Body); 14] = [
    ("ascii", aodns::ascii::fuzz_ascii),
    ("codec", aodns::codec::fuzz_codec),
    ("follower", aodns::follow::fuzz_follower),
    ("jitter_buffer", aodns::playout::fuzz_jitter_buffer),
    ("list", aodns::segment::fuzz_list),
    ("lookup", aodns::lookup::fuzz_lookup),
    ("query", |octets| {
        aodns::wire::fuzz_query(octets);
        differential::compare_query(octets);
    }),
    ("records", aodns::segment::fuzz_records),
    ("resampler", aodns::resample::fuzz_resampler),
    ("respond", aodns::zone::fuzz_respond),
    ("response", aodns::wire::fuzz_response),
    ("segment", aodns::segment::fuzz_segment),
    ("wav", aodns::audio::fuzz_wav),
    ("window", aodns::window::fuzz_window),
];

/// A corpus that is committed stays small.
const FILES_MAX: usize = 48;
const OCTETS_MAX: usize = 1_000_000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a file of the corpus").path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("a file of the corpus")))
        .collect()
}

#[test]
fn every_file_of_the_corpus_goes_through_its_body() {
    let mut octets = 0;
    for (target, body) in TARGETS {
        let files = corpus(target);
        assert!((1..=FILES_MAX).contains(&files.len()), "{target}: {} files", files.len());
        for (path, content) in files {
            octets += content.len();
            // The harness shows this when the body panics.
            println!("{}", path.display());
            body(&content);
        }
    }
    assert!(octets <= OCTETS_MAX, "{octets} octets");
}

#[test]
fn cut_and_empty_files_go_through_every_body() {
    for (target, body) in TARGETS {
        body(&[]);
        for (path, content) in corpus(target) {
            println!("{}", path.display());
            for length in [1, content.len() / 3, content.len() / 2, content.len() * 9 / 10] {
                body(&content[..length.min(content.len())]);
            }
        }
    }
}

#[test]
fn every_target_has_a_body_here_and_every_body_a_target() {
    let here: BTreeSet<String> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    let there = fs::read_dir(fuzz().join("fuzz_targets")).unwrap().map(|entry| {
        entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".rs").to_string()
    });
    assert_eq!(there.collect::<BTreeSet<_>>(), here);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let names = manifest.lines().filter_map(|line| line.strip_prefix("name = \""));
    let built: BTreeSet<_> = names.skip(1).map(|name| name.trim_end_matches('"').into()).collect();
    assert_eq!(built, here);

    // Each body in the sources is the body of a target.
    let mut shims = String::new();
    for name in &here {
        let path = fuzz().join("fuzz_targets").join(format!("{name}.rs"));
        shims.push_str(&fs::read_to_string(path).unwrap());
    }
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut bodies = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                let Some(rest) = line.strip_prefix("pub fn fuzz_") else { continue };
                let name = rest.split('(').next().unwrap();
                assert!(shims.contains(&format!("fuzz_{name}(")), "no target runs fuzz_{name}");
                bodies += 1;
            }
        }
    }
    assert!(bodies >= TARGETS.len(), "{bodies} bodies");
}

#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_the_seeds() {
    for (target, name, octets) in seeds::all() {
        let directory = fuzz().join("corpus").join(target);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), octets).unwrap();
    }
}
