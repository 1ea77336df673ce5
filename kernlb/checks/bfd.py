"""BFD sessions with servers (RFC 5881, RFC 5883), and probes that watch them.

A probe is a watch: it ends when its session comes up or goes down, at that very moment, else after the target's
patience. A session outlives its watches; one that nobody watches any more is taken down as an operator would.
"""

import asyncio
import errno
import random
import secrets
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from math import inf

from kernlb.checks.base import Report, Target, refused
from kernlb.checks.bfd_session import Diagnostic, Session, State, decode, encode
from kernlb.checks.bfd_sockets import MULTIHOP, SINGLE_HOP, listener, received, sender
from kernlb.checks.spec import Address, BfdProbe
from kernlb.checks.verdict import Code, Outcome, Verdict

COMING_UP = 3.0
"""Seconds that a session has to come up in at least: either end may speak but once a second until it is."""
LINGERING = 3  # times the patience of its last watch for which a session waits for another: a reload spreads them
PARTING = 10.0  # seconds at most for which a neighbour is told that it is over
BURST = 4096  # packets read at a time, before anything is held to be late

Key = tuple[Address, int]
"""The neighbour, and the port that either end listens on."""


class Peer:
    """A neighbour with its session. `watches` are the targets under watch, each with the end of it; `error` is what
    kept the last packet from being sent, `hindrance` what keeps the session from being held at all."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.key = _key(target)
        self.probe = probe = _probe(target)
        self.session = Session(
            min_tx=round(probe.min_tx * 1e6),
            min_rx=round(probe.min_rx * 1e6),
            multiplier=probe.multiplier,
            passive=probe.passive,
            chance=random.random,
        )
        self.socket: socket.socket | None = None
        self.error: int | None = None
        self.hindrance: Verdict | None = None
        self.up = False
        self.watches: dict[Target, asyncio.TimerHandle] = {}
        self.wake: asyncio.TimerHandle | None = None
        self.end: asyncio.TimerHandle | None = None  # of a session that nobody watches

    @property
    def disabled(self) -> bool:
        """Whether the other end says that it is down by its operator's wish."""
        heard = self.session.heard
        return heard is not None and heard.state is State.ADMIN_DOWN

    def verdict(self, patience: float) -> Verdict:
        session = self.session
        if self.hindrance is not None:
            return self.hindrance
        if session.state is State.UP:
            return Verdict(Outcome.UP, Code.L4OK, "BFD session up")
        if self.disabled:
            # RFC 5882 3.2: it says nothing about the path, and nobody is to draw conclusions from it.
            return Verdict(Outcome.NEUTRAL, Code.L4CON, "its end of the BFD session is administratively down")
        if self.error is not None:
            return refused(self.error)
        if session.heard is not None:
            deaf = session.heard.diagnostic == Diagnostic.EXPIRED
            return Verdict(Outcome.DOWN, Code.L4CON, f"BFD session down{', it does not hear us' if deaf else ''}")
        if session.diagnostic is Diagnostic.EXPIRED:
            return Verdict(Outcome.DOWN, Code.L4TOUT, "no BFD packets any more")
        return Verdict(Outcome.DOWN, Code.L4TOUT, f"no BFD session within {patience:g} s")

    def send(self, now: float) -> None:
        if self.socket is None:
            return
        for packet in self.session.turn(now):
            try:
                self.socket.sendto(encode(packet), (self.target.sockaddr[0], self.key[1]))
                self.error = None
            except OSError as error:
                self.error = error.errno

    def close(self) -> None:
        for handle in (*self.watches.values(), self.wake, self.end):
            if handle is not None:
                handle.cancel()
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class BfdProber:
    """A Prober that holds `most` sessions at most."""

    def __init__(self, report: Report, *, most: int) -> None:
        self._report = report
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._peers: dict[Key, Peer] = {}
        self._sessions: dict[int, Peer] = {}  # by discriminator; those that part, too
        self._listening: dict[tuple[socket.AddressFamily, int], socket.socket] = {}

    def start(self, targets: Sequence[Target]) -> None:
        for target in targets:
            peer, patience = self._peer(target), max(target.patience, COMING_UP)
            if peer.end is not None:
                peer.end.cancel()
                peer.end = None
            peer.watches[target] = self._loop.call_later(patience, self._over, peer.key, target, patience)
            if peer.socket is None:
                self._open(peer)

    def close(self) -> None:
        for peer in self._peers.values():
            peer.session.stop()
            peer.send(self._loop.time())
        for peer in {*self._peers.values(), *self._sessions.values()}:
            peer.close()
        self._peers.clear()
        self._sessions.clear()
        self._hang_up()

    # --- whom there is a session with

    def _peer(self, target: Target) -> Peer:
        """The one at the target's address. What is configured anew begins anew, and takes over the watches."""
        former = self._peers.get(_key(target))
        if former is not None and (former.probe, former.target.path) == (_probe(target), target.path):
            return former
        peer = Peer(target)
        if former is not None:
            peer.watches, former.watches = former.watches, {}
            self._part(former)
        self._peers[peer.key] = peer
        return peer

    def _open(self, peer: Peer) -> None:
        family, port = peer.target.family, peer.key[1]
        try:
            if len(self._sessions) >= self._most:
                raise OSError(errno.EMFILE, "too many sessions")
            if (family, port) not in self._listening:
                sock = self._listening[family, port] = listener(family, port)
                self._loop.add_reader(sock, self._readable, sock, port)
            peer.socket = sender(peer.target)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE and (family, port) not in self._listening
            peer.hindrance = _taken(port) if taken else refused(error.errno or 0)
            return
        peer.hindrance = None
        while not peer.session.mine or peer.session.mine in self._sessions:
            peer.session.mine = secrets.randbits(32)  # RFC 5880 6.3: unique, not zero, and hard to guess
        self._sessions[peer.session.mine] = peer
        self._turn(peer)

    def _part(self, peer: Peer) -> None:
        """Tells the neighbour, for as long as it may take to notice (RFC 5880 6.8.16)."""
        if self._peers.get(peer.key) is peer:
            del self._peers[peer.key]
        peer.session.stop()
        self._turn(peer)
        peer.end = self._loop.call_later(min(peer.session.notice, PARTING), self._forget, peer)

    def _forget(self, peer: Peer) -> None:
        self._sessions.pop(peer.session.mine, None)
        peer.close()
        if not self._peers and not self._sessions:
            self._hang_up()

    def _hang_up(self) -> None:
        for sock in self._listening.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._listening.clear()

    # --- packets

    def _readable(self, sock: socket.socket, port: int) -> None:
        for _ in range(BURST):
            if (got := received(sock)) is None:
                return
            data, ttl, source = got
            if (packet := decode(data)) is None:
                continue
            # RFC 5880 6.3: the first ones know no discriminator of ours yet.
            peer = self._sessions.get(packet.yours) if packet.yours else self._peers.get((ip_address(source), port))
            if peer is not None and peer.socket is not None and port == peer.key[1] and ttl >= peer.probe.lowest_ttl:
                peer.session.receive(packet, self._loop.time())
                self._turn(peer)

    def _turn(self, peer: Peer) -> None:
        if peer.socket is None:
            return
        peer.send(self._loop.time())
        due = peer.session.due
        # Packets put off what is due: the one wake-up that stands looks again.
        if due < inf and (peer.wake is None or due < peer.wake.when()):
            if peer.wake is not None:
                peer.wake.cancel()
            peer.wake = self._loop.call_at(due, self._woken, peer)
        up = peer.session.state is State.UP
        if up is not peer.up:
            peer.up = up
            if peer.watches and (up or not peer.disabled):
                watches, peer.watches = peer.watches, {}
                for end in watches.values():
                    end.cancel()
                self._tell(peer, watches, COMING_UP)

    def _woken(self, peer: Peer) -> None:
        peer.wake = None
        self._turn(peer)

    # --- what the watches see

    def _over(self, key: Key, target: Target, patience: float) -> None:
        peer = self._peers[key]
        del peer.watches[target]
        self._tell(peer, [target], patience)

    def _tell(self, peer: Peer, targets: Iterable[Target], patience: float) -> None:
        verdict = peer.verdict(patience)
        self._report([(target, verdict) for target in targets])
        if not peer.watches and peer.end is None:
            peer.end = self._loop.call_later(LINGERING * patience, self._part, peer)


def _probe(target: Target) -> BfdProbe:
    probe = target.check.probe
    assert isinstance(probe, BfdProbe)
    return probe


def _key(target: Target) -> Key:
    return target.address, MULTIHOP if _probe(target).multihop else SINGLE_HOP


def _taken(port: int) -> Verdict:
    who = f"another program of the director has UDP port {port} (bird, bfdd, keepalived?)"
    return Verdict(Outcome.NEUTRAL, Code.INTERNAL, f"{who}: end BFD there, or leave this check out")
