"""kernlb: one file in, kernel load balancing out."""

__version__ = "0.1.0"
