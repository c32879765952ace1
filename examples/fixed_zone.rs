//! The responder alone, over records that never change; for measuring it beside other servers.
//!
//! `cargo run --release --example fixed_zone -- PORT ZONEFILE`: answers at 127.0.0.1:PORT for 75
//! segments of 12 records, 2.2 kB each, writes the same zone as a file for other servers, and goes
//! on until its standard input ends. Loopback clients may take datagrams of 4096 octets.

use aodns::publication::Publication;
use aodns::responder::{Responder, ResponderSettings};
use aodns::segment::Segment;
use aodns::units::{Moment, SampleRate};
use aodns::window::Window;
use aodns::wire::{Name, write_txt_record};
use aodns::zone::{NameServer, Zone};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of the first segment.
const FIRST: u64 = 17_955_718_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: fixed_zone PORT ZONEFILE";
    let port: u16 = arguments.next().ok_or(usage)?.parse()?;
    let path = arguments.next().ok_or(usage)?;
    let root: Name = "music.example.com".parse()?;
    let now = Moment { instant: Instant::now(), unix_ms: FIRST * 100 };
    let mut window = Window::new(75, SampleRate::HZ_16000, Duration::from_millis(720), FIRST, now);
    let mut file = format!(
        "$ORIGIN {root}.\n@ 1 SOA ns hostmaster 1 5 2 3600 1\n@ 3600 NS ns\nns 3600 A 127.0.0.1\n"
    );
    for n in 0..75 {
        // Texts as they come from Opus at 16 kHz mono: 120 to 180 characters.
        let text = |i: u64| "k".repeat(150 + ((n * 12 + i) * 7 % 40) as usize);
        let strings: Vec<_> = (0..12).map(|i| format!("{i:03}'''{}", text(i))).collect();
        for string in &strings {
            file += &format!("seq_{} 43 TXT \"{string}\"\n", FIRST + n);
        }
        let strings = strings.into_iter().map(String::into_bytes).collect();
        window.publish(&Segment { strings }, 12 * 960, now);
    }
    let snapshot = window.snapshot();
    let list = snapshot.list().ok_or("nothing listed")?;
    let escaped: String = list[13..].iter().map(|octet| format!("\\{octet:03}")).collect();
    file += &format!("sequence 10 TXT \"{escaped}\"\n");
    std::fs::File::create(path)?.write_all(file.as_bytes())?;

    let mut config = Vec::new();
    write_txt_record(&mut config, 60, b"v=1");
    let name = root.child(b"ns").ok_or("no name")?;
    let zone = Zone {
        name_servers: vec![NameServer { name, addresses: vec![[127, 0, 0, 1].into()] }],
        root,
        id: 1,
        config: config.into(),
        cookies: None,
        server_id: None,
        version: None,
        keepalive: Duration::from_secs(10),
    };
    let mut settings = ResponderSettings::new(vec![([127, 0, 0, 1], port).into()]);
    settings.trusted = vec!["127.0.0.0/8".parse()?];
    settings.trusted_payload_max = 4096;
    let publication = Arc::new(Publication::new(snapshot));
    let responder = Responder::start(settings, Arc::new(zone), publication)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let stats = responder.stats();
    eprintln!(
        "{} UDP and {} TCP queries, answered within {:?} (median), {:?} (99 %)",
        stats.udp_queries,
        stats.tcp_queries,
        stats.answer_time(0.5).unwrap_or_default(),
        stats.answer_time(0.99).unwrap_or_default()
    );
    responder.stop()?;
    Ok(())
}
