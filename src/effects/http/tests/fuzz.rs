//! What holds for every URL, whatever the name server answers: nothing special is reached unless it is named.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};

use super::{Asker, Hop, LookUp, Permission, PluginId, Reach, get};
use crate::model::dice::{Dice, SHORT};

const PIECES: [&str; 52] = [
    "http://",
    "https://",
    "HTTP://",
    "//",
    "/",
    "\\",
    "@",
    ":",
    ":80",
    ":65535",
    "?",
    "#",
    "%",
    "%2e",
    "%31",
    "%00",
    ".",
    "..",
    "localhost",
    "nas",
    "nas.local",
    "example.com",
    "evil.example.com",
    "xn--bcher-kva",
    "b\u{fc}cher",
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "0",
    "10.0.0.1",
    "169.254.169.254",
    "1.1.1.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1%25eth0]",
    "[fd00:ec2::254]",
    "[2606:4700::1]",
    "[::]",
    "\u{2460}\u{2461}\u{2466}",
    "\u{3002}",
    "\u{ff0e}",
    "user",
    "ftp:",
    "file:",
    "\t",
    "\n",
    " ",
];
/// Names that permissions name, and some that look like them.
const NAMES: [&str; 8] = [
    "example.com",
    "EXAMPLE.com.",
    "evil.example.com",
    "example.com.evil",
    "notexample.com",
    "nas",
    "nas.local",
    "b\u{fc}cher",
];
const ALLOWED: [&str; 13] = [
    "http:example.com",
    "http:example.com:80",
    "http:localhost",
    "http:nas",
    "http:nas.local",
    "http:evil.example.com:80",
    "http:127.0.0.1",
    "http:10.0.0.1",
    "http:[::1]",
    "http:1.1.1.1:80",
    "http:[2606:4700::1]",
    "http:xn--bcher-kva",
    "mqtt.publish:#",
];

/// Blocks that lead nowhere public, as base and length of the prefix, in IPv6 notation: the rule that the
/// checker has in another form.
const SPECIAL_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Those of them that are a house's own.
const PRIVATE_V4: [(Ipv4Addr, u32); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];
/// Where clouds give out their keys, among what is private otherwise.
const KEYS: [&str; 4] = ["100.100.100.200", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"];
/// How names end that the house itself gives out, and one that it does not.
const ENDINGS: [(&str, bool); 6] = [
    ("", true),
    (".local", true),
    (".lan", true),
    (".home.arpa", true),
    (".internal", true),
    (".example.com", false),
];

fn is_in(blocks: &[(Ipv4Addr, u32)], address: Ipv4Addr) -> bool {
    blocks.iter().any(|(base, bits)| (address.to_bits() ^ base.to_bits()).checked_shr(32 - bits) == Some(0))
}

fn is_within(address: Ipv6Addr, base: &str, length: u32) -> bool {
    let base: Ipv6Addr = base.parse().unwrap();
    (address.to_bits() ^ base.to_bits()) >> (128 - length) == 0
}

/// The IPv4 address that an address is or carries.
fn v4_of(address: IpAddr) -> Option<Ipv4Addr> {
    let address = match address {
        IpAddr::V4(address) => return Some(address),
        IpAddr::V6(address) => address,
    };
    let at = |shift: u32| {
        #[expect(clippy::cast_possible_truncation, reason = "these 32 bits are wanted")]
        let carried = Ipv4Addr::from_bits((address.to_bits() >> shift) as u32);
        Some(carried)
    };
    let carriers = ["::ffff:0:0", "64:ff9b::", "::ffff:0:0:0", "::"];
    if address.to_bits() > 1 && carriers.iter().any(|base| is_within(address, base, 96)) {
        return at(0);
    }
    if is_within(address, "2002::", 16) { at(80) } else { None }
}

/// What is not in `2000::/3`, and in it what is special or carries a special IPv4 address.
fn is_special(address: IpAddr) -> bool {
    match (v4_of(address), address) {
        (Some(v4), _) => is_in(&SPECIAL_V4, v4),
        (None, IpAddr::V6(v6)) => {
            !is_within(v6, "2000::", 3)
                || ["2001::", "2001:db8::", "3fff::"]
                    .iter()
                    .zip([23, 32, 20])
                    .any(|(base, length)| is_within(v6, base, length))
        }
        (None, IpAddr::V4(_)) => true,
    }
}

/// What a name that the house gives out may lead to.
fn is_private(address: IpAddr) -> bool {
    let keys = |address: IpAddr| KEYS.iter().any(|keys| keys.parse() == Ok(address));
    match (v4_of(address), address) {
        (Some(v4), _) => is_in(&PRIVATE_V4, v4) && !keys(v4.into()),
        (None, IpAddr::V6(v6)) => is_within(v6, "fc00::", 7) && !keys(address),
        (None, IpAddr::V4(_)) => false,
    }
}

fn is_local(name: &str) -> bool {
    let ends = |(ending, ours): &(&str, bool)| *ours && !ending.is_empty() && name.ends_with(ending);
    !name.contains('.') || ENDINGS.iter().any(ends)
}

/// Whether a permission names this very address and port.
fn is_named(permissions: &[Permission], address: IpAddr, port: u16) -> bool {
    permissions.iter().any(|permission| match permission {
        Permission::Http { host, port: only } => {
            host.parse::<IpAddr>().is_ok_and(|named| named.to_canonical() == address.to_canonical())
                && only.is_none_or(|only| only == port)
        }
        Permission::Publish(_) | Permission::Subscribe(_) => false,
    })
}

fn address(dice: &mut Dice<'_>) -> IpAddr {
    let mut bytes = [0; 16];
    bytes.fill_with(|| dice.byte());
    let v4: [u8; 4] = [bytes[0], bytes[1], bytes[2], bytes[3]];
    let (base, bits) = dice.one_of(&SPECIAL_V4);
    let mask = u32::MAX.checked_shr(bits).unwrap_or(0);
    let special = Ipv4Addr::from_bits(base.to_bits() | u32::from_be_bytes(v4) & mask);
    let [a, b, c, d] = special.octets();
    let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    match dice.below(10) {
        0 => Ipv4Addr::from(v4).into(),
        1 | 2 => special.into(),
        3 => special.to_ipv6_mapped().into(),
        4 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
        5 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
        6 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into(),
        7 => dice.one_of(&KEYS).parse().unwrap(),
        8 => Ipv6Addr::from_bits(u128::from_be_bytes(bytes) >> 3 | 1 << 125).into(),
        _ => Ipv6Addr::from(bytes).into(),
    }
}

/// Answers with the address that the name's first label spells in hexadecimal digits, behind a `v` where it is one of
/// IPv4, and with this machine's.
fn spelt(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let label = name.split('.').next().unwrap_or_default();
    let v6 = Ipv6Addr::from_bits(u128::from_str_radix(&label[1..], 16).unwrap());
    let v4 = v6.to_ipv4_mapped().filter(|_| label.starts_with('v'));
    let address = v4.map_or(IpAddr::V6(v6), IpAddr::V4);
    Ok(vec![SocketAddr::new(address, port), SocketAddr::from(([127, 0, 0, 1], port))])
}

/// Answers as the world does: only `localhost` is this machine.
fn honest(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    Ok(vec![SocketAddr::from((if is_localhost { [127, 0, 0, 1] } else { [1, 1, 1, 1] }, port))])
}

fn reach(look_up: LookUp, hop: &Hop, permissions: &[Permission]) -> Option<Vec<SocketAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let plugin = PluginId::parse("weather").unwrap();
    let asker = Asker { plugin: &plugin, permissions };
    runtime.block_on(Reach::with(look_up).allowed(asker, hop)).ok().map(|addresses| addresses.to_vec())
}

/// What the checker lets through, looked at with other eyes.
fn check(look_up: LookUp, hop: &Hop, permissions: &[Permission]) {
    assert!(matches!(hop.url.scheme(), "http" | "https"), "{}", hop.url);
    let Some(addresses) = reach(look_up, hop, permissions) else { return };
    let port = hop.url.port_or_known_default().unwrap();
    // As the client reads the same URL.
    let host = Url::parse(hop.url.as_str()).unwrap().host_str().unwrap().to_owned();
    let bare = host.trim_matches(['[', ']']);
    if let Ok(address) = bare.parse::<IpAddr>() {
        assert!(is_named(permissions, address, port), "{} reaches {address}", hop.url);
        assert_eq!(addresses, [], "{}", hop.url);
        return;
    }
    let name = bare.trim_end_matches('.');
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    assert!(!addresses.is_empty());
    for address in addresses {
        let (ip, port) = (address.ip(), address.port());
        let loopback = ip.to_canonical().is_loopback() || matches!(ip.to_string().as_str(), "::127.0.0.1");
        let fine = !is_special(ip)
            || is_named(permissions, ip, port)
            || is_localhost && loopback
            || is_local(name) && is_private(ip);
        assert!(fine, "{} reaches {ip} through {name}", hop.url);
    }
    let may = permissions.iter().any(|permission| {
        matches!(permission, Permission::Http { host, port: only }
        if host.trim_end_matches('.') == name && only.is_none_or(|only| only == port))
    });
    assert!(may, "{} is not among {permissions:?}", hop.url);
}

#[test]
fn fuzz_urls() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let permissions: Vec<_> =
            (0..dice.below(5)).map(|_| Permission::parse(dice.one_of(&ALLOWED)).unwrap()).collect();
        let url = match dice.below(3) {
            0 => dice.text(&PIECES, 8),
            1 => "http://".to_owned() + &dice.text(&PIECES, 8),
            _ => {
                let port = dice.one_of(&["", ":80", ":443", ":65535"]);
                format!("http://{}{port}{}", dice.one_of(&NAMES), dice.text(&PIECES, 4))
            }
        };
        let Ok(hop) = Hop::first(get(&url), 0) else { return };
        check(honest, &hop, &permissions);
        let location = dice.text(&PIECES, 8);
        let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) else { return };
        let headers: HeaderMap = [(header::LOCATION, location)].into_iter().collect();
        if let Ok(Some(next)) = hop.next(StatusCode::FOUND, &headers) {
            check(honest, &next, &permissions);
        }
    });
}

#[test]
fn fuzz_addresses() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let address = address(dice);
        let (bits, family) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 'v'),
            IpAddr::V6(v6) => (v6.to_bits(), 'w'),
        };
        let (ending, ours) = dice.one_of(&ENDINGS);
        let name = format!("{family}{bits:x}{ending}");
        let mut permissions = vec![Permission::parse(&format!("http:{name}")).unwrap()];
        if dice.toss() {
            permissions.push(Permission::Http {
                host: address.to_string(),
                port: dice.one_of(&[None, Some(80), Some(81)]),
            });
        }
        let hop = Hop::first(get(format!("http://{name}/")), 0).unwrap();
        check(spelt, &hop, &permissions);
        // The other way round: what is public, named or the house's own is not refused.
        let fine = !is_special(address) || is_named(&permissions, address, 80) || ours && is_private(address);
        assert_eq!(reach(spelt, &hop, &permissions).is_some(), fine, "{address} {permissions:?}");
    });
}
