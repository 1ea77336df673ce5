"""Lines that people and programs read the same."""

import io
import shlex

from kernlb.journal import Journal, Level


def line(*, systemd: bool = False, **facts: object) -> str:
    stream = io.StringIO()
    environment = {"JOURNAL_STREAM": "8:1"} if systemd else {}
    Journal(stream, clock=lambda: 0.0, environment=environment).say("server", level=Level.WARNING, **facts)
    return stream.getvalue()


def test_a_line_has_time_level_event_and_facts() -> None:
    said = line(service="web", now="down", seconds=0.25, temporary=True, nothing=None)
    assert said == (
        "1970-01-01T00:00:00.000Z level=warning event=server service=web now=down seconds=0.25 temporary=yes\n"
    )


def test_a_time_is_told_to_the_second() -> None:
    assert line(deadline=1795881093.7).endswith(" deadline=1795881094\n")


def test_under_systemd_it_has_its_priority_instead_of_a_time() -> None:
    assert line(systemd=True, service="web") == "<4>event=server service=web\n"


def test_no_value_can_forge_a_second_line_or_another_fact() -> None:
    said = line(reason='down" now=up\nevent=server service=other')
    assert said.count("\n") == 1
    assert [word.partition("=")[0] for word in shlex.split(said)] == [
        "1970-01-01T00:00:00.000Z",
        "level",
        "event",
        "reason",
    ]


def test_a_log_that_is_gone_stops_nobody() -> None:
    stream = io.StringIO()
    stream.close()
    Journal(stream, clock=lambda: 0.0).say("stop")
