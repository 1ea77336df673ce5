"""Servers that flap at random, with a fixed seed: states match the model, and nothing grows."""

import asyncio
import gc
import os
import random
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.simulation import parsed, simulate
from tests.daemon.world import Server, World, service, until

SEED = 20240229
ROUNDS = 60
CHECK = 'check = { type = "tcp", interval = "20ms", timeout = "500ms", rise = 1, fall = 1 }\n'


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.timeout(110)
def test_flapping_servers_orders_and_reloads_leave_states_as_the_model_says_and_nothing_behind(tmp_path: Path) -> None:
    world, chance = World(tmp_path), random.Random(SEED)
    servers = [Server() for _ in range(9)]
    groups = [servers[:3], servers[3:6], servers[6:]]
    texts = [
        "".join(
            service(*group, name=f"web{n}", check=CHECK, bind=f"192.0.2.{n + 1}:80", more=more)
            for n, group in enumerate(groups)
        )
        for more in ("", "quorum = 2\n", 'scheduler = "wlc"\n')
    ]

    async def scene() -> None:
        alive, disabled = set(servers), set()
        for server in servers:
            await server.live()
        sizes: list[tuple[int, int, int]] = []
        async with world.running(texts[0]) as daemon:
            for number in range(ROUNDS):
                for server in chance.sample(servers, 4):
                    if server in alive:
                        alive.discard(server)
                        await server.die()
                    else:
                        alive.add(server)
                        await server.live()
                n, m = chance.randrange(3), chance.randrange(3)
                ordered = groups[n][m]
                verb = "resume" if ordered in disabled else "disable"
                (disabled.discard if ordered in disabled else disabled.add)(ordered)
                await world.ask("POST", f"/{verb}", service=f"web{n}", server=f"s{m + 1}")
                if number % 3 == 2:
                    world.write(chance.choice(texts))
                    await world.ask("POST", "/reload")
                expected = {server.address: int(server not in disabled) for server in alive}
                await until(lambda expected=expected: world.weights() == expected)
                model = {
                    each.address: "disabled" if each in disabled else "up" if each in alive else "down"
                    for each in servers
                }
                # Who was not checked yet serves as who is up does.
                await until(lambda: "unknown" not in {str(state.status) for state in daemon.assessment.states.values()})
                status = await world.ask("GET", "/status")
                assert {
                    row["address"]: row["status"] for each in status["services"] for row in each["servers"]
                } == model
                gc.collect()
                sizes.append((descriptors(), len(asyncio.all_tasks()), len(gc.get_objects())))
        for server in servers:
            await server.die()
        early, late = sizes[ROUNDS // 4 : ROUNDS // 2], sizes[-ROUNDS // 4 :]
        # Listeners of the test come and go with the living; the daemon's own never grow.
        assert min(d for d, _, _ in late) <= max(d for d, _, _ in early)
        assert max(t for _, t, _ in late) <= max(t for _, t, _ in early) + 1
        assert min(o for _, _, o in late) <= max(o for _, _, o in early) * 1.05 + 500

    before = descriptors()
    asyncio.run(asyncio.wait_for(scene(), 100))
    assert descriptors() <= before + 1


def test_ten_minutes_of_random_faults_in_compressed_time_end_as_the_model_says() -> None:
    chance = random.Random(SEED)
    names = [f"s{n}" for n in range(8)]
    listed = "".join(f'{name} = "10.0.0.{n + 1}:80"\n' for n, name in enumerate(names))
    config = load(
        b'[service.web]\nbind = ["192.0.2.1:80"]\npanic = 0.25\n'
        b'check = { type = "tcp", interval = "2s", timeout = "1s", rise = 2, fall = 3 }\n[service.web.servers]\n'
        + listed.encode(),
        "kernlb.toml",
    )
    alive = dict.fromkeys(names, True)
    lines = []
    for second in range(5, 560, 5):
        name = chance.choice(names)
        alive[name] = not alive[name]
        lines.append(f"{second}s {'up' if alive[name] else chance.choice(['down', 'silent'])} web/{name}")
    weights: dict[str, float | None] = {}
    for change in simulate(config, parsed("\n".join([*lines, "600s end"]), "script", config)):
        assert weights.get(change.server) == change.before
        weights[change.server] = change.weight
    living = [name for name in names if alive[name]]
    panic = len(living) < 0.25 * len(names)
    assert {name: weights[name] for name in names} == {name: 1.0 if alive[name] or panic else None for name in names}
