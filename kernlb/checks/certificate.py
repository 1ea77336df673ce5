"""Until when an X.509 certificate is valid, read from its DER (RFC 5280, 4.1), verified or not.

The ssl module tells the dates only of certificates that it verified.
"""

import time
from calendar import timegm

SEQUENCE, UTC_TIME, GENERALIZED_TIME, EXPLICIT_0 = 0x30, 0x17, 0x18, 0xA0
DAY = 86400


def days_left(der: bytes) -> float | None:
    """None where the bytes are no certificate."""
    until = not_after(der)
    return None if until is None else (until - time.time()) / DAY


def not_after(der: bytes) -> float | None:
    """Seconds since the epoch."""
    try:
        _, certificate, _ = _element(der, SEQUENCE)
        _, body, _ = _element(certificate, SEQUENCE)
        if body[0] == EXPLICIT_0:  # the version, absent in version 1
            body = _element(body)[2]
        for _ in ("serialNumber", "signature", "issuer"):
            body = _element(body)[2]
        _, validity, _ = _element(body, SEQUENCE)
        tag, text, _ = _element(_element(validity)[2])
        form = {UTC_TIME: "%y%m%d%H%M%SZ", GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[tag]
        return float(timegm(time.strptime(text.decode("ascii"), form)))
    except (IndexError, KeyError, ValueError):
        return None


def _element(data: bytes, expected: int | None = None) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    end = start + length
    if end > len(data) or (expected is not None and tag != expected):
        raise ValueError("not what was expected")
    return tag, data[start:end], data[end:]
