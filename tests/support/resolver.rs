//! Real caching resolvers from Debian packages, in front of an authoritative server on loopback.
//!
//! Not a model of a resolver: programs and defaults are those of the package, as far as caching,
//! sizes, retries and letter case go. Set otherwise are only the address to listen on, where files
//! and messages go, no DNSSEC validation (there is no chain of trust to a test's root), and that
//! the one root domain is asked of the given server. All other names are refused or denied by the
//! resolver itself, so that no query ever leaves the machine.
//!
//! unbound, BIND and PowerDNS Recursor iterate from the given server (RD=0), as they would from a
//! delegation; Knot Resolver and dnsmasq can only forward to it (RD=1).
//!
//! Known to work: unbound 1.17 and 1.26, BIND 9.18 and 9.20, Knot Resolver 5.6 and 5.7, PowerDNS
//! Recursor 4.8 and 5.2, dnsmasq 2.90 and 2.91 (Debian 12 and 13), as root or as anybody else.

#![allow(dead_code)] // every test binary uses a part of this

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::process::{Process, TempDir, find_program, free_port};

/// How long a resolver may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How many ports are tried, as another process may take one between choice and start.
const PORTS_MAX: usize = 4;

/// What they say if the port is taken: most of them, Knot Resolver, BIND.
const PORT_TAKEN: [&str; 3] =
    ["Address already in use", "address already in use", "creating IPv4 interface lo failed"];

/// A caching resolver, or a chain of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResolverKind {
    /// NLnet Labs unbound, with a stub zone.
    Unbound,
    /// The same without the module for client subnets, which Debian's loads by default: with it, each
    /// client that asks while an answer is on its way has a look-up of its own.
    UnboundWithoutSubnets,
    /// ISC BIND, with a static-stub zone.
    Bind,
    /// The same with ten TCP connections for all its clients, where it has 150 as packaged.
    BindWithFewConnections,
    /// Knot Resolver, with a forwarding policy. Randomises letter case (0x20) by default.
    Knot,
    /// PowerDNS Recursor, with a forward zone.
    PowerDns,
    /// dnsmasq, as in home routers.
    Dnsmasq,
    /// dnsmasq, as in home routers, that forwards to unbound, as at a provider.
    DnsmasqToUnbound,
}

impl ResolverKind {
    /// Every kind, in the order of the tables in which results are shown.
    pub const ALL: [ResolverKind; 6] = [
        ResolverKind::Unbound,
        ResolverKind::Bind,
        ResolverKind::Knot,
        ResolverKind::PowerDns,
        ResolverKind::Dnsmasq,
        ResolverKind::DnsmasqToUnbound,
    ];

    /// Returns the name to print, which is also fit for a file name.
    pub fn name(self) -> &'static str {
        match self {
            ResolverKind::Unbound => "unbound",
            ResolverKind::UnboundWithoutSubnets => "unbound-without-subnets",
            ResolverKind::Bind => "bind",
            ResolverKind::BindWithFewConnections => "bind-with-few-connections",
            ResolverKind::Knot => "knot",
            ResolverKind::PowerDns => "powerdns",
            ResolverKind::Dnsmasq => "dnsmasq",
            ResolverKind::DnsmasqToUnbound => "dnsmasq-to-unbound",
        }
    }

    /// Returns the Debian package with the program that clients talk to.
    ///
    /// `DnsmasqToUnbound` needs that of `Unbound` as well.
    pub fn package(self) -> &'static str {
        match self {
            ResolverKind::Unbound | ResolverKind::UnboundWithoutSubnets => "unbound",
            ResolverKind::Bind | ResolverKind::BindWithFewConnections => "bind9",
            ResolverKind::Knot => "knot-resolver",
            ResolverKind::PowerDns => "pdns-recursor",
            ResolverKind::Dnsmasq | ResolverKind::DnsmasqToUnbound => "dnsmasq",
        }
    }

    fn program(self) -> &'static str {
        match self {
            ResolverKind::Unbound | ResolverKind::UnboundWithoutSubnets => "unbound",
            ResolverKind::Bind | ResolverKind::BindWithFewConnections => "named",
            ResolverKind::Knot => "kresd",
            ResolverKind::PowerDns => "pdns_recursor",
            ResolverKind::Dnsmasq | ResolverKind::DnsmasqToUnbound => "dnsmasq",
        }
    }
}

/// Why there is no resolver.
#[derive(Debug)]
pub enum NotStarted {
    /// The program of this Debian package is not installed: a test may be skipped.
    NotInstalled(&'static str),
    /// The program is there and does not work, with the end of what it wrote: a test must fail.
    Failed(String),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStarted::NotInstalled(package) => {
                write!(f, "Debian package {package} is not installed")
            }
            NotStarted::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for NotStarted {}

/// A running resolver with an empty cache; dropping it ends its processes and removes its files.
#[derive(Debug)]
pub struct Resolver {
    kind: ResolverKind,
    root: String,
    server: SocketAddr,
    addr: SocketAddr,
    // Fields are dropped in this order: nothing writes to the directory when it is removed.
    process: Option<Process>,
    directory: Option<TempDir>,
    upstream: Option<Box<Resolver>>,
}

impl Resolver {
    /// Starts a resolver that asks `authority` for all names at and below `root`, and waits until
    /// it answers.
    ///
    /// The authority need not run yet: it is not asked anything before the first client asks.
    ///
    /// # Errors
    ///
    /// `NotInstalled` if a program is missing; `Failed` if it ends or does not answer in 10 s, or
    /// if `root` is no plain domain name or `authority` is not on 127.0.0.1.
    pub fn start(
        kind: ResolverKind,
        root: &str,
        authority: SocketAddr,
    ) -> Result<Resolver, NotStarted> {
        let root = root.trim_end_matches('.');
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
        if root.is_empty() || !root.bytes().all(plain) {
            return Err(NotStarted::Failed(format!("not a plain root domain: {root:?}")));
        }
        if authority.ip() != Ipv4Addr::LOCALHOST {
            return Err(NotStarted::Failed(format!("not on 127.0.0.1: {authority}")));
        }
        let program = find_program(kind.program());
        let program = program.ok_or(NotStarted::NotInstalled(kind.package()))?;
        let upstream = match kind {
            ResolverKind::DnsmasqToUnbound => {
                Some(Box::new(Resolver::start(ResolverKind::Unbound, root, authority)?))
            }
            _ => None,
        };
        let server = upstream.as_ref().map_or(authority, |resolver| resolver.addr);

        for _ in 0..PORTS_MAX {
            let port = free_port().map_err(|error| failed(kind, &error.to_string()))?;
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let launched = launch(kind, &program, root, addr, server);
            if let Some((process, directory)) = launched.map_err(|reason| failed(kind, &reason))? {
                return Ok(Resolver {
                    kind,
                    root: root.to_string(),
                    server,
                    addr,
                    process: Some(process),
                    directory: Some(directory),
                    upstream,
                });
            }
        }
        Err(failed(kind, &format!("{PORTS_MAX} ports in a row were taken by others")))
    }

    /// Kills it, and starts it again with an empty cache at the same address.
    ///
    /// # Errors
    ///
    /// Like [`Resolver::start`]; also if another process takes the port meanwhile.
    pub fn restart(&mut self) -> Result<(), NotStarted> {
        let kind = self.kind;
        let program = find_program(kind.program());
        let program = program.ok_or(NotStarted::NotInstalled(kind.package()))?;
        self.process = None;
        self.directory = None;
        let launched = launch(kind, &program, &self.root, self.addr, self.server);
        let Some((process, directory)) = launched.map_err(|reason| failed(kind, &reason))? else {
            return Err(failed(kind, "its port was taken by another"));
        };
        self.process = Some(process);
        self.directory = Some(directory);
        Ok(())
    }

    /// Returns the address on which it answers, over UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the end of what it wrote to its standard output and error.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(log_tail).unwrap_or_default()
    }
}

fn failed(kind: ResolverKind, reason: &str) -> NotStarted {
    NotStarted::Failed(format!("cannot start {}: {reason}", kind.name()))
}

/// Starts one program at an address; `None` if another process has the port.
fn launch(
    kind: ResolverKind,
    program: &Path,
    root: &str,
    addr: SocketAddr,
    server: SocketAddr,
) -> Result<Option<(Process, TempDir)>, String> {
    let text = |error: io::Error| error.to_string();
    let directory = TempDir::new(kind.name()).map_err(text)?;

    // A copy is run, as AppArmor profiles in the packages of BIND and unbound, bound to the path of
    // the program, forbid to read files from here. `cp` makes it and not `fs::copy`: a thread that
    // forks during the latter would inherit the open file, which cannot be run then (ETXTBSY).
    let copied = Command::new("cp").arg(program).arg(directory.path()).status().map_err(text)?;
    if !copied.success() {
        return Err(format!("cannot copy {}", program.display()));
    }
    let copy = directory.path().join(kind.program());
    let mut command = configure(kind, &copy, directory.path(), root, addr, server).map_err(text)?;
    let mut process = Process::spawn(&mut command, directory.path()).map_err(text)?;

    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let ended = process.wait(Duration::ZERO).map_err(text)?;
        let log = log_tail(&process);
        if PORT_TAKEN.iter().any(|words| log.contains(words)) {
            return Ok(None);
        }
        if let Some(status) = ended {
            return Err(format!("it ended with {status}, having written:\n{log}"));
        }
        if answers(addr).unwrap_or(false) {
            return Ok(Some((process, directory)));
        }
        if Instant::now() >= deadline {
            return Err(format!("no answer for {START_TIMEOUT:?}, having written:\n{log}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the last 4 kB of what a process wrote.
fn log_tail(process: &Process) -> String {
    let mut log = process.stdout();
    log.extend_from_slice(process.stderr().as_bytes());
    let start = log.len().saturating_sub(4096);
    String::from_utf8_lossy(&log[start..]).into_owned()
}

/// Returns true if there is any answer to `version.bind` CH TXT, and TCP connects.
///
/// Every resolver answers or refuses that name by itself; a name below the root domain would leave
/// traces in its cache and in the authority's counters.
fn answers(addr: SocketAddr) -> io::Result<bool> {
    const QUERY: &[u8] = b"\xad\x01\x01\0\0\x01\0\0\0\0\0\0\x07version\x04bind\0\0\x10\0\x03";
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.connect(addr)?;
    socket.send(QUERY)?;
    let mut message = [0; 512];
    let length = socket.recv(&mut message)?;
    let is_response = length >= 12 && message[..2] == QUERY[..2] && message[2] & 0x80 != 0;
    Ok(is_response && TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok())
}

/// Writes the configuration of one program and returns the command that runs it in the foreground.
fn configure(
    kind: ResolverKind,
    program: &Path,
    directory: &Path,
    root: &str,
    addr: SocketAddr,
    server: SocketAddr,
) -> io::Result<Command> {
    let file = directory.join("configuration");
    let place = directory.display();
    let (port, server_port) = (addr.port(), server.port());
    let mut command = Command::new(program);
    command.current_dir(directory);
    match kind {
        ResolverKind::Unbound | ResolverKind::UnboundWithoutSubnets => {
            let modules = match kind {
                ResolverKind::Unbound => "",
                _ => "module-config: \"validator iterator\"",
            };
            // Without its own port sharing, a port that is taken is an error.
            let text = format!(
                r#"server:
    directory: "{place}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    interface: 127.0.0.1@{port}
    so-reuseport: no
    do-ip6: no
    do-not-query-localhost: no
    {modules}
    local-zone: "." refuse
    local-zone: "{root}." transparent
remote-control:
    control-enable: no
stub-zone:
    name: "{root}."
    stub-addr: 127.0.0.1@{server_port}
"#
            );
            fs::write(&file, text)?;
            command.args(["-d", "-p", "-c"]).arg(&file);
        }
        ResolverKind::Bind | ResolverKind::BindWithFewConnections => {
            let few = kind == ResolverKind::BindWithFewConnections;
            let connections = if few { "tcp-clients 10;" } else { "" };
            // `port` is where BIND sends its queries; a static-stub zone has no port of its own.
            let text = format!(
                r#"options {{
    directory "{place}";
    port {server_port};
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    dnssec-validation no;
    {connections}
}};
controls {{ }};
zone "." {{ type primary; file "nothing"; }};
zone "{root}" {{ type static-stub; server-addresses {{ 127.0.0.1; }}; }};
"#
            );
            fs::write(&file, text)?;
            let nothing = "@ 0 SOA ns. ns. 1 1 1 1 0\n@ 0 NS ns.\nns. 0 A 127.0.0.1\n";
            fs::write(directory.join("nothing"), nothing)?;
            command.args(["-4", "-g", "-c"]).arg(&file);
        }
        ResolverKind::Knot => {
            // FORWARD, as STUB caches every answer for 5 s whatever its TTL. The modules taken out
            // ask the root servers at start.
            let text = format!(
                r#"net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})
modules = {{ 'hints > iterate', 'stats', 'predict' }}
modules.unload('priming')
modules.unload('detect_time_skew')
hints.root({{ ['nothing.'] = '127.0.0.1' }})
trust_anchors.remove('.')
local names = policy.todnames({{ '{root}.' }})
policy.add(policy.suffix(policy.FORWARD({{ '127.0.0.1@{server_port}' }}), names))
policy.add(policy.all(policy.REFUSE))
cache.size = 100 * MB
"#
            );
            fs::write(&file, text)?;
            command.args(["-n", "-c"]).arg(&file).arg(directory);
        }
        ResolverKind::PowerDns => {
            // Servers of forward zones are exempt from the list of those not to ask.
            if powerdns_version(program)? < 5 {
                let text = format!(
                    "local-address=127.0.0.1
local-port={port}
forward-zones={root}=127.0.0.1:{server_port}
dont-query=0.0.0.0/0, ::/0
hint-file=no
security-poll-suffix=
dnssec=process-no-validate
reuseport=no
socket-dir={place}
write-pid=no
daemon=no
disable-syslog=yes
"
                );
                fs::write(directory.join("recursor.conf"), text)?;
            } else {
                let text = format!(
                    "incoming:
  listen: ['127.0.0.1:{port}']
  reuseport: false
outgoing:
  dont_query: ['0.0.0.0/0', '::/0']
recursor:
  forward_zones:
  - zone: '{root}'
    forwarders: ['127.0.0.1:{server_port}']
  hint_file: 'no'
  security_poll_suffix: ''
  socket_dir: '{place}'
  write_pid: false
  daemon: false
dnssec:
  validation: process-no-validate
logging:
  disable_syslog: true
"
                );
                fs::write(directory.join("recursor.yml"), text)?;
            }
            command.arg(format!("--config-dir={place}"));
        }
        ResolverKind::Dnsmasq | ResolverKind::DnsmasqToUnbound => {
            let text = format!(
                "port={port}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
server=/{root}/127.0.0.1#{server_port}
pid-file=
log-facility=-
"
            );
            fs::write(&file, text)?;
            command.arg("-k").arg("-C").arg(&file);
        }
    }
    Ok(command)
}

/// Returns the major version of PowerDNS Recursor: from 5 on its settings are YAML.
fn powerdns_version(program: &Path) -> io::Result<u32> {
    let output = Command::new(program).arg("--version").output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let major = text.split("PowerDNS Recursor ").nth(1).and_then(|rest| rest.split('.').next());
    major.and_then(|major| major.parse().ok()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("no version in {text:?}"))
    })
}
