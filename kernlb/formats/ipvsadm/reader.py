"""Rules of `ipvsadm -S` to a Table. Resolves no name itself."""

import shlex
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address

from kernlb.formats.ipvsadm.words import CHECKSUMS, FLAGS, FORWARDING, PROTOCOLS
from kernlb.formats.report import EXACT, Ledger, Refused, Remark, Resolve
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    IPAddress,
    Persistence,
    RealServer,
    Scheduler,
    ServerKey,
    ServiceKey,
    Table,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    Value,
    VirtualService,
)

_PERSISTENCE = 300
_QUOTES = frozenset("\"'\\")
_LONG = {
    "--add-service": "-A",
    "--add-server": "-a",
    "--tcp-service": "-t",
    "--udp-service": "-u",
    "--fwmark-service": "-f",
    "--ipv6": "-6",
    "--scheduler": "-s",
    "--persistent": "-p",
    "--netmask": "-M",
    "--sched-flags": "-b",
    "--real-server": "-r",
    "--gatewaying": "-g",
    "--ipip": "-i",
    "--masquerading": "-m",
    "--weight": "-w",
    "--u-threshold": "-x",
    "--l-threshold": "-y",
    "--ops": "-o",
    "-O": "-o",
    "ops": "-o",
    "pe": "--pe",
}
_VALUED = frozenset(
    {"-t", "-u", "-f", "--sctp-service", "-s", "-M", "-b", "--pe", "-r", "-w", "-x", "-y", "--tun-type", "--tun-port"}
)
_BARE = frozenset({"-6", "-g", "-i", "-m", "-o", "-n", *CHECKSUMS})


def table_of(text: str, ledger: Ledger, resolve: Resolve | None) -> Table:
    table: dict[ServiceKey | ServerKey, Value] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.split("#", 1)[0].strip()
        if not stripped:
            continue
        ledger.enter(number, stripped)
        try:
            ledger.say(number, _rule(stripped, table, resolve))
        except Refused as refused:
            ledger.refuse(number, refused)
    return table  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Words:
    """The options of one rule; a bare one has the value ""."""

    command: str
    options: dict[str, str]

    def number(self, option: str, *, default: int, highest: int) -> int:
        word = self.options.get(option)
        if word is None:
            return default
        if not (word.isascii() and word.isdecimal() and len(word) < 12 and int(word) <= highest):
            raise Refused(f"{option} takes a number up to {highest}, not {word!r}")
        return int(word)


def _words(line: str) -> _Words:
    try:
        words = shlex.split(line) if not _QUOTES.isdisjoint(line) else line.split()
    except ValueError as error:
        raise Refused(f"cannot read the rule: {error}") from None
    words = words[1:] if words[:1] == ["ipvsadm"] else words
    command = _LONG.get(words[0], words[0]) if words else ""
    if command not in ("-A", "-a"):
        raise Refused(f"{command!r} is no rule", hint="-A adds a virtual service, -a a real server")
    options: dict[str, str] = {}
    at = 1
    while at < len(words):
        option = _LONG.get(words[at], words[at])
        value = ""
        if option in _VALUED or (option == "-p" and at + 1 < len(words) and words[at + 1].isdecimal()):
            at += 1
            if at >= len(words):
                raise Refused(f"{option} expects a value")
            value = words[at]
        elif option not in _BARE and option != "-p":
            raise Refused(f"unknown option {option!r}")
        if option in options:
            raise Refused(f"{option} is given twice")
        options[option] = value
        at += 1
    return _Words(command, options)


def _rule(line: str, table: dict[ServiceKey | ServerKey, Value], resolve: Resolve | None) -> Remark:
    words = _words(line)
    key = _key(words, resolve)
    if words.command == "-A":
        if key in table:
            raise Refused("this virtual service stands above already")
        table[key] = _virtual(words, key)
        return EXACT
    if key not in table:
        raise Refused("its virtual service is not defined above", hint="an -A rule comes first")
    if "-r" not in words.options:
        raise Refused("-a expects -r ADDRESS")
    default = key.port if isinstance(key, Endpoint) else 0
    address, port = _endpoint(words.options["-r"], resolve, default_port=default)
    server = ServerKey(key, address, port)
    if server in table:
        raise Refused("this real server stands above already")
    table[server] = _real(words)
    return EXACT


def _key(words: _Words, resolve: Resolve | None) -> ServiceKey:
    chosen = [option for option in (*PROTOCOLS, "-f") if option in words.options]
    if len(chosen) != 1:
        raise Refused("a rule names one virtual service: -t, -u, --sctp-service or -f")
    if chosen == ["-f"]:
        mark = words.number("-f", default=0, highest=2**32 - 1)
        if not mark:
            raise Refused("a firewall mark is greater than 0")
        return Fwmark(Family.IPV6 if "-6" in words.options else Family.IPV4, mark)
    address, port = _endpoint(words.options[chosen[0]], resolve, default_port=0)
    return Endpoint(EngineName.IPVS, PROTOCOLS[chosen[0]], address, port)


def _endpoint(word: str, resolve: Resolve | None, *, default_port: int) -> tuple[IPAddress, int]:
    if word.startswith("["):
        host, closed, rest = word[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise Refused(f"{word!r} is no address", hint="[2001:db8::1]:80")
        port = rest[1:]
    elif word.count(":") > 1:
        host, port = word, ""
    else:
        host, _, port = word.partition(":")
    if port and not (port.isascii() and port.isdecimal() and int(port[:6]) <= 65535):
        raise Refused(f"{port!r} is no port number", hint="save the rules with `ipvsadm -Sn`")
    return _address(host, resolve), int(port) if port else default_port


def _address(host: str, resolve: Resolve | None) -> IPAddress:
    try:
        return ip_address(host)
    except ValueError:
        pass
    if resolve is None:
        raise Refused(f"{host!r} is no address", hint="save the rules with `ipvsadm -Sn`")
    try:
        return resolve(host)[0]
    except (OSError, UnicodeError, IndexError):
        raise Refused(f"cannot resolve {host!r}", hint="save the rules with `ipvsadm -Sn`") from None


def _virtual(words: _Words, key: ServiceKey) -> VirtualService:
    name = words.options.get("-s", "wlc")
    if name not in set(Scheduler) - {Scheduler.MAGLEV}:
        raise Refused(f"unknown scheduler {name!r}", hint="one of the kernel's: rr, wrr, lc, wlc, sh, mh, ...")
    flags = [flag for flag in words.options.get("-b", "").split(",") if flag]
    for flag in flags:
        if flag not in FLAGS or (flag[:2] in ("sh", "mh") and not flag.startswith(f"{name}-")):
            raise Refused(f"scheduler {name} has no flag {flag!r}")
    persistence = None
    if "-p" in words.options or "-M" in words.options or "--pe" in words.options:
        widest = 32 if key.family is Family.IPV4 else 128
        timeout = int(words.options.get("-p") or _PERSISTENCE)
        if not 0 < timeout <= 31 * 86400:
            raise Refused("a persistence lasts 1 to 2678400 seconds")
        persistence = Persistence(timeout, _prefix(words.options.get("-M"), widest), words.options.get("--pe"))
    return VirtualService(
        Scheduler(name), frozenset(FLAGS[flag] for flag in flags), persistence, one_packet="-o" in words.options
    )


def _prefix(mask: str | None, widest: int) -> int:
    if mask is None:
        return widest
    try:
        if widest == 32:
            return IPv4Network(f"0.0.0.0/{IPv4Address(mask)}").prefixlen
        if 1 <= int(mask) <= 128:
            return int(mask)
    except ValueError:
        pass
    raise Refused(f"{mask!r} is no netmask", hint="255.255.255.0, or a prefix length for IPv6")


def _real(words: _Words) -> RealServer:
    chosen = [option for option in FORWARDING if option in words.options]
    if len(chosen) > 1:
        raise Refused("one forwarding method a server: -g, -i or -m")
    forwarding = FORWARDING[chosen[0]] if chosen else Forwarding.DIRECT
    tunnel = None
    sums = [checksum for option, checksum in CHECKSUMS.items() if option in words.options]
    if forwarding is Forwarding.TUNNEL:
        kind = words.options.get("--tun-type", "ipip")
        if kind not in set(TunnelKind):
            raise Refused(f"unknown tunnel type {kind!r}", hint="ipip, gue or gre")
        port = words.number("--tun-port", default=0, highest=65535)
        if (kind == TunnelKind.GUE) != bool(port):
            raise Refused("--tun-port belongs to --tun-type gue, and gue needs it")
        if len(sums) > 1 or (kind == TunnelKind.IPIP and sums):
            raise Refused("one checksum option, for gue or gre")
        tunnel = Tunnel(TunnelKind(kind), port, sums[0] if sums else TunnelChecksum.NONE)
    elif sums or "--tun-type" in words.options or "--tun-port" in words.options:
        raise Refused("tunnel options belong to -i")
    return RealServer(
        forwarding,
        words.number("-w", default=1, highest=2**31 - 1),
        words.number("-x", default=0, highest=65535),
        words.number("-y", default=0, highest=65535),
        tunnel,
    )
