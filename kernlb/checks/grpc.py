"""grpc.health.v1.Health/Check over HTTP/2, with or without TLS; SERVING is up."""

import asyncio
from dataclasses import replace

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.spec import GrpcProbe
from kernlb.checks.stream import Stream, connected
from kernlb.checks.verdict import Code, Verdict

STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
SERVING = 1
BUDGET = 16384  # bytes; an answer takes some dozen
SLICE = 512  # bytes of frames taken at a time: thousands of tiny ones must not hold up the others


class _Answer:
    def __init__(self) -> None:
        self.http = ""
        self.grpc = ""
        self.message = ""
        self.data = bytearray()
        self.ended = False

    def hear(self, events: list[h2.events.Event]) -> None:
        for event in events:
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self._take(list(event.headers or ()))
                case h2.events.DataReceived():
                    self.data += event.data or b""
                case h2.events.StreamEnded():
                    self.ended = True
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    raise Failed(Code.L7RSP, f"reset with HTTP/2 error {event.error_code}")

    def _take(self, headers: list[tuple[bytes | str, bytes | str]]) -> None:
        for name, value in headers:
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            match name if isinstance(name, str) else name.decode("latin-1"):
                case ":status":
                    self.http = text
                case "grpc-status":
                    self.grpc = text
                case "grpc-message":
                    self.message = text[:80]


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, GrpcProbe)
    tls = None if probe.tls is None else replace(probe.tls, alpn=probe.tls.alpn or ("h2",))
    async with connected(conversation, tls, budget=BUDGET) as stream:
        try:
            answer = await _call(stream, conversation, probe)
        except h2.exceptions.ProtocolError as error:
            raise Failed(Code.L7RSP, f"not HTTP/2: {error or type(error).__name__}"[:120]) from None
    if answer.http != "200":
        return conversation.down(Code.L7STS, f"HTTP status {answer.http or 'missing'}")
    if answer.grpc not in ("", "0"):
        return conversation.down(Code.L7STS, f"grpc-status {answer.grpc} {answer.message}".strip())
    status = _status(bytes(answer.data))
    text = STATUSES.get(status, f"status {status}")
    return conversation.up(Code.L7OK, text) if status == SERVING else conversation.down(Code.L7STS, text)


async def _call(stream: Stream, conversation: Conversation, probe: GrpcProbe) -> _Answer:
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
    http.initiate_connection()
    target = conversation.target
    literal = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    headers = [
        (":method", "POST"),
        (":scheme", "https" if probe.tls else "http"),
        (":authority", probe.authority or f"{literal}:{target.port}"),
        (":path", "/grpc.health.v1.Health/Check"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "kernlb"),
    ]
    http.send_headers(1, headers)
    http.send_data(1, _request(probe.service), end_stream=True)
    stream.write(http.data_to_send())
    answer = _Answer()
    while not answer.ended:
        data = await stream.read()
        if not data:
            raise EOFError
        if data.startswith(b"HTTP/"):  # to h2 the length of a frame that never ends
            raise Failed(Code.L7RSP, "speaks HTTP/1")
        for start in range(0, len(data), SLICE):
            answer.hear(http.receive_data(data[start : start + SLICE]))
            await asyncio.sleep(0)
        stream.write(http.data_to_send())
    return answer


def _request(service: str) -> bytes:
    """A gRPC message (flag, length) of HealthCheckRequest{service = 1}."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def _status(data: bytes) -> int:
    """HealthCheckResponse{status = 1}; an absent field is 0, UNKNOWN."""
    if len(data) < 5 or data[0] != 0 or len(data) < 5 + int.from_bytes(data[1:5], "big"):
        raise Failed(Code.L7RSP, "not a gRPC message")
    message = data[5 : 5 + int.from_bytes(data[1:5], "big")]
    return message[1] & 0x7F if message[:1] == b"\x08" and len(message) >= 2 else 0
