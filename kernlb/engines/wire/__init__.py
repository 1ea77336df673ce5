"""Netlink bytes <-> the model, for generic netlink and the IPVS family of linux/ip_vs.h. Pure: no socket, no kernel."""
