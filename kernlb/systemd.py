"""What systemd is told (sd_notify(3)): ready, reloading, status, stopping, and the watchdog's food. Says nothing
where nobody listens."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """One datagram a message to $NOTIFY_SOCKET. Never blocks and never raises: a lost message harms nobody."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ means the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.watchdog = _watchdog(environment)
        """Seconds between feedings that keep the watchdog quiet; None where there is none."""
        self._fed = 0.0
        self._ready = False
        self._status = ""

    def ready(self) -> None:
        """Said once; a reload has its own end."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def reloading(self) -> None:
        """Until `reloaded`. Neither is said of what is not ready yet."""
        if self._ready:
            # systemd compares it with its own clock to tell this reload from the one before (Type=notify-reload).
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        if self._ready:
            self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; the same line again is not sent."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def feed(self) -> None:
        """Call it as often as you like."""
        now = time.monotonic()
        if self.watchdog is not None and now - self._fed >= self.watchdog / 2:
            self._fed = now
            self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        with suppress(OSError):
            self._socket.sendto(message.encode(), self._address)


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Half of what systemd allows, as sd_watchdog_enabled(3) advises."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        allowed = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return allowed / 2e6 if allowed > 0 else None
