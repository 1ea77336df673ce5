"""What stands in the way of a configuration on this machine: each finding with its cause and what mends it."""
