"""gRPC health against a server built on h2's other side."""

import asyncio

import h2.config
import h2.connection
import h2.events

from kernlb.checks.spec import Check, GrpcProbe, TlsOptions
from kernlb.checks.verdict import Code, Outcome, Verdict
from tests.checks.servers import Handler, certificate, endless, saying, serving, verdict


def health(statuses: dict[bytes, int], *, http: str = "200") -> Handler:
    """Answers like grpc's reference service: by the service's name, grpc-status 5 for unknown ones."""

    async def handler(reader, writer):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        body = b""
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                if isinstance(event, h2.events.StreamEnded):
                    service = body[7:] if len(body) > 5 else b""
                    head = [(":status", http), ("content-type", "application/grpc")]
                    if service not in statuses:
                        connection.send_headers(1, [*head, ("grpc-status", "5"), ("grpc-message", "unknown")], True)
                        continue
                    connection.send_headers(1, head)
                    message = bytes([8, statuses[service]]) if statuses[service] else b""
                    connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message)
                    connection.send_headers(1, [("grpc-status", "0")], end_stream=True)
            writer.write(connection.data_to_send())
            await writer.drain()

    return handler


def judged(handler: Handler, *, behind=None, timeout: float = 2.0, **options) -> Verdict:
    async def run() -> Verdict:
        async with serving(handler, tls=behind) as port:
            return await verdict(Check(probe=GrpcProbe(**options), timeout=timeout), port)

    return asyncio.run(run())


def test_serving_is_up_and_everything_else_is_down():
    services = {b"": 1, b"shop": 1, b"mail": 2, b"new": 0}
    assert judged(health(services)).text == "L7OK SERVING"
    assert judged(health(services), service="shop").outcome is Outcome.UP
    assert judged(health(services), service="mail").text == "L7STS NOT_SERVING"
    assert judged(health(services), service="new").text == "L7STS UNKNOWN"
    assert judged(health(services), service="none").text == "L7STS grpc-status 5 unknown"
    assert judged(health(services, http="503")).text == "L7STS HTTP status 503"


def test_it_speaks_tls_with_alpn(tmp_path):
    tls, authority = certificate(tmp_path)
    tls.set_alpn_protocols(["h2"])
    options = TlsOptions(server_name="web.example", ca_file=str(authority))
    assert judged(health({b"": 1}), behind=tls, tls=options).outcome is Outcome.UP


def test_what_is_not_http2_or_never_ends_is_down():
    found = judged(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7RSP)
    settings = b"\0\0\0\x04\0\0\0\0\0"
    assert judged(endless(settings, settings), timeout=5).outcome is Outcome.DOWN
    assert judged(endless(settings, b"\xff" * 1000), timeout=5).outcome is Outcome.DOWN
