"""The option names of ipvsadm, and the values of the model that they stand for."""

from kernlb.model import Forwarding, Protocol, SchedulerFlag, TunnelChecksum

PROTOCOLS = {"-t": Protocol.TCP, "-u": Protocol.UDP, "--sctp-service": Protocol.SCTP}
SERVICE_OPTIONS = {protocol: option for option, protocol in PROTOCOLS.items()}
FORWARDING = {"-g": Forwarding.DIRECT, "-i": Forwarding.TUNNEL, "-m": Forwarding.NAT}
FORWARDING_OPTIONS = {forwarding: option for option, forwarding in FORWARDING.items()}
CHECKSUMS = {
    "--tun-nocsum": TunnelChecksum.NONE,
    "--tun-csum": TunnelChecksum.CHECKSUM,
    "--tun-remcsum": TunnelChecksum.REMOTE,
}
CHECKSUM_OPTIONS = {checksum: option for option, checksum in CHECKSUMS.items()}
FLAGS = {
    "sh-fallback": SchedulerFlag.FALLBACK,
    "mh-fallback": SchedulerFlag.FALLBACK,
    "flag-1": SchedulerFlag.FALLBACK,
    "sh-port": SchedulerFlag.PORT,
    "mh-port": SchedulerFlag.PORT,
    "flag-2": SchedulerFlag.PORT,
    "flag-3": SchedulerFlag.FLAG_3,
}
