"""What carries out a Table: IPVS over netlink, the eBPF program, or a dict in memory."""
