"""What is due is done once, at its time."""

import asyncio

from kernlb.agenda import Agenda


class Item:
    def __init__(self) -> None:
        self.due = 0.0
        self.tick = 0


def test_what_is_moved_within_its_bucket_is_due_once() -> None:
    async def scene() -> list[Item]:
        loop = asyncio.get_running_loop()
        item, done = Item(), []
        first = asyncio.Event()

        def turn(due: list[Item], now: float) -> None:
            done.extend(due)
            for each in due:
                agenda.put(each, now + 60.0)  # as who is asked again, before the rest of this turn is done
            first.set()

        agenda: Agenda[Item] = Agenda(turn)
        soon = loop.time() + 0.03
        agenda.put(item, soon)
        agenda.put(item, soon)
        await asyncio.wait_for(first.wait(), 10)
        agenda.close()
        assert item.tick > 0
        return done

    assert len(asyncio.run(scene())) == 1


def test_sooner_moves_only_forward() -> None:
    async def scene() -> tuple[float, float]:
        item = Item()
        agenda: Agenda[Item] = Agenda(lambda due, now: None)
        now = asyncio.get_running_loop().time()
        agenda.put(item, now + 10)
        agenda.sooner(item, now + 20)
        kept = item.due - now
        agenda.sooner(item, now + 5)
        agenda.close()
        return kept, item.due - now

    kept, moved = asyncio.run(scene())
    assert (round(kept), round(moved)) == (10, 5)
