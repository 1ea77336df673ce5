"""The eBPF program, built from source once for a session."""

from tests.bpf.conftest import balancer

__all__ = ["balancer"]
