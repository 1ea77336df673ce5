"""How operations look: the lines and the JSON that plan, apply and clear share."""

from collections import Counter
from collections.abc import Iterable, Iterator

from kernlb.config.values import Config
from kernlb.formats.detect import Format
from kernlb.plan import Verb
from kernlb.showing import operations_document
from kernlb.source import Source, read, refuse_loss
from kernlb.text import operation


def read_source(file: str, format: str | None, *, accept_loss: bool) -> Source:
    """The file, refused where lines would be dropped without the user's word."""
    source = read(file, format=Format(format) if format else None)
    if not accept_loss:
        refuse_loss(source)
    return source


def obstacles(config: Config) -> Iterator[str]:
    """What on this machine will defeat what the configuration asks for, although no plan shows it."""
    from kernlb.doctor.engines import interfaces
    from kernlb.doctor.network import reverse_path
    from kernlb.doctor.patient import Patient
    from kernlb.doctor.ports import ports
    from kernlb.machine import chosen

    with Patient() as patient:
        engines = chosen(config)
        found = (
            *interfaces(config, engines, patient),
            *reverse_path(config, patient),
            *ports(config, engines, patient),
        )
    yield from (f"{each.about}: {each.cause}; {each.fix}" for each in found if each.fix)


def with_breaks(text: str, live: int | None) -> str:
    """An operation's line, with the connections that it breaks."""
    return text + (f"  (live connections: {live})" if live else "")


def summary(verbs: Iterable[str], *, done: bool) -> str:
    """2 to add, 1 to remove; or 2 added, 1 removed."""
    words = {
        Verb.ADD: ("to add", "added"),
        Verb.CHANGE: ("to change", "changed"),
        Verb.QUIESCE: ("to quiesce", "quiesced"),
        Verb.REMOVE: ("to remove", "removed"),
    }
    counted = Counter(verbs)
    return ", ".join(f"{counted[kind]} {word[done]}" for kind, word in words.items() if kind in counted)


line = operation
document = operations_document
