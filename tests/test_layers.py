"""The house rules on imports, from the syntax trees: downward only, and a core that knows no clock and no socket."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kernlb"

# From the top. What is not named here is a part of the fourth layer: checks, engines, metrics, render and their like.
LAYERS = (
    ("cli", "__main__"),
    ("daemon", "demo"),
    ("reconciler", "checker", "control", "machine"),
    (),
    (
        "errors",
        "model",
        "counters",
        "plan",
        "ports",
        "health",
        "pool",
        "hashing",
        "config",
        "desired",
        "engines.wire",
        "engines.abi",
    ),
)
PARTS, CORE = 3, 4
IMPURE = {"asyncio", "time", "random", "os", "socket", "logging", "subprocess", "pyroute2", "threading", "select"}


def source(module: str) -> Path | None:
    """The file of a module of the package, e.g. of `engines.wire`; None if there is no such module."""
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def modules() -> list[str]:
    relative = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix("__init__").removesuffix(".") for path in relative)


@cache
def imported(module: str) -> frozenset[str]:
    """Absolute names of all that a module imports, inside functions too; `from x import y` gives x and x.y."""
    file = source(module)
    assert file, module
    return frozenset(_names(ast.parse(file.read_text()), module, is_package=file.name == "__init__.py"))


def _names(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    here = ["kernlb", *module.split(".")] if module else ["kernlb"]
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                above = here[: len(here) - node.level + is_package] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def neighbours(module: str) -> frozenset[str]:
    """Modules of this package that run when a module is imported, without itself; packages run before their parts."""
    inside = [name.removeprefix("kernlb.") for name in imported(module) if name.startswith("kernlb.")]
    packages = [
        ".".join(name.split(".")[:depth]) for name in [module, *inside] for depth in range(1, name.count(".") + 1)
    ]
    return frozenset(name for name in [*inside, *packages] if name != module and source(name))


def layer(module: str) -> int:
    """0 is the top; the longest name that covers the module decides."""
    covering = [
        (len(name), depth)
        for depth, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(covering)[1] if covering else PARTS


def impure_path(module: str, seen: tuple[str, ...] = ()) -> str | None:
    """How a module reaches an impure one: `plan -> text -> os`; None if it does not."""
    if impure := {name.partition(".")[0] for name in imported(module)} & IMPURE:
        return " -> ".join([*seen, module, min(impure)])
    unseen = (name for name in sorted(neighbours(module)) if name not in seen)
    return next((path for name in unseen if (path := impure_path(name, (*seen, module)))), None)


@pytest.mark.parametrize("module", modules())
def test_imports_only_go_downward(module: str) -> None:
    # The package itself is no layer: it holds the version.
    upward = [name for name in neighbours(module) if module and name and layer(name) < layer(module)]
    # The core leans on pure modules outside its list; the law of purity below covers those.
    allowed = PARTS if layer(module) == CORE else layer(module)
    assert not [name for name in upward if layer(name) < allowed]


@pytest.mark.parametrize("module", [name for name in modules() if layer(name) == CORE])
def test_the_core_reaches_no_clock_no_chance_no_socket_and_no_log(module: str) -> None:
    assert impure_path(module) is None


def test_an_upward_import_and_an_impure_one_would_be_seen() -> None:
    tree = ast.parse("def f():\n    from .cli import main\nimport os.path")
    assert set(_names(tree, "model", is_package=False)) == {"kernlb.cli", "kernlb.cli.main", "os.path"}
    assert layer("cli.plan") < layer("reconciler") < layer("engines.ipvs") < layer("engines.wire.netlink")
