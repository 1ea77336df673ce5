# SPDX-License-Identifier: Apache-2.0
"""The options of every module here: which kernlb, and where it keeps things."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  program:
    description: The program kernlb, by name or path.
    type: str
    default: kernlb
  netns:
    description: Work in this network namespace (C(ip netns)).
    type: str
  run_dir:
    description: Where lock and control socket are, if not in C(/run/kernlb).
    type: path
  state_dir:
    description: Where kernlb remembers, if not in C(/var/lib/kernlb).
    type: path
requirements:
  - kernlb on the managed host
attributes:
  check_mode:
    description: Can run in check mode and tell what would change without changing anything.
    support: full
  diff_mode:
    description: Tells what changes, or would change, line by line.
    support: full
  platform:
    description: Where it runs.
    platforms: Linux
    support: full
"""
