"""The manual page kernlb(8), from the commands' own help. Built into the wheel; no verb needs it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from kernlb import __version__
from kernlb.cli import USAGE

_FILES = (
    ("/etc/kernlb/kernlb.toml", "The configuration, unless FILE is given."),
    ("/run/kernlb/NAMESPACE/", "Lock, control socket and VRRP's track file; NAMESPACE is default or the netns's name."),
    ("/var/lib/kernlb/NAMESPACE/state.json", "What kernlb owns in the kernel, and what an operator ordered."),
    ("/sys/fs/bpf/kernlb/NAMESPACE/", "Pinned eBPF programs and maps."),
)


_ROFF = str.maketrans({"\\": r"\e", "-": r"\-", "\u2026": "...", "\u00d7": "x", "\u2013": r"\(en"})


def manual(root: click.Command, *, epoch: int) -> str:
    """`epoch` (seconds) dates the page."""
    return "".join(f"{line}\n" for line in _lines(root, epoch))


def _lines(root: click.Command, epoch: int) -> Iterator[str]:
    assert isinstance(root, click.Group)
    context = click.Context(root, info_name="kernlb")
    date = datetime.fromtimestamp(epoch, UTC).date()
    yield f'.TH KERNLB 8 {date} "kernlb {__version__}" "System Administration"'
    yield ".SH NAME"
    yield r"kernlb \- one file in, kernel load balancing out"
    yield ".SH SYNOPSIS"
    yield ".B kernlb"
    yield r"[\fIOPTIONS\fR] \fIVERB\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]"
    yield ".SH DESCRIPTION"
    yield from _prose(root.help or "")
    yield from _prose(root.epilog or "")
    yield ".SH OPTIONS"
    yield "Before a verb or after it."
    common: set[str | None] = {param.name for param in root.params}
    yield from _options(root, context, without=set())
    yield ".SH VERBS"
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield f'.SS "{_escaped(" ".join(["kernlb", name, *command.collect_usage_pieces(inner)]))}"'
        yield from _prose(command.help or "")
        yield from _options(command, inner, without=common)
    yield ".SH EXIT STATUS"
    yield f"Each verb says its own. {USAGE} is wrong usage on every verb, 130 interrupted."
    yield ".SH FILES"
    for path, meaning in _FILES:
        yield from (".TP", f".I {_escaped(path)}", _escaped(meaning))
    yield ".SH SEE ALSO"
    yield ".BR ipvsadm (8),\n.BR nft (8),\n.BR ip (8),\n.BR systemd.service (5)"


def _options(command: click.Command, context: click.Context, *, without: set[str | None]) -> Iterator[str]:
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None or param.name in without or param.name == "help":
            continue
        names, help = record
        yield from (".TP", rf"\fB{_escaped(names)}\fR", _escaped(" ".join(help.split())))


def _prose(text: str) -> Iterator[str]:
    """Paragraphs; click's mark for one that is to stay as it is becomes a block of fixed lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        if paragraph.lstrip().startswith("\b"):
            yield from (".nf", *map(_escaped, paragraph.lstrip("\b \n").splitlines()), ".fi")
        else:
            yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """roff's own signs as text, and others by their numbers. An option's hyphen must come out as one to be copied."""
    text = "".join(sign if sign.isascii() else rf"\[u{ord(sign):04X}]" for sign in text.translate(_ROFF))
    return rf"\&{text}" if text.startswith((".", "'")) else text
