"""A guest kernel with IPVS for tests: Debian's cloud kernel in QEMU over this machine's root, nothing installed."""
