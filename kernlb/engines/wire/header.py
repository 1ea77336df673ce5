"""linux/ip_vs.h: the commands, attributes, flags and limits of the generic netlink family IPVS, under its own names."""

from enum import IntEnum, IntFlag

FAMILY_NAME = "IPVS"
FAMILY_VERSION = 1

SCHEDNAME_MAXLEN = 16
PENAME_MAXLEN = 16
IFNAME_MAXLEN = 16


class Command(IntEnum):
    NEW_SERVICE = 1
    SET_SERVICE = 2
    DEL_SERVICE = 3
    GET_SERVICE = 4
    NEW_DEST = 5
    SET_DEST = 6
    DEL_DEST = 7
    GET_DEST = 8
    NEW_DAEMON = 9
    DEL_DAEMON = 10
    GET_DAEMON = 11
    SET_CONFIG = 12
    GET_CONFIG = 13
    SET_INFO = 14
    GET_INFO = 15
    ZERO = 16
    FLUSH = 17


class CommandAttribute(IntEnum):
    SERVICE = 1
    DEST = 2
    DAEMON = 3
    TIMEOUT_TCP = 4
    TIMEOUT_TCP_FIN = 5
    TIMEOUT_UDP = 6


class ServiceAttribute(IntEnum):
    AF = 1
    PROTOCOL = 2
    ADDR = 3
    PORT = 4
    FWMARK = 5
    SCHED_NAME = 6
    FLAGS = 7
    TIMEOUT = 8
    NETMASK = 9
    STATS = 10
    PE_NAME = 11
    STATS64 = 12


class DestAttribute(IntEnum):
    ADDR = 1
    PORT = 2
    FWD_METHOD = 3
    WEIGHT = 4
    U_THRESH = 5
    L_THRESH = 6
    ACTIVE_CONNS = 7
    INACT_CONNS = 8
    PERSIST_CONNS = 9
    STATS = 10
    ADDR_FAMILY = 11
    STATS64 = 12
    TUN_TYPE = 13
    TUN_PORT = 14
    TUN_FLAGS = 15


class DaemonAttribute(IntEnum):
    STATE = 1
    MCAST_IFN = 2
    SYNC_ID = 3
    SYNC_MAXLEN = 4
    MCAST_GROUP = 5
    MCAST_GROUP6 = 6
    MCAST_PORT = 7
    MCAST_TTL = 8


class StatsAttribute(IntEnum):
    CONNS = 1
    INPKTS = 2
    OUTPKTS = 3
    INBYTES = 4
    OUTBYTES = 5
    CPS = 6
    INPPS = 7
    OUTPPS = 8
    INBPS = 9
    OUTBPS = 10
    PAD = 11


class InfoAttribute(IntEnum):
    VERSION = 1
    CONN_TAB_SIZE = 2


class ServiceFlag(IntFlag):
    PERSISTENT = 0x01
    HASHED = 0x02
    ONEPACKET = 0x04
    SCHED1 = 0x08
    SCHED2 = 0x10
    SCHED3 = 0x20


class Method(IntEnum):
    """IP_VS_CONN_F_FWD_MASK."""

    MASQ = 0
    LOCALNODE = 1
    TUNNEL = 2
    DROUTE = 3
    BYPASS = 4


FWD_MASK = 0x0007


class TunnelType(IntEnum):
    IPIP = 0
    GUE = 1
    GRE = 2


class TunnelFlag(IntFlag):
    NOCSUM = 0
    CSUM = 1
    REMCSUM = 2


class DaemonState(IntEnum):
    MASTER = 1
    BACKUP = 2


class AddressFamily(IntEnum):
    """AF_INET and AF_INET6 of Linux."""

    INET = 2
    INET6 = 10


class ProtocolNumber(IntEnum):
    TCP = 6
    UDP = 17
    SCTP = 132
