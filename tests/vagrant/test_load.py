"""The load of the smoke play, on this machine's loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.system.director import until
from tests.vagrant.__main__ import REPOSITORY, VAGRANT

HELD = 3


def load(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, VAGRANT / "load.py", *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )


def answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_the_connections_it_holds_are_named_and_live_until_it_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop, held = tmp_path / "stop", tmp_path / "stop.held"
    with load("serve", "here", str(port)) as server:
        try:
            until(lambda: answers(port), patience=30)
            with load("endure", "127.0.0.1", "60", str(stop), "5", str(HELD), f"web={port}") as client:
                until(lambda: held.exists() and len(held.read_text().split()) == HELD, patience=30)
                established = subprocess.check_output(
                    ["ss", "-Htn", "state", "established", f"dport = :{port}"], text=True
                )
                for number in held.read_text().split():
                    assert f":{int(number, 16)} " in established
                stop.touch()
                told = json.loads(client.communicate(timeout=30)[0])
        finally:
            server.kill()
    assert (told["web"]["told"], told["web"]["held"], told["web"]["broken"]) == (True, HELD, {})
