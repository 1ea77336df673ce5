"""A daemon from its start to its end: signals, control socket, metrics listener, and the loop."""

import asyncio
import gc
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress

from kernlb.control import Control
from kernlb.daemon.daemon import Daemon
from kernlb.daemon.listener import Listener
from kernlb.daemon.options import Machine, Options, Signs
from kernlb.daemon.orders import Orders
from kernlb.daemon.track import Track
from kernlb.errors import KernlbError
from kernlb.journal import Journal
from kernlb.places import Places
from kernlb.reconciler import Reconciler
from kernlb.source import Source
from kernlb.systemd import Notifier

SWITCH = 0.0005
"""Seconds that a thread which computes may keep the interpreter from the loop, at each of the loop's system calls."""


def run(
    source: Source, *, reconciler: Reconciler, signs: Signs, machine: Machine, places: Places, options: Options
) -> None:
    """Until SIGTERM or SIGINT. The caller holds the lock."""
    sys.setswitchinterval(SWITCH)
    asyncio.run(_run(source, reconciler=reconciler, signs=signs, machine=machine, places=places, options=options))


async def _run(
    source: Source, *, reconciler: Reconciler, signs: Signs, machine: Machine, places: Places, options: Options
) -> None:
    journal, notifier = Journal(clock=time.time), Notifier()
    daemon = Daemon(
        source,
        reconciler=reconciler,
        signs=signs,
        machine=machine,
        options=options,
        journal=journal,
        notifier=notifier,
        track=Track(places.track),
    )
    orders = Orders(daemon, machine=machine, journal=journal, notifier=notifier, accept_loss=options.accept_loss)
    listener = Listener(orders.metrics, told=options.metrics)
    control = Control(orders, places.control, group=options.group)
    async with AsyncExitStack() as stack:
        stack.callback(notifier.close)
        loop = asyncio.get_running_loop()
        reloads: set[asyncio.Task[None]] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        loop.add_signal_handler(signal.SIGHUP, _reload, orders, reloads)
        await daemon.start()
        # What there is now stays: to look through ten thousand servers for garbage would hold up checks.
        gc.collect()
        gc.freeze()
        try:
            await control.open()
            stack.push_async_callback(control.close)
            daemon.readiness.serve()
            await listener.move(source.config.metrics)
            stack.push_async_callback(listener.close)
            following = asyncio.create_task(listener.follow(daemon, journal), name="metrics")
            stack.callback(following.cancel)
        except BaseException:
            daemon.stop()
            await daemon.run()
            raise
        await daemon.run()
        for task in reloads:
            task.cancel()


def _reload(orders: Orders, reloads: set[asyncio.Task[None]]) -> None:
    """SIGHUP. One waits at most: a second reload reads the file after the first signal anyway."""
    if len(reloads) < 2:
        task = asyncio.create_task(_reloaded(orders))
        reloads.add(task)
        task.add_done_callback(reloads.discard)


async def _reloaded(orders: Orders) -> None:
    with suppress(KernlbError):  # told in the journal
        await orders.reload()
