"""Real servers and clients of the smoke play, made of the demo's; every client ends by its own clock.

load.py serve NAME PORT...                          answer each request with NAME and the address it came from
load.py ask ADDRESS COUNT NAME=PORT...              COUNT requests of each service, each on a connection of its own
load.py endure ADDRESS SECONDS STOP RATE HELD NAME=PORT...
    RATE new connections a second to each service, and HELD connections that each ask once a second and are not
    opened again; until the file STOP is there, at most SECONDS. STOP.held lists their ports here, as IPVS writes them
Clients print JSON, by service.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

from kernlb.demo.http import Tally, fetch, read_answer, serve
from kernlb.demo.steady import Sample, ask_steadily

PATIENCE = 15.0  # seconds for a request: longer than a failover, and than TCP's pauses after it
LATE = 1.0
PAUSE = 1.0
POLL = 0.1
TAIL = 5.0  # seconds at the end in which all must be well again


@dataclass(frozen=True, slots=True)
class End:
    """`latest` in seconds of time.monotonic(). `told` says whether the file came first."""

    file: Path
    latest: float

    def told(self) -> bool:
        return self.file.exists()

    def reached(self) -> bool:
        return self.told() or time.monotonic() > self.latest

    def holds(self, port: int) -> None:
        with self.file.with_name(f"{self.file.name}.held").open("a") as held:
            held.write(f"{port:04X}\n")


def main(verb: str, *words: str) -> None:
    match verb, words:
        case "serve", (name, *ports):
            for port in ports:
                Thread(target=serve, args=(name, "0.0.0.0", int(port))).start()
        case "ask", (address, count, *services):
            print(json.dumps(_by_service(services, lambda port: _asked(address, port, int(count)))))
        case "endure", (address, seconds, stop, rate, held, *services):
            end = End(Path(stop), time.monotonic() + float(seconds))
            found = _by_service(services, lambda port: _endured(address, port, end, float(rate), int(held)))
            print(json.dumps(found))
        case _:
            sys.exit(__doc__)


def _by_service(services: list[str], job: Callable[[int], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All at once."""
    found: dict[str, dict[str, Any]] = {}

    def do(name: str, port: int) -> None:
        found[name] = job(port)

    threads = [
        Thread(target=do, args=(name, int(port))) for name, _, port in (each.partition("=") for each in services)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sorted(found.items()))


def _asked(address: str, port: int, count: int) -> dict[str, Any]:
    here, there = Pipe()
    fetch(there, address, port, count, 2)
    tally: Tally = here.recv()
    return {"servers": tally.split, "seen": sorted(tally.peers), "failed": dict(tally.failed)}


def _endured(address: str, port: int, end: End, rate: float, held: int) -> dict[str, Any]:
    (result, answer), (stop, stopped) = Pipe(), Pipe()
    began = time.monotonic()
    asking = Thread(target=ask_steadily, args=(answer, stopped, address, port, rate, PATIENCE))
    asking.start()
    broken = asyncio.run(_hold(address, port, held, end))
    while not end.reached():
        time.sleep(POLL)
    ended = time.monotonic()
    stop.send(None)
    samples: list[Sample] = result.recv()
    asking.join()
    lives = {"held": held, "broken": dict(Counter(filter(None, broken))), "told": end.told()}
    return _new(samples, began, ended) | lives


def _new(samples: list[Sample], began: float, ended: float) -> dict[str, Any]:
    """`silence` is the longest time without an answer, `tail` what failed or came late at the end."""
    answers = sorted(sample.started + sample.seconds for sample in samples if not sample.failure)
    bad = [sample for sample in samples if sample.failure or sample.seconds > LATE]
    return {
        "requests": len(samples),
        "failed": dict(Counter(sample.failure for sample in samples if sample.failure)),
        "late": sum(not sample.failure for sample in bad),
        "silence": round(
            max((b - a for a, b in zip([began, *answers], answers, strict=False)), default=ended - began), 2
        ),
        "tail": sum(sample.started > ended - TAIL for sample in bad),
    }


async def _hold(address: str, port: int, held: int, end: End) -> list[str | None]:
    return list(await asyncio.gather(*(_held(address, port, number * PAUSE / held, end) for number in range(held))))


async def _held(address: str, port: int, offset: float, end: End) -> str | None:
    """Why the connection broke; None where it did not."""
    await asyncio.sleep(offset)
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), PATIENCE)
        end.holds(writer.get_extra_info("sockname")[1])
        while not end.reached():
            writer.write(b"GET / HTTP/1.1\r\nHost: held\r\n\r\n")
            await asyncio.wait_for(read_answer(reader), PATIENCE)
            await asyncio.sleep(PAUSE)
    except TimeoutError:
        return "timed out"
    except (OSError, asyncio.IncompleteReadError) as error:
        number = getattr(error, "errno", None)
        return os.strerror(number) if number else "closed by the server"
    finally:
        if writer:
            writer.close()
    return None


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
