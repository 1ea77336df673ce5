"""What the driver of an interface can do of XDP, as generic netlink's family `netdev` tells since Linux 6.3."""

from kernlb.engines.netlink import NetlinkSocket
from kernlb.engines.wire import netlink

_FAMILY = "netdev"
_DEV_GET = 1
_IFINDEX, _XDP_FEATURES = 1, 3  # enum of linux/netdev.h
_BASIC = 1  # NETDEV_XDP_ACT_BASIC: aborted, drop, pass and tx


def xdp_features(interface: int) -> bool | None:
    """Whether it runs XDP programs itself; None where this kernel does not tell."""
    channel = NetlinkSocket()
    try:
        family = channel.family(_FAMILY)
        if family is None:
            return None
        answer = channel.ask(family, netlink.generic_body(_DEV_GET, 1, netlink.u32(_IFINDEX, interface)))
    except OSError:
        return None
    finally:
        channel.close()
    features = netlink.attributes(answer).get(_XDP_FEATURES)
    return None if features is None else bool(netlink.number(features) & _BASIC)
