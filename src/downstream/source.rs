//! The source of a connection: what limits for one address count by.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 address, or the first 64 bits of an IPv6 address, because a host with one IPv6 address usually has the whole
/// network of that prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u64);

/// The upper half of the [`Source`] of an IPv4 address: 16 zero bits and ffff. No IPv6 network in use begins with these.
const V4: u64 = 0xffff << 32;

impl Source {
    /// Says whether connections of this source come from the machine itself (127.0.0.0/8 or ::1).
    pub fn is_loopback(self) -> bool {
        match self.0 {
            // The network ::/64 has no hosts besides ::1.
            0 => true,
            bits => bits & !0xffff_ffff == V4 && Ipv4Addr::from_bits(bits as u32).is_loopback(),
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(u32::from(address)) | V4),
            IpAddr::V6(address) => Self((u128::from(address) >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("::1"), source("0.0.0.1"));
    }

    #[test]
    fn the_machine_itself_is_known() {
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(source(own).is_loopback(), "{own}");
        }
        for other in ["128.0.0.1", "192.0.2.127", "2001:db8::1", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(!source(other).is_loopback(), "{other}");
        }
    }
}
