"""A format is known by its content."""

from pathlib import Path

import pytest

from kernlb.formats.detect import Format, detect
from tests.formats.haproxy_corpus import ACCEPTED

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ((DATA / "haproxy.cfg").read_text(), Format.HAPROXY),
        ((DATA / "keepalived.conf").read_text(), Format.KEEPALIVED),
        ("-A -t 10.0.0.1:80 -s wrr\n", Format.IPVSADM),
        ("# saved\nipvsadm --add-service -t 10.0.0.1:80\n", Format.IPVSADM),
        ("[defaults]\nscheduler = 'wrr'\n", Format.TOML),
        ("# a comment\n\n[service.api]\n", Format.TOML),
        ("defaults = 3\n", Format.TOML),
        ("include = 'x'\n", Format.TOML),
        ("service.api.bind = []\n", Format.TOML),
        ("include /etc/keepalived/*.conf\n", Format.KEEPALIVED),
        ("! comment\nvirtual_server 10.0.0.1 80 {\n", Format.KEEPALIVED),
        ("", Format.TOML),
        ("\x00\x01binary", Format.TOML),
        *((text, Format.HAPROXY) for text in ACCEPTED),
    ],
)
def test_a_format_is_known_by_its_content(text: str, wanted: Format) -> None:
    assert detect(text) is wanted
