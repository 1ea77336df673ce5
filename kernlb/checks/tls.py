"""A TLS handshake: the certificate, if it is to be verified, and the days it has left."""

from kernlb.checks.dialogue import Conversation
from kernlb.checks.spec import TlsProbe
from kernlb.checks.stream import connected
from kernlb.checks.verdict import Code, Verdict


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, TlsProbe)
    async with connected(conversation, probe.tls):
        conversation.first_byte()
        return conversation.up(Code.L6OK)
