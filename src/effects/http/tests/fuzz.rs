//! What holds for every URL, whatever the name server answers: nothing special is reached unless it is named.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};

use super::{Asker, Hop, Permission, PluginId, Reach, get};
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
const ALLOWED: [&str; 12] = [
    "http:example.com",
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

fn is_special_v4(address: Ipv4Addr) -> bool {
    SPECIAL_V4
        .iter()
        .any(|(base, bits)| (address.to_bits() ^ base.to_bits()).checked_shr(32 - bits) == Some(0))
}

/// What is not in `2000::/3`, and in it what is special or carries a special IPv4 address.
fn is_special(address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V4(address) => return is_special_v4(address),
        IpAddr::V6(address) => address,
    };
    let bits = address.to_bits();
    let within = |base: &str, length: u32| {
        let base: Ipv6Addr = base.parse().unwrap();
        (bits ^ base.to_bits()) >> (128 - length) == 0
    };
    let v4_at = |shift: u32| {
        #[expect(clippy::cast_possible_truncation, reason = "these 32 bits are wanted")]
        let carried = Ipv4Addr::from_bits((bits >> shift) as u32);
        is_special_v4(carried)
    };
    if within("::ffff:0:0", 96) || within("64:ff9b::", 96) || within("::ffff:0:0:0", 96) {
        return v4_at(0);
    }
    if within("::", 96) {
        return bits < 2 || v4_at(0);
    }
    if within("2002::", 16) {
        return v4_at(80);
    }
    !within("2000::", 3)
        || ["2001::", "2001:db8::", "3fff::"].iter().zip([23, 32, 20]).any(|(b, l)| within(b, l))
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

std::thread_local! {
    /// What the name server answers in this test.
    static ANSWER: std::cell::RefCell<Vec<IpAddr>> = const { std::cell::RefCell::new(Vec::new()) };
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
    match dice.below(9) {
        0 => Ipv4Addr::from(v4).into(),
        1 | 2 => special.into(),
        3 => special.to_ipv6_mapped().into(),
        4 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
        5 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
        6 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into(),
        7 => Ipv6Addr::from_bits(u128::from_be_bytes(bytes) >> 3 | 1 << 125).into(),
        _ => Ipv6Addr::from(bytes).into(),
    }
}

/// Answers with the address that the name's first label spells in hexadecimal digits.
fn spelt(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let digits = name.split('.').next().unwrap_or_default().trim_start_matches('h');
    let bits = u128::from_str_radix(digits, 16).unwrap_or(1);
    let v6 = Ipv6Addr::from_bits(bits);
    let address = if name.contains("four") {
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    } else {
        v6.into()
    };
    Ok(vec![SocketAddr::new(address, port), SocketAddr::from(([127, 0, 0, 1], port))])
}

fn reach(hop: &Hop, permissions: &[Permission]) -> Option<Vec<SocketAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let plugin = PluginId::parse("weather").unwrap();
    let asker = Asker { plugin: &plugin, permissions };
    runtime.block_on(Reach::with(spelt).allowed(asker, hop)).ok().map(|addresses| addresses.to_vec())
}

/// What the checker lets through, looked at with other eyes.
fn check(hop: &Hop, permissions: &[Permission]) {
    assert!(matches!(hop.url.scheme(), "http" | "https"), "{}", hop.url);
    let Some(addresses) = reach(hop, permissions) else { return };
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
    let is_local = !name.contains('.')
        || [".local", ".lan", ".internal", ".home.arpa"].iter().any(|e| name.ends_with(e));
    assert!(!addresses.is_empty());
    for address in addresses {
        let (ip, port) = (address.ip(), address.port());
        let loopback = ip.to_canonical().is_loopback() || matches!(ip.to_string().as_str(), "::127.0.0.1");
        let fine = !is_special(ip) || is_named(permissions, ip, port) || is_localhost && loopback || is_local;
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
        let mut url = dice.text(&PIECES, 8);
        if dice.toss() {
            url.insert_str(0, "http://");
        }
        let Ok(hop) = Hop::first(get(&url), 0) else { return };
        check(&hop, &permissions);
        let location = dice.text(&PIECES, 8);
        let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) else { return };
        let headers: HeaderMap = [(header::LOCATION, location)].into_iter().collect();
        if let Ok(Some(next)) = hop.next(StatusCode::FOUND, &headers) {
            check(&next, &permissions);
        }
    });
}

#[test]
fn fuzz_addresses() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let address = address(dice);
        let (bits, family) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), "four"),
            IpAddr::V6(v6) => (v6.to_bits(), "six"),
        };
        let name = format!("h{bits:x}.{family}.example.com");
        let mut permissions = vec![Permission::parse(&format!("http:{name}")).unwrap()];
        if dice.toss() {
            permissions.push(Permission::Http {
                host: address.to_string(),
                port: dice.one_of(&[None, Some(80), Some(81)]),
            });
        }
        let hop = Hop::first(get(format!("http://{name}/")), 0).unwrap();
        check(&hop, &permissions);
        // The other way round: what is public or named is not refused.
        let fine = !is_special(address) || is_named(&permissions, address, 80);
        assert_eq!(reach(&hop, &permissions).is_some(), fine, "{address} {permissions:?}");
    });
}
