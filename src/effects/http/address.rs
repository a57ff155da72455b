//! What kind of place an IP address is, in whatever spelling. Knows no names and no permissions.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The kinds of place an address can lead to. All but `Public` must be named to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The internet at large.
    Public,
    /// This machine.
    Loopback,
    /// The home or company network (RFC 1918, RFC 4193, and RFC 6598, which VPNs such as Tailscale use).
    Private,
    /// The same cable.
    LinkLocal,
    /// Many machines at once.
    Multicast,
    /// The credentials service of a cloud machine.
    Metadata,
    /// Anything else that is no ordinary destination.
    Reserved,
}

/// Where the clouds answer with credentials: most of them, AWS containers, Alibaba, Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// The same over IPv6: AWS, AWS containers, Google.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Finds the kind of an address; an IPv6 address that carries an IPv4 address is the kind of that one.
#[must_use]
pub(super) fn kind_of(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => carried_v4(address).map_or_else(|| kind_of_v6(address), kind_of_v4),
    }
}

/// By the IANA special-purpose registry: a block that is not globally reachable is not public.
fn kind_of_v4(address: Ipv4Addr) -> Kind {
    if METADATA_V4.contains(&address) {
        return Kind::Metadata;
    }
    match address.octets() {
        [127, ..] => Kind::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Kind::Private,
        [169, 254, ..] => Kind::LinkLocal,
        [224..=239, ..] => Kind::Multicast,
        [0 | 240..=255, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Kind::Reserved,
        _ => Kind::Public,
    }
}

/// Only `2000::/3` is in use as public space; what is special inside it is taken out.
fn kind_of_v6(address: Ipv6Addr) -> Kind {
    if METADATA_V6.contains(&address) {
        return Kind::Metadata;
    }
    if address == Ipv6Addr::LOCALHOST {
        return Kind::Loopback;
    }
    match address.segments() {
        [0xfc00..=0xfdff, ..] => Kind::Private,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        [0xff00..=0xffff, ..] => Kind::Multicast,
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Reserved,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Reserved,
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn carried_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let joined = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(joined(high, low)),
        _ => None,
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "an address of this machine",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast address",
            Self::Metadata => "the address of a cloud's credentials service",
            Self::Reserved => "a reserved address",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind_of};

    #[test]
    fn every_address_has_its_kind() {
        let check = |kind: Kind, addresses: &[&str]| {
            for address in addresses {
                assert_eq!(kind_of(address.parse().unwrap()), kind, "{address}");
            }
        };
        check(
            Kind::Public,
            &["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.0.1.1"],
        );
        check(Kind::Public, &["2606:4700::1111", "2001:4860::8888", "2001:200::1", "3ffe::1"]);
        check(Kind::Public, &["::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]);
        check(Kind::Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1"]);
        check(Kind::Loopback, &["::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"]);
        check(Kind::Private, &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]);
        check(Kind::Private, &["fc00::1", "fdff::1", "::ffff:10.0.0.1", "64:ff9b::192.168.1.1"]);
        check(Kind::LinkLocal, &["169.254.1.1", "fe80::1", "febf::1", "::ffff:169.254.1.1"]);
        check(Kind::Multicast, &["224.0.0.1", "239.255.255.250", "ff02::1"]);
        check(
            Kind::Metadata,
            &["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200"],
        );
        check(Kind::Reserved, &["0.0.0.0", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"]);
        check(Kind::Reserved, &["::", "::0.0.0.2", "2001:db8::1", "2001::1", "fec0::1", "100::1", "3fff::1"]);
        check(Kind::Reserved, &["64:ff9b:1::10.0.0.1", "4000::1"]);
    }
}
