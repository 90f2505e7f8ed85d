"""What a Dockerfile says, as stages and steps that can be carried out without a container engine.

The parser is that of Docker itself. Of its substitutions only ``$NAME``, ``${NAME}`` and
``${NAME:?}`` are read; a step or a substitution of another kind is an error, never left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dockerfile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FIRST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What PATH is in a base image that says nothing else."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(:\?)?\}|(.))")


class RecipeError(Exception):
    """The Dockerfile says something that cannot be carried out here."""


@dataclass(frozen=True)
class Step:
    """One instruction: its word, such as RUN, its flags, and what follows."""

    word: str
    flags: tuple[str, ...]
    values: tuple[str, ...]
    line: int

    @property
    def source(self) -> str | None:
        """The stage that a COPY takes files from; None for the folder of the build."""
        named = [flag.removeprefix("--from=") for flag in self.flags]
        return named[0] if named else None


@dataclass(frozen=True)
class Stage:
    """A part of the image that begins with FROM; ``parent`` is a stage or a base image."""

    name: str
    parent: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Settings:
    """How a stage's commands run: what ENV, ARG, WORKDIR, USER, LABEL and ENTRYPOINT said."""

    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": FIRST_PATH})
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    volume: tuple[str, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """What a substitution sees: an ENV goes before an ARG of the same name."""
        return {**self.arguments, **self.environment}


def read_stages(path: Path, given: Mapping[str, str]) -> tuple[dict[str, Stage], dict[str, str]]:
    """The stages of a Dockerfile by name, in order, and the arguments before the first.

    Args:
        path: The Dockerfile.
        given: Build arguments, as ``docker build --build-arg``.

    Raises:
        RecipeError: A base image asks for an argument that is not given.
    """
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    name = ""
    for command in dockerfile.parse_file(str(path)):
        step = Step(command.cmd.upper(), command.flags, command.value, command.start_line)
        if step.word == "FROM":
            parent, _, name = step.values
            stages[name] = Stage(name, expand(parent, arguments), ())
        elif stages:
            stages[name] = replace(stages[name], steps=(*stages[name].steps, step))
        else:
            arguments.update(_argument(step, arguments, given))
    return stages, arguments


def needed(target: str, stages: Mapping[str, Stage]) -> list[Stage]:
    """The stages that one is made of, each after those that it needs, itself last."""
    if target not in stages:
        raise RecipeError(f"Expected one of the stages {', '.join(stages)}, found {target}.")
    found: dict[str, Stage] = {}
    for name in _mentions(stages[target]):
        if name in stages:
            found.update({stage.name: stage for stage in needed(name, stages)})
    return [*found.values(), stages[target]]


def settle(step: Step, before: Settings, given: Mapping[str, str]) -> Settings:
    """The settings after a step that changes no file.

    Raises:
        RecipeError: The step is of a kind that is not known here.
    """
    values = tuple(expand(value, before.variables) for value in step.values)
    changes: dict[str, Any]
    match step.word:
        case "ENV":
            changes = {"environment": {**before.environment, **_pairs(values)}}
        case "LABEL":
            changes = {"labels": {**before.labels, **_pairs(values)}}
        case "ARG":
            said = _argument(step, before.variables, given)
            changes = {"arguments": {**before.arguments, **said}}
        case "WORKDIR" | "USER":
            changes = {step.word.lower(): values[0]}
        case "VOLUME" | "ENTRYPOINT":
            changes = {step.word.lower(): values}
        case "STOPSIGNAL" | "HEALTHCHECK":
            changes = {}
        case _:
            raise RecipeError(f"Line {step.line}: {step.word} is not carried out here.")
    return replace(before, **changes)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in, as Docker does.

    Raises:
        RecipeError: One that must be set is not, or the substitution is of another kind.
    """

    def put(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not name:
            raise RecipeError(f"The substitution in {text} is not read here.")
        if match[3] and not variables.get(name):
            raise RecipeError(f"{name} must be given.")
        return variables.get(name, "")

    return _VARIABLE.sub(put, text.strip('"'))


def _argument(step: Step, known: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    name, _, default = step.values[0].partition("=")
    if name in given:
        return {name: given[name]}
    return {name: expand(default, known)} if default else {}


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _mentions(stage: Stage) -> list[str]:
    sources = [step.source for step in stage.steps if step.word == "COPY" and step.source]
    return [stage.parent, *sources]
