"""The probes: one kind a file, all behind the protocol of `base`. `spec` and `verdict` are pure."""
