"""The daemon's log: one line a change of state, `key=value` throughout, so that people and programs read the same."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum
from typing import TextIO


class Level(IntEnum):
    """The priorities of syslog(3) that kernlb uses."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


class Journal:
    """Under systemd each line carries its priority (sd-daemon(3)) and no time, because the journal has both."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._systemd = "JOURNAL_STREAM" in environment

    def say(self, event: str, *, level: Level = Level.INFO, **facts: object) -> None:
        """One line. Never raises: a full disk behind the log must not stop the daemon."""
        words = [f"event={event}", *(f"{name}={_word(value)}" for name, value in facts.items() if value is not None)]
        if self._systemd:
            line = f"<{level}>{' '.join(words)}"
        else:
            time = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
            line = f"{time.replace('+00:00', 'Z')} level={level.name.lower()} {' '.join(words)}"
        with suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"
    text = str(value)
    return text if text and not any(c.isspace() or c in '="' or not c.isprintable() for c in text) else json.dumps(text)
