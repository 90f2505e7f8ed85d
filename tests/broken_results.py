"""Broken results: what `run.json`, the tables, plans and leases look like after somebody's edit."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2, 10**9, 10**30, 0.5, -0.0, 1e-300, 1e38, -1e38, 1e308),
    *("", "zzz", "../x", "\u202e\0", "20260230-000000", "99991231-235959", "9" * 5000),
    *("2026-01-01", "9999-12-31T23:59:59+00:00", [], {}, [[]], {"a": 1}, ["b"]),
)
"""What stands in place of a sound value."""


def places_of(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a JSON document lies; of a list of numbers, the first alone."""
    if path:
        yield path
    if isinstance(part, dict):
        for name, value in part.items():
            yield from places_of(value, (*path, name))
    elif isinstance(part, list):
        for at, value in enumerate(part[:2]):
            yield from places_of(value, (*path, at))


def changed(document: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy with another value at one place."""
    document = copy.deepcopy(document)
    part = document
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = change
    return document


def broken_documents(document: Any, rng: np.random.Generator, count: int) -> Iterator[Any]:
    """Copies of a JSON document, each with one value removed or replaced."""
    places = list(places_of(document))
    for _ in range(count):
        path = places[rng.integers(len(places))]
        choice = int(rng.integers(-1, len(VALUES)))
        if choice >= 0:
            yield changed(document, path, VALUES[choice])
            continue
        part = broken = copy.deepcopy(document)
        for step in path[:-1]:
            part = part[step]
        del part[path[-1]]
        yield broken


def write_table(folder: Path, table: pa.Table) -> None:
    """Put a Parquet table into a run, with its hash and nothing else right in run.json."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    (folder / "predictions.parquet").write_bytes(buffer.getvalue())
    run = json.loads((folder / "run.json").read_bytes())
    run["parquet_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / "run.json").write_text(json.dumps(run))


def broken_tables(table: pa.Table, most: int = 10**6) -> Iterator[tuple[str, pa.Table]]:
    """Tables with one column changed: gone, doubled, empty, of another type, of strange values."""
    for at, name in enumerate(table.column_names):
        kind = table.schema.field(at).type
        cells = {"null": pa.nulls(len(table), kind)}
        others = {"int": [7] * len(table), "text": ["="] * len(table), "list": [["a"]] * len(table)}
        cells |= {f"{other} cells": pa.array(values) for other, values in others.items()}
        cells["bytes"] = pa.array([b"a" * 9] * len(table))
        if kind == pa.float64():
            for value in (float("nan"), float("inf"), -0.5, 7.0, 1e308):
                cells[str(value)] = pa.array([value] * len(table), kind)
        if kind == pa.string():
            for value in ("", "zzz", "../../x", "\0\u202e"):
                cells[repr(value)] = pa.array([value] * len(table), kind)
        if kind == pa.int32():
            cells["negative"] = pa.array([-(2**31)] * len(table), kind)
        yield f"no {name}", table.remove_column(at)
        yield f"{name} twice", table.append_column(table.schema.field(at), table.column(at))
        for what, values in cells.items():
            yield f"{name} {what}", table.set_column(at, name, values)
    text = pa.array(["x" * most] * len(table))
    yield "another model", table.append_column("probability_x", pa.array([0.5] * len(table)))
    yield "a foreign column", table.append_column("foreign", text)
    yield "no rows", table.slice(0, 0)
    yield "fewer rows", table.slice(1)
