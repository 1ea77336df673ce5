"""What an errno of IPVS means for the operation it met. From net/netfilter/ipvs/ip_vs_ctl.c."""

import os
from errno import EAFNOSUPPORT, EEXIST, EINVAL, ENODEV, ENOENT, ENOMEM, ENOPROTOOPT, EPERM, ERANGE, ESRCH

from kernlb.engines.modules import option_of
from kernlb.errors import KernelError
from kernlb.model import Endpoint, Fwmark, Key, RealServer, ServerKey, SyncKey, Value, VirtualService, family_of
from kernlb.plan import Operation
from kernlb.text import thing

_AGAIN = "read and plan again"
_ROOT = "run as root, or with CAP_NET_ADMIN in the user namespace that owns this network namespace"


def told(attempt: str, error: OSError) -> KernelError:
    """A refusal that belongs to no operation."""
    hint = _ROOT if error.errno == EPERM else None
    return KernelError(f"cannot {attempt}: {error.strerror}", errno=error.errno or 0, hint=hint)


def explain(operation: Operation, errno: int) -> KernelError:
    meaning, hint = _meaning(operation.key, operation.after, errno)
    return KernelError(
        f"cannot {operation.verb} {thing(operation.key)}: {os.strerror(errno)}: {meaning}",
        errno=errno,
        where=thing(operation.key),
        hint=hint,
    )


def _meaning(key: Key, after: Value | None, errno: int) -> tuple[str, str | None]:
    if errno == EPERM:
        return "it needs CAP_NET_ADMIN", _ROOT
    if errno == ENOMEM:
        return "the kernel has no memory for it", None
    if errno == ENOPROTOOPT:
        return "the module ip_vs is being unloaded", _AGAIN
    match key:
        case Endpoint() | Fwmark():
            return _of_service(key, after, errno)
        case ServerKey():
            return _of_server(key, after, errno)
        case SyncKey():
            return _of_daemon(errno)
    return "the kernel does not take these values", None


def _of_service(key: Endpoint | Fwmark, after: Value | None, errno: int) -> tuple[str, str | None]:
    if errno == EEXIST:
        return "somebody else has made it meanwhile", _AGAIN
    if errno == ESRCH:
        return "somebody else has removed it", _AGAIN
    if errno == EAFNOSUPPORT:
        return "no IPv6 in this kernel's IPVS (CONFIG_IP_VS_IPV6), or IPv6 is switched off", "enable it, or use IPv4"
    if errno == ENOENT and isinstance(after, VirtualService):
        module = f"ip_vs_{after.scheduler}"
        needed = f"scheduler {after.scheduler} ({module}, {option_of(module)})"
        if after.persistence is not None and after.persistence.engine is not None:
            module = f"ip_vs_pe_{after.persistence.engine}"
            needed += f" or persistence engine {after.persistence.engine} ({module}, {option_of(module)})"
        return f"this kernel has no {needed}", "load the module, or choose what the kernel has"
    return "the kernel does not take this configuration", None


def _of_server(key: ServerKey, after: Value | None, errno: int) -> tuple[str, str | None]:
    if errno == EEXIST:
        return "somebody else has added it meanwhile", _AGAIN
    if errno == ENOENT:
        return "somebody else has removed it", _AGAIN
    if errno == ESRCH:
        return "its virtual service is not there", _AGAIN
    if errno == ERANGE:
        return "its lower threshold is above the upper one, or its weight beyond 2147483647", "correct the thresholds"
    if errno == EAFNOSUPPORT:
        return "no IPv6 in this kernel's IPVS (CONFIG_IP_VS_IPV6), or IPv6 is switched off", "enable it, or use IPv4"
    if errno == EINVAL and isinstance(after, RealServer):
        if family_of(key.address) is not key.service.family:
            reason = "its address family is not the service's: that takes tunnel forwarding and no sync daemon"
            return reason, "use an address of the service's family, or forwarding tunnel"
        return "its address is not unicast here (or a GUE tunnel has no port)", "use an address that a host can have"
    return "the kernel does not take this configuration", None


def _of_daemon(errno: int) -> tuple[str, str | None]:
    if errno == EEXIST:
        return "a sync daemon of this role runs already", _AGAIN
    if errno == ESRCH:
        return "no sync daemon of this role runs", _AGAIN
    if errno == ENODEV:
        return "there is no such interface", "name the interface that leads to the other director"
    if errno == EINVAL:
        reason = "its group is no multicast address, or a service has servers of another family"
        return reason, "use a multicast group; synchronisation cannot go with mixed families"
    return "the kernel does not take this configuration", None
