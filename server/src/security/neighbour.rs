//! Whether a connection over loopback comes from another user of this machine: the kernel says whose each socket is. Root may
//! do anything anyway, and is who relays the ports of some virtual machines.

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket},
};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
};

/// Whose a socket is. One that its program has closed belongs to nobody any more: it has no inode, and its user reads as root.
struct Owner {
    user: u32,
    inode: u64,
}

impl Owner {
    fn is_trusted(&self, me: u32) -> bool {
        self.inode != 0 && (self.user == 0 || self.user == me)
    }
}

/// True where the other end, `peer`, of a connection to our `own` address is neither ours nor root's. Whoever sent a request
/// and closed at once is not believed. Where the system tells nobody anything, nobody is a stranger.
pub fn is_stranger(peer: SocketAddr, own: SocketAddr) -> bool {
    let Ok(me) = fs::metadata("/proc/self").map(|meta| meta.uid()) else { return false };
    if let Ok(owner) = asked(peer, own) {
        return !owner.is_trusted(me);
    }
    let tables: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    let mut owners = tables.iter().filter_map(|table| listed(table, peer, own));
    !tables.is_empty() && !owners.any(|owner| owner.is_trusted(me))
}

/// Asks for one socket by sock_diag(7), which takes no longer when there are many. An error where there is none, or where the
/// kernel can't be asked so.
fn asked(peer: SocketAddr, own: SocketAddr) -> nix::Result<Owner> {
    // NLM_F_REQUEST of SOCK_DIAG_BY_FAMILY; its answer, or NLMSG_ERROR.
    const REQUEST: u16 = 1;
    const BY_FAMILY: u16 = 20;
    const LENGTH: u32 = 72;
    let kernel =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let [from, to] = [peer, own].map(|address| match address.ip().to_canonical() {
        IpAddr::V4(ip) => (AddressFamily::Inet as u8, [ip.octets().as_slice(), &[0; 12]].concat()),
        IpAddr::V6(ip) => (AddressFamily::Inet6 as u8, ip.octets().to_vec()),
    });
    let mut request = Vec::with_capacity(LENGTH as usize);
    request.extend(LENGTH.to_ne_bytes());
    request.extend([BY_FAMILY, REQUEST].map(u16::to_ne_bytes).concat());
    request.extend([0; 8]);
    // struct inet_diag_req_v2: family, TCP, in any state; then the two ends, any interface, any cookie.
    request.extend([from.0, 6, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend([peer.port(), own.port()].map(u16::to_be_bytes).concat());
    request.extend([from.1, to.1].concat());
    request.extend(0_u32.to_ne_bytes());
    request.extend([0xff; 8]);
    sendto(kernel.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 512];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_ne_bytes);
    match u16::from_ne_bytes([answer[4], answer[5]]) {
        // struct inet_diag_msg, behind the header of 16 bytes.
        BY_FAMILY if length >= 88 => Ok(Owner { user: word(80), inode: word(84).into() }),
        _ => Err(Errno::ENOENT),
    }
}

/// What a table of `/proc/net` says of the peer's socket.
fn listed(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<Owner> {
    let [peer, own] = [peer, own].map(spellings);
    table.lines().skip(1).find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let [_, local, remote, _, _, _, _, user, _, inode] = fields[..] else { return None };
        let is_it = peer.iter().any(|p| p == local) && own.iter().any(|o| o == remote);
        is_it.then_some(Owner { user: user.parse().ok()?, inode: inode.parse().ok()? })
    })
}

/// How the tables write an address: words of 32 bits as this machine orders their bytes; one of IPv4 also as IPv6 maps it.
fn spellings(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let hex = |bytes: &[u8]| -> String {
        bytes
            .chunks(4)
            .map(|word| format!("{:08X}", word.try_into().map(u32::from_ne_bytes).unwrap_or_default()))
            .collect()
    };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            vec![
                format!("{}:{port:04X}", hex(&ip.octets())),
                format!("{}:{port:04X}", hex(&ip.to_ipv6_mapped().octets())),
            ]
        }
        IpAddr::V6(ip) => vec![format!("{}:{port:04X}", hex(&ip.octets()))],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:C350 0100007F:1EB4 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 20 4\n\
            \x20  1: 0100007F:C351 0100007F:1EB4 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4\n\
            \x20  2: 0000000000000000FFFF00000100007F:C352 0000000000000000FFFF00000100007F:1EB4 01 0:0 00:0 0 0 0 7 1\n\
            \x20  3: 00000000000000000000000001000000:C353 00000000000000000000000001000000:1EB4 01 0:0 00:0 0 33 0 9 1\n";
        let own: SocketAddr = "127.0.0.1:7860".parse().unwrap();
        let of =
            |peer: &str, own, me| listed(table, peer.parse().unwrap(), own).is_some_and(|owner| owner.is_trusted(me));
        assert!(of("127.0.0.1:50000", own, 1000));
        assert!(!of("127.0.0.1:50000", own, 1001), "another user");
        assert!(!of("127.0.0.1:50001", own, 1000), "closed by its program");
        assert!(of("127.0.0.1:50002", own, 1000), "root, through an IPv6 socket");
        assert!(!of("127.0.0.1:50000", "127.0.0.1:80".parse().unwrap(), 1000), "another port");
        assert!(of("[::1]:50003", "[::1]:7860".parse().unwrap(), 33));
        assert!(!of("[::1]:50003", "[::1]:7860".parse().unwrap(), 34));
    }

    #[test]
    fn an_own_connection_is_no_strangers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        let own = listener.local_addr().unwrap();
        assert!(!is_stranger(peer, own));
        // Both ways of asking agree, where there are both.
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let (asked, listed) = (asked(peer, own), listed(&table, peer, own).unwrap());
        assert!(asked.is_err() || asked.is_ok_and(|asked| (asked.user, asked.inode) == (listed.user, listed.inode)));
        drop(stream);
    }
}
