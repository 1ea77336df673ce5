"""keepalived.conf: its virtual servers in and out. VRRP is named as what stays with keepalived."""

from kernlb.formats.keepalived.reader import read
from kernlb.formats.keepalived.writer import write

__all__ = ["read", "write"]
