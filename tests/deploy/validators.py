"""What each platform's own descriptions say of a manifest: a list of what is wrong with it.

Kubernetes and CloudFormation have validators of their own. Google describes its interfaces in
Discovery documents, which become a JSON Schema here; Microsoft generates Python types from its own.
Names that these do not know are wrong, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, get_args, get_origin, get_type_hints

import kubernetes_validate
from azure.mgmt.appcontainers import models, types
from jsonschema import Draft202012Validator
from typing_extensions import is_typeddict  # that of typing is of another class before 3.12

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES = "1.37"
_PARAMETER = re.compile(r"\[(string\()?parameters\('(\w+)'\)\)?\]")


def check_kubernetes(manifest: dict[str, Any]) -> list[str]:
    """By the schemas of Kubernetes, unknown fields refused."""
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as exc:
        return [str(exc.message)]
    return []


def check_cloudformation(template: Path) -> list[str]:
    """By cfn-lint, with its warnings."""
    program = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run(
        [program, "--format", "parseable", "--regions", "eu-central-1", "--template", template],
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.splitlines()
    assert bool(found) == bool(done.returncode), done.stderr
    return found


def check_google(body: dict[str, Any], document: str, name: str) -> list[str]:
    """By Google's Discovery document of an interface, such as run.v1, and a type in it."""
    place = files("googleapiclient") / "discovery_cache" / "documents" / f"{document}.json"
    described = json.loads(place.read_text())["schemas"]
    assert name in described
    schema = {"$defs": {kind: _closed(said) for kind, said in described.items()}, **_refer(name)}
    errors = Draft202012Validator(schema).iter_errors(body)
    return [f"{error.json_path}: {error.message}" for error in errors]


def _refer(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _closed(said: dict[str, Any]) -> dict[str, Any]:
    """A type of a Discovery document as JSON Schema that knows no other names."""
    if "$ref" in said:
        return _refer(said["$ref"])
    schema = {key: said[key] for key in ("type", "enum") if key in said and said[key] != "any"}
    if "items" in said:
        schema["items"] = _closed(said["items"])
    if said.get("type") == "object":
        schema["properties"] = {
            name: _closed(kind) for name, kind in said.get("properties", {}).items()
        }
        more = said.get("additionalProperties")
        schema["additionalProperties"] = _closed(more) if more else False
    return schema


def check_azure(template: dict[str, Any]) -> list[str]:
    """By Microsoft's types of a Container Apps job, the only resource, with its parameters in."""
    parameters = template["parameters"]
    (resource,) = template["resources"]
    found = [f"no parameter {name}" for name in _asked(template) - set(parameters)]
    own = {"type", "apiVersion", "name"}
    if not own <= set(resource) or resource["type"] != "Microsoft.App/jobs":
        found.append(f"expected a Microsoft.App/jobs, found {resource.get('type')}")
    body = {key: value for key, value in _filled(resource, parameters).items() if key not in own}
    return [*found, *_mistakes(body, types.Job, "$")]


def _asked(template: dict[str, Any]) -> set[str]:
    return {name for _, name in _PARAMETER.findall(json.dumps(template["resources"]))}


def _filled(value: Any, parameters: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {_filled(key, parameters): _filled(one, parameters) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, parameters) for one in value]
    match = _PARAMETER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    parameter = parameters.get(match[2], {"type": "string"})
    return 1 if parameter["type"] == "int" and not match[1] else "text"


def _mistakes(value: Any, kind: Any, place: str) -> Iterator[str]:
    """Where a value is not of a type: a TypedDict, an enum, a list, a mapping or a plain one."""
    options = get_args(kind) if get_origin(kind) not in {list, dict, None} else ()
    enums = [one for one in options if isinstance(one, type) and issubclass(one, Enum)]
    if is_typeddict(kind):
        yield from _members(value, kind, place)
    elif enums:
        if value not in [member.value for member in enums[0]]:
            yield f"{place}: {value!r} is no {enums[0].__name__}"
    elif get_origin(kind) in {list, dict}:
        outer, inner = get_origin(kind), get_args(kind)[-1]
        if not isinstance(value, outer):
            yield f"{place}: {value!r} is no {outer.__name__}"
            return
        pairs = value.items() if outer is dict else enumerate(value)
        for key, one in pairs:
            yield from _mistakes(one, inner, f"{place}.{key}")
    elif kind is float:
        if not isinstance(value, int | float):
            yield f"{place}: {value!r} is no number"
    elif kind is not Any and not isinstance(value, kind):
        yield f"{place}: {value!r} is no {kind.__name__}"


def _members(value: Any, kind: Any, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no {kind.__name__}"
        return
    names = {**vars(models), **vars(types)}
    hints = get_type_hints(kind, globalns=names)
    marked = get_type_hints(kind, globalns=names, include_extras=True)
    for key, hint in marked.items():
        if get_origin(hint) is Required and key not in value:
            yield f"{place}: {key} is missing"
    for key, one in value.items():
        if key in hints:
            yield from _mistakes(one, hints[key], f"{place}.{key}")
        else:
            yield f"{place}: {key} is not known"
