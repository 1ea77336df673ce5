"""The JSON Schema accepts what load accepts, and refuses what is wrong in a single value."""

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from kernlb.config import load, schema, write
from kernlb.config.values import Config
from tests.strategies import configs

DATA = Path(__file__).parent / "data"
VALIDATOR = jsonschema.Draft202012Validator(schema())
SERVICE = 'bind = "192.0.2.1:80"\nservers.a = "10.0.0.1:80"\n'


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", ["tour", "everything"])
def test_the_examples_fit_the_schema(name: str) -> None:
    text = (DATA / f"{name}.toml").read_text()
    load(text, name)
    VALIDATOR.validate(tomllib.loads(text))


@given(configs())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_fits_the_schema(config: Config) -> None:
    VALIDATOR.validate(tomllib.loads(write(config)))


@pytest.mark.parametrize(
    "wrong",
    [
        "unknown = 1",
        "max_connections = 0",
        '[engine]\ndefault = "kernel"',
        '[timers]\ntcp = "15"',
        "[sync.master]\nid = 1",
        f"[service.a]\n{SERVICE}schedulr = 'rr'",
        f"[service.a]\n{SERVICE}quorum = true",
        f"[service.a]\n{SERVICE}scheduler = 'roundrobin'",
        f"[service.a]\n{SERVICE}check = {{ type = 'tcp', path = '/' }}",
        f"[service.a]\n{SERVICE}check = []",
        f"[service.a]\n{SERVICE}check = ['tcp', false]",
        f"[service.a]\n{SERVICE}check = ['tcp', {{ type = 'tcp', path = '/' }}]",
        f"[service.a]\n{SERVICE}servers.b = {{ address = '10.0.0.1:80', weight = 70000 }}",
        f"[service.a]\n{SERVICE}servers.b = 80",
        "[service.a]\nbind = '192.0.2.1'",
        "[service.a]\nservers = {}",
        f"[service.'a b']\n{SERVICE}",
    ],
)
def test_the_schema_refuses_what_load_refuses(wrong: str) -> None:
    document = tomllib.loads(wrong)
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(Exception, match="mistake"):
        load(wrong, "wrong.toml")


def test_every_key_is_described() -> None:
    bare = [
        f"{name}.{key}"
        for name, table in schema()["$defs"].items()
        for key, part in table.get("properties", {}).items()
        if "description" not in part
    ]
    assert bare == []


def test_no_key_takes_null_for_toml_has_none() -> None:
    def nulls(part: Any) -> int:
        match part:
            case dict():
                return (part.get("type") == "null") + sum(map(nulls, part.values()))
            case list():
                return sum(map(nulls, part))
        return 0

    assert nulls(schema()) == 0
