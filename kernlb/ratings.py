"""What a server's state means for its pool. Pure."""

from collections.abc import Iterable

from kernlb.config.values import Server, Service
from kernlb.health import State, Status
from kernlb.model import Forwarding
from kernlb.pool import Rating


def rating(state: State | None, *, factor: float = 1.0) -> Rating:
    """What a server's state means for its pool; None: nobody checks it, it serves."""
    if state is None:
        return Rating(factor=factor)
    return Rating(
        up=state.status is not Status.DOWN,
        held=state.status in (Status.DRAINING, Status.DISABLED),
        factor=factor if state.share is None else factor * state.share,
        weight=state.weight,
        adjust=state.adjust or 0,
        max_connections=state.max_connections,
    )


def all_servers(service: Service) -> Iterable[Server]:
    """The sorry server too."""
    return (*service.servers, service.sorry_server) if service.sorry_server else service.servers


def translated(service: Service) -> bool:
    """Whether some server of it, the sorry server included, is reached by full NAT."""
    return any(server.forwarding is Forwarding.FULLNAT for server in all_servers(service))
