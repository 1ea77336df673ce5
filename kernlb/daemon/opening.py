"""Other engines for another configuration, opened beside those that are in use. What is in use never goes deaf."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kernlb.daemon.drift import Drift
from kernlb.daemon.options import Signs
from kernlb.daemon.writer import Writer


@asynccontextmanager
async def opened(open: Callable[[], Signs], *, writer: Writer, drift: Drift) -> AsyncIterator[None]:
    """From here on the writer has what `open` gives. Where something is raised inside, it has again what it had.
    Those that are left are closed where they were used: in the writer's thread."""
    before, after = writer.signs, await writer.do(open)
    _change(after, writer=writer, drift=drift)
    try:
        yield
    except BaseException:
        _change(before, writer=writer, drift=drift)
        await writer.do(after.close)
        raise
    await writer.do(before.close)


def _change(signs: Signs, *, writer: Writer, drift: Drift) -> None:
    drift.deaf()
    writer.replace(signs)
    drift.listen()
