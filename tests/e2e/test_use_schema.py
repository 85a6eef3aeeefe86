"""The JSON Schemas that ``hwc schema`` prints are schemas, and every shipped file holds to its own."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwc.spec.project import facts_dir

if TYPE_CHECKING:
    from command import Cli

KINDS = ("model", "target", "prices", "project", "serving")
FILES = {
    "model": sorted(facts_dir("models").glob("*.toml")),
    "target": sorted(facts_dir("targets").glob("*.toml")),
    "prices": sorted((facts_dir("targets") / "prices").glob("*.toml")),
}
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}


def faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str = "$") -> Iterator[str]:
    """Yield where a value breaks a schema: the part of JSON Schema 2020-12 that pydantic writes."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        yield from faults(value, target, root, place)
    for kind in ("anyOf", "oneOf"):
        if kind in schema and all(list(faults(value, entry, root, place)) for entry in schema[kind]):
            yield f"{place}: none of {kind}"
    if "const" in schema and value != schema["const"]:
        yield f"{place}: not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: not one of {schema['enum']}"
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        yield f"{place}: not a {kind}"
        return
    if isinstance(value, dict):
        yield from _object_faults(value, schema, root, place)
    if isinstance(value, list):
        for at, inner in enumerate(value):
            yield from faults(inner, schema.get("items", {}), root, f"{place}[{at}]")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{place}: does not match {schema['pattern']}"
    if isinstance(value, (int, float)):
        low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
        if (low is not None and value < low) or (above is not None and value <= above):
            yield f"{place}: too small"


def _needed(schema: Mapping[str, Any], good: Mapping[str, Any]) -> list[str]:
    """Return the keys that a file may not lose: those of the schema, and those of the alternative that it takes."""
    taken = [entry["required"] for entry in schema.get("anyOf", ()) if set(entry["required"]) <= set(good)]
    return [*schema["required"], *(taken[0] if taken else ())]


def _object_faults(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], place: str
) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", []):
        if name not in value:
            yield f"{place}: lacks {name}"
    for name, inner in value.items():
        if name in known:
            yield from faults(inner, known[name], root, f"{place}.{name}")
        elif others is False:
            yield f"{place}: unknown {name}"
        elif isinstance(others, Mapping):
            yield from faults(inner, others, root, f"{place}.{name}")


def all_faults(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return every fault, by the ``jsonschema`` package where it is installed, and by the check above anyhow."""
    found = list(faults(value, schema, schema))
    if importlib.util.find_spec("jsonschema") is not None:
        import jsonschema

        jsonschema.Draft202012Validator.check_schema(schema)
        found += [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]
    return found


@pytest.fixture(scope="module")
def schemas(shared_mlp: Cli) -> dict[str, Any]:
    return {kind: shared_mlp("schema", kind).ok().json() for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_names_its_dialect_describes_an_object_and_refers_to_what_it_holds(kind: str, schemas) -> None:
    schema = schemas[kind]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["type"] == "object"
    assert schema["properties"]
    for reference in set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(schema))):
        assert reference in schema["$defs"]


@pytest.mark.parametrize(("kind", "file"), [(kind, file) for kind, files in FILES.items() for file in files])
def test_every_shipped_file_holds_to_its_schema(kind: str, file: Path, schemas) -> None:
    assert all_faults(json.loads(json.dumps(tomllib.loads(file.read_text()), default=str)), schemas[kind]) == []


@pytest.mark.parametrize("kind", FILES)
def test_a_schema_refuses_an_unknown_key_and_a_missing_one(kind: str, schemas) -> None:
    good = json.loads(json.dumps(tomllib.loads(FILES[kind][0].read_text()), default=str))
    assert all_faults({**good, "colour": "red"}, schemas[kind]) != []
    for name in _needed(schemas[kind], good):
        assert all_faults({key: value for key, value in good.items() if key != name}, schemas[kind]) != []


def test_the_serving_document_of_a_build_holds_to_its_schema(shared_quantised_mlp: Cli, schemas) -> None:
    for document in shared_quantised_mlp("inspect", "mlp", "--format", "json").ok().json()["serving"]:
        assert all_faults(document, schemas["serving"]) == []
        assert all_faults({**document, "status": "perhaps"}, schemas["serving"]) != []


def test_an_unknown_schema_is_refused(shared_mlp: Cli) -> None:
    assert shared_mlp("schema", "colour").code == 2
