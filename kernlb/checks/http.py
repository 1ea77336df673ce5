"""HTTP/1.1: one request; the status, and if asked for the body, decide. The rest of the answer is never read."""

import asyncio

import h11

from kernlb import __version__
from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.matching import Matcher
from kernlb.checks.spec import HttpProbe
from kernlb.checks.stream import BUDGET, Stream, connected
from kernlb.checks.verdict import Code, Verdict

BATCH = 16  # events between pauses
MOST_EVENTS = 4096


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, HttpProbe)
    async with connected(conversation, probe.tls, budget=BUDGET + probe.body_limit) as stream:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=BUDGET)
        try:
            stream.write(_request(http, conversation, probe))
            await stream.drain()
            events = _Events(http, stream)
            response = await _response(events)
            text = f"{response.status_code} {response.reason.decode('latin-1')}".strip()[:80]
            if not any(each.first <= response.status_code <= each.last for each in probe.status):
                return conversation.down(Code.L7STS, text)
            if probe.match is not None:
                matcher = Matcher(probe.match)
                if not matcher.satisfied(await _body(events, probe.body_limit)):
                    return conversation.down(Code.L7RSP, matcher.complaint)
        except h11.RemoteProtocolError as error:
            raise Failed(Code.L7RSP, f"not HTTP: {error}"[:120]) from None
        return conversation.up(Code.L7OK, text)


def _request(http: h11.Connection, conversation: Conversation, probe: HttpProbe) -> bytes:
    target = conversation.target
    literal = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    usual = 443 if probe.tls else 80
    headers = [("Host", probe.host or (literal if target.port == usual else f"{literal}:{target.port}"))]
    given = {name.lower() for name, _ in probe.headers}
    defaults = [("User-Agent", f"kernlb/{__version__}"), ("Accept", "*/*"), ("Connection", "close")]
    headers += [(name, value) for name, value in defaults if name.lower() not in given]
    if probe.body:
        headers.append(("Content-Length", str(len(probe.body))))
    if "host" in given:
        headers = headers[1:]
    request = h11.Request(method=probe.method, target=probe.path, headers=[*headers, *probe.headers])
    data = http.send(request) or b""
    if probe.body:
        data += http.send(h11.Data(data=probe.body)) or b""
    return data + (http.send(h11.EndOfMessage()) or b"")


class _Events:
    """The events of one answer, given out slowly enough that crumbs by the thousand do not hold up the others."""

    def __init__(self, http: h11.Connection, stream: Stream) -> None:
        self._http = http
        self._stream = stream
        self._count = 0
        self._begun = False

    async def next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._stream.read()
            if not data and not self._begun:
                raise EOFError
            self._begun = True
            self._http.receive_data(data)
        self._count += 1
        if self._count > MOST_EVENTS:
            raise Failed(Code.L7RSP, "answers in crumbs")
        if self._count % BATCH == 0:
            await asyncio.sleep(0)
        assert isinstance(event, h11.Event)  # PAUSED is for those who send a second request
        return event


async def _response(events: _Events) -> h11.Response:
    while True:
        event = await events.next()
        if isinstance(event, h11.Response):
            return event
        if isinstance(event, h11.ConnectionClosed):
            raise EOFError


async def _body(events: _Events, limit: int) -> bytes:
    body = bytearray()
    while len(body) < limit and isinstance(event := await events.next(), h11.Data):
        body += event.data
    return bytes(body[:limit])
