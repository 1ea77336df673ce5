"""TLS handshakes and certificates, with what openssl made and what it did not."""

import asyncio
import ssl
import time

import pytest

from kernlb.checks.certificate import not_after
from kernlb.checks.spec import Check, TlsOptions, TlsProbe
from kernlb.checks.verdict import Code, Outcome, Verdict
from tests.checks.servers import Handler, certificate, endless, saying, serving, silent, verdict


def judged(handler: Handler, options: TlsOptions, *, behind=None, timeout: float = 2.0) -> Verdict:
    async def run() -> Verdict:
        async with serving(handler, tls=behind) as port:
            return await verdict(Check(probe=TlsProbe(tls=options), timeout=timeout), port)

    return asyncio.run(run())


def test_a_handshake_is_up(tmp_path):
    tls, authority = certificate(tmp_path)
    found = judged(silent(), TlsOptions(ca_file=str(authority)), behind=tls)
    assert (found.outcome, found.code) == (Outcome.UP, Code.L6OK)


@pytest.mark.parametrize("verify", [True, False])
def test_a_certificate_near_its_end_is_down_verified_or_not(tmp_path, verify):
    tls, authority = certificate(tmp_path, days=10)
    for days, outcome in ((9, Outcome.UP), (11, Outcome.DOWN)):
        options = TlsOptions(ca_file=str(authority), verify=verify, certificate_days=days)
        assert judged(silent(), options, behind=tls).outcome is outcome


def test_the_end_of_a_certificate_is_read_from_its_bytes(tmp_path):
    _, file = certificate(tmp_path, days=10)
    der = ssl.PEM_cert_to_DER_cert(file.read_text())
    assert not_after(der) == pytest.approx(time.time() + 10 * 86400, abs=60)


def test_bytes_that_are_no_certificate_have_no_end(tmp_path):
    _, file = certificate(tmp_path)
    der = ssl.PEM_cert_to_DER_cert(file.read_text())
    assert not_after(b"") is None
    assert all(not_after(der[:length]) is None for length in range(0, len(der), 7))
    for position in range(0, 120):
        not_after(der[:position] + bytes([der[position] ^ 0xFF]) + der[position + 1 :])


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 60000, b"\x15\x03\x03\x00\x02\x02\x28"],
)
def test_what_is_not_tls_is_down(garbage):
    found = judged(saying(garbage), TlsOptions(), timeout=1.0)
    assert found.outcome is Outcome.DOWN
    assert found.code in (Code.L6RSP, Code.L6TOUT)


def test_a_server_that_closes_in_the_handshake_is_down_and_says_so():
    async def closing(reader, writer):
        await reader.read(1 << 16)

    assert judged(closing, TlsOptions()).text == "L6RSP closed before it answered"


def test_garbage_without_end_is_down():
    assert judged(endless(b"", b"\x16\x03\x01\x00\x05garba"), TlsOptions(), timeout=1.0).outcome is Outcome.DOWN


def test_a_server_silent_in_the_handshake_times_out_at_layer_6():
    assert judged(silent(), TlsOptions(), timeout=0.3).code is Code.L6TOUT
