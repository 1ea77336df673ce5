"""HTTP/1.1: one request; the status, and if asked for the body, decide. The rest of the answer is never read."""

import h11

from kernlb import __version__
from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.matching import Matcher
from kernlb.checks.spec import HttpProbe
from kernlb.checks.stream import BUDGET, Stream, connected
from kernlb.checks.verdict import Code, Verdict


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, HttpProbe)
    async with connected(conversation, probe.tls, budget=BUDGET + probe.body_limit) as stream:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=BUDGET)
        try:
            stream.write(_request(http, conversation, probe))
            await stream.drain()
            response = await _response(http, stream)
            text = f"{response.status_code} {response.reason.decode('latin-1')}".strip()[:80]
            if not any(each.first <= response.status_code <= each.last for each in probe.status):
                return conversation.down(Code.L7STS, text)
            if probe.match is not None:
                matcher = Matcher(probe.match)
                if not matcher.satisfied(await _body(http, stream, probe.body_limit)):
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


async def _response(http: h11.Connection, stream: Stream) -> h11.Response:
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.read())
        elif isinstance(event, h11.Response):
            return event
        elif isinstance(event, h11.ConnectionClosed):
            raise EOFError


async def _body(http: h11.Connection, stream: Stream, limit: int) -> bytes:
    body = bytearray()
    while len(body) < limit:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.read())
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            break
    return bytes(body[:limit])
