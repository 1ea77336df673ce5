"""How operations look: the lines and the JSON that plan, apply and clear share."""

from collections.abc import Iterable, Iterator, Mapping

from kernlb.config.values import Config
from kernlb.desired import Name
from kernlb.formats.detect import Format
from kernlb.model import Key
from kernlb.plan import Operation, Verb
from kernlb.showing import operations_document
from kernlb.source import Source, read, refuse_loss
from kernlb.text import operation

Names = Mapping[Key, Name]
Breaks = Mapping[Key, int | None]


def read_source(file: str, format: str | None, *, accept_loss: bool) -> Source:
    """The file, refused where lines would be dropped without the user's word."""
    source = read(file, format=Format(format) if format else None)
    if not accept_loss:
        refuse_loss(source)
    return source


def obstacles(config: Config) -> Iterator[str]:
    """What on this machine will defeat what the configuration asks for, although no plan shows it."""
    from kernlb.doctor.network import reverse_path
    from kernlb.doctor.patient import Patient
    from kernlb.vip_checks import ways

    if ways(config):
        with Patient() as patient:
            yield from (f"{each.about}: {each.cause}; {each.fix}" for each in reverse_path(config, patient) if each.fix)


def line(op: Operation, names: Names, breaks: Breaks) -> str:
    live = breaks.get(op.key)
    return operation(op, names) + (f"  (live connections: {live})" if live else "")


def summary(operations: Iterable[Operation], *, done: bool) -> str:
    """2 to add, 1 to remove; or 2 added, 1 removed."""
    words = {
        Verb.ADD: ("to add", "added"),
        Verb.CHANGE: ("to change", "changed"),
        Verb.QUIESCE: ("to quiesce", "quiesced"),
        Verb.REMOVE: ("to remove", "removed"),
    }
    verbs = [op.verb for op in operations]
    return ", ".join(f"{verbs.count(kind)} {word[done]}" for kind, word in words.items() if kind in verbs)


document = operations_document
