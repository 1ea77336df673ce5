"""The JSON Schema of kernlb.toml, made of the same models that read it."""

from typing import Any

from kernlb.config.check_build import KEYS_OF, TIMING
from kernlb.config.fields import NAME
from kernlb.config.keys import Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """For editors and for other tools: every key with its meaning, its values and examples."""
    made = _without_null(Document.model_json_schema(mode="validation"))
    check = made["$defs"]["CheckKeys"]
    check["allOf"] = [
        {
            "if": {"properties": {"type": {"const": str(kind)}}, "required": ["type"]},
            "then": {"propertyNames": {"enum": ["type", *sorted(TIMING), *sorted(known)]}},
        }
        for kind, known in KEYS_OF.items()
    ]
    names = {"pattern": f"^{NAME.pattern}$"}
    made["properties"]["service"]["propertyNames"] = names
    made["$defs"]["ServiceKeys"]["properties"]["servers"]["propertyNames"] = names
    return {"$schema": DIALECT, **made, "title": "kernlb.toml"}


def _without_null(part: Any) -> Any:
    """TOML has no null: an optional key is left out."""
    match part:
        case {"anyOf": [*options], **rest} if {"type": "null"} in options:
            left = [option for option in options if option != {"type": "null"}]
            rest.pop("default", None)
            merged = rest if len(left) > 1 else {**left[0], **rest}
            return _without_null(merged | ({"anyOf": left} if len(left) > 1 else {}))
        case dict():
            plain = {key: value for key, value in part.items() if not (key == "default" and value is None)}
            return {key: _without_null(value) for key, value in plain.items()}
        case list():
            return [_without_null(item) for item in part]
        case _:
            return part
