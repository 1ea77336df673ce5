"""The program for one configuration: what of it is needed, and its source as BCC takes it. Pure."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace

from kernlb.engines import abi
from kernlb.engines.linking import FUNCTIONS, MAPS, Function
from kernlb.model import Forwarding

FEATURES = ("ipv6", "fullnat", "tunnel", "transition", "limits")
"""The parts of abi.Settings that a configuration may need or not."""
UNIT = "unit.c"
"""The file in which BCC finds the text."""

_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
_FUNCTION = re.compile(
    r'^(?P<kind>GLOBAL|SEC\("\w+"\))\s+int (?P<name>\w+)\((?P<parameters>[^)]*)\)(?P<body>.*?^}\n)', re.M | re.S
)
_CONTEXT = re.compile(r"struct (\w+) \*")


def needed(
    settings: abi.Settings,
    ways: Collection[Forwarding],
    addresses: Sequence[abi.Address],
    *,
    limited: bool,
    moving: bool,
) -> abi.Settings:
    """The settings with the features that what is carried needs: by the ways of forwarding that servers have or had,
    and the addresses of services. `moving`: some slot is in transition."""
    return replace(
        settings,
        ipv6=any(address.version == 6 for address in addresses),
        fullnat=Forwarding.FULLNAT in ways,
        tunnel=Forwarding.TUNNEL in ways,
        # Flows of full NAT are known one by one, so that its slots need no transition.
        transition=moving or bool(set(ways) - {Forwarding.FULLNAT}),
        limits=limited,
    )


def general(settings: abi.Settings) -> abi.Settings:
    """All features but limits, which cost each connection: for a program that is to serve whatever comes."""
    return replace(settings, ipv6=True, fullnat=True, tunnel=True, transition=True)


def features(settings: abi.Settings) -> list[str]:
    return [name for name in FEATURES if getattr(settings, name)]


@dataclass(frozen=True, slots=True)
class Unit:
    """What BCC is given: `text`, to be found as UNIT, and `main`, which takes it in and names the functions."""

    text: str
    main: str
    entries: tuple[Function, ...]
    callees: tuple[Function, ...]


def unit(source: str, read: Callable[[str], str], *, programs: Collection[str], inline: bool) -> Unit:
    """A source file with its own headers in it, each once, and of its programs these. `inline`: global functions of
    the packet too, which is faster, and more for the verifier to walk.

    BCC links no calls: a call of a global function becomes one by number, which the loader resolves. And BCC takes the
    parameters of what lies in its main text for registers of a probe: there lie stubs only, whose names are those of
    the functions while their symbols are others.
    """
    seen: set[str] = set()

    def include(found: re.Match[str]) -> str:
        name = found[1]
        if name in seen:
            return ""
        seen.add(name)
        return _INCLUDE.sub(include, read(name))

    entries: list[Function] = []
    callees: list[Function] = []

    def outline(found: re.Match[str]) -> str:
        name, parameters, body = found["name"], found["parameters"], found["body"]
        context = _CONTEXT.match(parameters)
        function = Function(name, len(parameters.split(",")), context[1] if context else None)
        code = f'int {name}_code({parameters}) asm("{name}");\nint {name}_code({parameters}){body}'
        if found["kind"] == "GLOBAL" and context and inline:
            return f"static __always_inline int {name}({parameters}){body}"
        if found["kind"] == "GLOBAL":
            callees.append(function)
            number = FUNCTIONS + len(callees) - 1
            return f"#define {name}(...) ((int (*)({parameters})){number})(__VA_ARGS__)\n{code}"
        if name not in programs:
            return ""
        entries.append(function)
        return code

    text = _FUNCTION.sub(outline, _INCLUDE.sub(include, read(source)))
    names = [each.name for each in (*entries, *callees)]
    stubs = "".join(f'#undef {n}\nint {n}(void) asm("stub_{n}");\nint {n}(void) {{ return 0; }}\n' for n in names)
    return Unit(text, f'#include "{UNIT}"\n{stubs}', tuple(entries), tuple(callees))


def definitions(settings: abi.Settings, maps: Sequence[str]) -> list[str]:
    """What the compiler is told beside the text: the constants, and the number of each map."""
    told = [f".{name}={value}" for name, value in _constants(settings).items()]
    return [
        f"-DSETTINGS={{{','.join(told)}}}",
        *(f"-DMAP_{name}={MAPS + n}" for n, name in enumerate(maps) if name.isidentifier()),
    ]


def _constants(settings: abi.Settings) -> dict[str, str]:
    """struct settings, member by member."""
    flags = [each.name for each in fields(settings) if isinstance(getattr(settings, each.name), bool)]
    return {
        "abi_version": str(abi.ABI_VERSION),
        "tick_shift": str(settings.tick_shift),
        "memory_mask": str(settings.memory_buckets - 1),
        "flow_mask": str(settings.flow_buckets - 1),
        "secret": f"{settings.secret}ULL",
        "timeout": "{" + ",".join(map(str, settings.timeouts)) + "}",
        **{name: str(int(getattr(settings, name))) for name in flags},
        "step_shift": str(settings.step_shift),
    }
