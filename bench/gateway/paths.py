"""The ways through the gateway that are compared. Each sets itself up on a network of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bench.gateway.network import PORTS, SERVERS, VIP, Network
from bench.idle import daemon


@dataclass(frozen=True, slots=True)
class Path:
    name: str
    on: Callable[[Network], AbstractContextManager[None]]


@contextmanager
def routing(network: Network) -> Iterator[None]:
    """Both servers have the VIP; the gateway hashes connections over the two routes."""
    hops = " ".join(f"nexthop via {address}" for address in SERVERS.values())
    network.ip("gateway", f"route add {VIP}/32 {hops}")
    yield


@contextmanager
def nftables(network: Network) -> Iterator[None]:
    first, second = SERVERS.values()
    ports = ", ".join(map(str, PORTS))
    source = f"snat to {network.sources[0]}-{network.sources[-1]}" if network.sources else "masquerade"
    text = f"""
table ip bench {{
  chain in {{
    type nat hook prerouting priority dstnat
    ip daddr {VIP} tcp dport {{ {ports} }} dnat to numgen inc mod 2 map {{ 0 : {first}, 1 : {second} }}
  }}
  chain out {{
    type nat hook postrouting priority srcnat
    ct status dnat {source}
  }}
}}
"""
    network.run("gateway", "nft", "-f", "-", text=text)
    # Connections that were reset stay for ten seconds else, and 30,000 of them a second fill the table.
    network.sysctl("gateway", net__netfilter__nf_conntrack_tcp_timeout_close="2")
    yield


_HAPROXY = """
global
  nbthread 2
  maxconn 8000
defaults
  mode tcp
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  balance roundrobin
"""


@contextmanager
def haproxy(network: Network) -> Iterator[None]:
    config = network.directory / "haproxy.cfg"
    text = _HAPROXY
    for port in PORTS:
        servers = "".join(f"  server {name} {address}:{port}\n" for name, address in SERVERS.items())
        text += f"listen port{port}\n  bind {VIP}:{port}\n{servers}"
    config.write_text(text)
    network.ip("gateway", f"addr add {VIP}/32 dev lo")
    network.sysctl("gateway", net__ipv4__ip_local_port_range="1024 65000", net__ipv4__tcp_tw_reuse="1")
    network.start("gateway", "haproxy", "-db", "-q", "-f", str(config))
    yield


@contextmanager
def kernlb(network: Network) -> Iterator[None]:
    """As its user would: a file and `kernlb run`, whose checks and whose watch of the traffic cost what they cost."""
    text = '[engine]\ndefault = "xdp"\n[defaults]\nforwarding = "fullnat"\n'
    text += f"[addresses]\nsource = {list(network.sources)}\n"
    for port in PORTS:
        servers = "\n".join(f'{name} = "{address}:{port}"' for name, address in SERVERS.items())
        text += f'[service.port{port}]\nbind = ["{VIP}:{port}"]\nscheduler = "maglev"\n'
        text += f"[service.port{port}.servers]\n{servers}\n"
    file = network.directory / "kernlb.toml"
    file.write_text(text)
    with daemon(file, network.directory, namespace=network.name("gateway")):
        yield


PATHS = (
    Path("plain ECMP routing", routing),
    Path("nftables DNAT", nftables),
    Path("HAProxy tcp", haproxy),
    Path("kernlb xdp", kernlb),
)
