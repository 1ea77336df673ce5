"""`python -m bench [NAME...]`: kernlb beside its peers. Without a name, every benchmark there is.

A benchmark is a module of this package with `run(rounds, progress) -> Report`; one that says NEEDS_IPVS runs in a
guest kernel where the running kernel has no IPVS: in QEMU, or where it says USER_MODE, in User Mode Linux. Exit status:
0 every budget kept, 1 one exceeded, 2 wrong usage.
"""

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

import bench
from bench.harness import Report, as_json, from_json, show

GUEST_SECONDS = 3000


def main() -> int:
    modules = benchmarks()
    options = _options(modules)
    reports = [_run(name, modules[name], options) for name in options.names or modules]
    if options.json:
        document = json.dumps([as_json(report) for report in reports], indent=2)
        if options.json == "-":
            print(document)
        else:
            Path(options.json).write_text(document + "\n")
    if options.json != "-":
        for report in reports:
            show(report, Console())
    return 0 if all(report.kept for report in reports) else 1


def benchmarks() -> dict[str, ModuleType]:
    found = (
        importlib.import_module(f"bench.{module.name}")
        for module in pkgutil.iter_modules(bench.__path__)
        if module.name != "__main__"
    )
    return {module.__name__.rpartition(".")[2]: module for module in found if hasattr(module, "run")}


def _run(name: str, module: ModuleType, options: argparse.Namespace) -> Report:
    if getattr(module, "NEEDS_IPVS", False) and not options.here:
        return _in_guest(name, module, options)
    report: Report = module.run(options.rounds, lambda line: print(f"bench: {line}", file=sys.stderr, flush=True))
    return report


def _in_guest(name: str, module: ModuleType, options: argparse.Namespace) -> Report:
    """On the running kernel if that has IPVS, else in a guest: either way in another process, by its JSON."""
    command = [sys.executable, "-m", "bench", name, "--here", "--json", "-", "--rounds", str(options.rounds)]
    limits = ["--timeout", str(GUEST_SECONDS), "--cpus", str(getattr(module, "CPUS", 1))]
    limits += ["--uml"] if getattr(module, "USER_MODE", False) else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.vm", "--unless-ipvs", *limits, "--", *command],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise SystemExit(f"bench: {name} failed with status {done.returncode}")
    documents: list[dict[str, Any]] = json.loads(done.stdout)
    return from_json(documents[0])


def _options(modules: dict[str, ModuleType]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(modules)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer is measured (3)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - for standard output")
    parser.add_argument("--here", action="store_true", help="on this kernel, whatever it has")
    options = parser.parse_args()
    if unknown := set(options.names) - set(modules):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(modules)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
