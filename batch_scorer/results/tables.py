"""Conversion of rows to CSV and Parquet tables, and back. Pure functions that work in chunks.

In the CSV, a text cell that a spreadsheet would run as a formula gets a leading apostrophe. The
Parquet file holds every text exactly, and the hash of the run's configuration in its metadata. A
caller may add text columns with a cell for each row; they are read back under the same names.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from batch_scorer.results.old_versions import RENAMED_COLUMNS
from batch_scorer.results.schema import SCHEMA_VERSION, Score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batch_scorer.results.schema import ModelUsed

    ExtraColumns = Mapping[str, Sequence[str]]

FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
CHUNK_ROWS = 1000
"""Rows converted at once, which bounds the memory."""
_PROBABILITY_PREFIX = "probability_"
_SCORE_COLUMNS = {*Score.__struct_fields__} - {"probabilities"}
_ENCODED_NAMES = {field.name: field.encode_name for field in msgspec.structs.fields(Score)}
"""Names that msgspec reads, which checkpoints keep from older versions."""
_MIN_ROW_BYTES = 4
"""Smallest size of a row in a genuine file, since every name and stamp differs."""
_FREE_CELL_BYTES, _MAX_INFLATION_RATIO = 10_000_000, 30
"""Limit for the size of the cells: a fixed part, and a part per byte of the file."""
_NUMBER_BYTES = 8
_REQUIRED_COLUMNS = ("image", "status")
"""Columns that every version wrote."""
_ALLOWED_CODECS = {"SNAPPY", "UNCOMPRESSED"}
_CONFIG_HASH_KEY, _SCHEMA_VERSION_KEY, _EXTRA_COLUMNS_KEY = (
    b"cxr method",
    b"cxr schema version",
    b"cxr added columns",
)
_DICTIONARY_COLUMNS = ["status", "reason", "label", "prediction", "model"]
"""Columns with few distinct values; a dictionary for any other column only takes memory."""
_FIRST_COLUMNS = ("image", "status", "reason", "detail", "label", "prediction")
_LAST_COLUMNS = (
    *("agreement", "spread", "duplicate_of", "width_px", "height_px"),
    *("brightness", "contrast", "patient", "study", "sha256"),
)


def build_columns(rows: Sequence[Score], models: Sequence[ModelUsed]) -> dict[str, list[Any]]:
    """Build the named columns of rows, in the order of the files, without extra columns."""
    names = [model.name for model in models]
    threshold = models[0].threshold
    scored = [row.status == "scored" for row in rows]
    table: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in _FIRST_COLUMNS
    }
    table["probability"] = [
        row.probability if ok else None for row, ok in zip(rows, scored, strict=True)
    ]
    table["threshold"] = [threshold if ok else None for ok in scored]
    for name in ("undecided", "typicality", "atypical", "viral"):
        table[name] = [getattr(row, name) for row in rows]
    table["model"] = [names[0] if ok else "" for ok in scored]
    for index, name in enumerate(names):
        table[f"{_PROBABILITY_PREFIX}{name}"] = [
            row.probabilities[index] if ok else None for row, ok in zip(rows, scored, strict=True)
        ]
    for name in _LAST_COLUMNS:
        table[name] = [getattr(row, name) for row in rows]
    return table


def encode_csv(
    rows: Sequence[Score], models: Sequence[ModelUsed], extra_columns: ExtraColumns | None = None
) -> bytes:
    """Encode rows as CSV in UTF-8, with a header line."""
    data = io.BytesIO()
    text = io.TextIOWrapper(data, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_column_names(models, extra_columns))
    for part in _iter_chunks(rows, models, extra_columns):
        for cells in zip(*part.values(), strict=True):
            writer.writerow([_format_cell(value) for value in cells])
    return data.getvalue()


def encode_parquet(
    rows: Sequence[Score],
    models: Sequence[ModelUsed],
    config_hash: str,
    extra_columns: ExtraColumns | None = None,
) -> bytes:
    """Encode rows as Parquet, with each file's stamp, so that a later run can reuse them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    metadata = {
        _CONFIG_HASH_KEY: config_hash.encode(),
        _SCHEMA_VERSION_KEY: str(SCHEMA_VERSION).encode(),
        _EXTRA_COLUMNS_KEY: msgspec.json.encode([*(extra_columns or {})]),
    }
    extra_columns = {**(extra_columns or {}), "stamp": [row.stamp for row in rows]}
    schema = pa.schema(
        [(name, _arrow_type(name)) for name in _column_names(models, extra_columns)],
        metadata=metadata,
    )
    with pq.ParquetWriter(data, schema, use_dictionary=_DICTIONARY_COLUMNS) as writer:
        for part in _iter_chunks(rows, models, extra_columns):
            writer.write_table(pa.table(part, schema=schema))
    return data.getvalue()


def build_arrow_table(
    rows: Sequence[Score],
    models: Sequence[ModelUsed],
    extra_columns: ExtraColumns | None = None,
) -> Any:
    """Build a `pyarrow.Table` of the rows, with the columns of the CSV file and their types."""
    import pyarrow as pa

    names = _column_names(models, extra_columns)
    schema = pa.schema([(name, _arrow_type(name)) for name in names])
    chunks = _iter_chunks(rows, models, extra_columns)
    return pa.Table.from_batches([pa.RecordBatch.from_pydict(c, schema) for c in chunks], schema)


def _column_names(models: Sequence[ModelUsed], extra_columns: ExtraColumns | None) -> list[str]:
    """Return the names of all columns.

    Raises:
        ValueError: An extra column has the name of another one.
    """
    names = [*build_columns((), models), *(extra_columns or {})]
    if len({*names}) < len(names):
        raise ValueError(f"expected columns of different names, found {', '.join(names)}")
    return names


def _iter_chunks(
    rows: Sequence[Score], models: Sequence[ModelUsed], extra_columns: ExtraColumns | None
) -> Iterator[dict[str, Sequence[Any]]]:
    """Yield all columns in chunks of ``CHUNK_ROWS`` rows."""
    for start in range(0, len(rows), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        more = {name: cells[part] for name, cells in (extra_columns or {}).items()}
        yield build_columns(rows[part], models) | more


@dataclass(frozen=True)
class Table:
    """Content of a Parquet file: configuration hash, models in order, rows and extra columns."""

    config_hash: str
    models: tuple[str, ...]
    rows: list[Score]
    extra_columns: dict[str, list[str]]


def decode_parquet(data: bytes) -> Table:
    """Decode a Parquet file of `encode_parquet`; skip unknown columns.

    Raises:
        ValueError: It is another file, or would take far more memory than its size explains.
    """
    import pyarrow as pa

    try:
        return _decode_table(data)
    except (pa.ArrowException, OSError) as exc:
        raise ValueError(str(exc)) from exc


def _decode_table(data: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    remaining_bytes = _FREE_CELL_BYTES + _MAX_INFLATION_RATIO * len(data)
    metadata = pq.ParquetFile(pa.BufferReader(data))
    extra = _find_extra_columns(metadata.schema_arrow)
    columns = _check_metadata(metadata, extra, len(data), remaining_bytes)
    text = [name for name, known_as in columns.items() if _arrow_type(known_as) == pa.string()]
    probability_columns = [name for name in columns if name.startswith(_PROBABILITY_PREFIX)]
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=text)
    rows: list[Score] = []
    cells: dict[str, list[str]] = {name: [] for name in extra}
    for chunk in file.iter_batches(CHUNK_ROWS, columns=[*columns]):
        remaining_bytes -= _count_cell_bytes(chunk)
        if remaining_bytes < 0:
            raise ValueError("its cells take far more room than the file")
        records = _decode_dictionaries(chunk, columns).to_pylist()
        rows += [_to_score(record, probability_columns) for record in records]
        for name in extra:
            cells[name] += msgspec.convert([record[name] for record in records], list[str])
    config_hash = (file.schema_arrow.metadata or {}).get(_CONFIG_HASH_KEY, b"").decode()
    models = tuple(name.removeprefix(_PROBABILITY_PREFIX) for name in probability_columns)
    return Table(
        config_hash, models, rows, {name: found for name, found in cells.items() if any(found)}
    )


def _find_extra_columns(schema: Any) -> list[str]:
    """Find the extra columns of a file, by their present names.

    Files of version 1 always had them, empty if unused.

    Raises:
        ValueError: Its metadata differ from those of `encode_parquet`.
    """
    metadata = schema.metadata or {}
    version = int(metadata.get(_SCHEMA_VERSION_KEY, b"1"))
    if version > SCHEMA_VERSION:
        raise ValueError(f"it has version {version}, expected at most {SCHEMA_VERSION}")
    names = [RENAMED_COLUMNS[name] for name in schema.names if name in RENAMED_COLUMNS]
    if version > 1:
        names = msgspec.json.decode(metadata.get(_EXTRA_COLUMNS_KEY, b"[]"), type=list[str])
    return [name for name in names if name not in _SCORE_COLUMNS]


def _check_metadata(file: Any, extra: list[str], size_bytes: int, max_bytes: int) -> dict[str, str]:
    """Check the metadata of a file before its cells are read.

    Args:
        file: The Parquet file.
        extra: The extra columns.
        size_bytes: Size of the file.
        max_bytes: Limit for the size of its cells.

    Returns:
        The present name of each column to read.

    Raises:
        ValueError: They are not the metadata of a table of rows.
    """
    if file.metadata.num_rows > size_bytes // _MIN_ROW_BYTES:
        raise ValueError(f"{file.metadata.num_rows} rows in {size_bytes} bytes")
    for group in range(file.metadata.num_row_groups):
        metadata = file.metadata.row_group(group)
        codecs = {metadata.column(i).compression for i in range(metadata.num_columns)}
        if not codecs <= _ALLOWED_CODECS:
            raise ValueError(f"it is compressed by {', '.join(sorted(codecs - _ALLOWED_CODECS))}")
    known = {name: RENAMED_COLUMNS.get(name, name) for name in file.schema_arrow.names}
    columns = {
        name: known_as
        for name, known_as in known.items()
        if known_as in {*_SCORE_COLUMNS, *extra} or name.startswith(_PROBABILITY_PREFIX)
    }
    for name, known_as in columns.items():
        indices = file.schema_arrow.get_all_field_indices(name)
        if len(indices) != 1:
            raise ValueError(f"it has {len(indices)} columns called {name}")
        if (found := file.schema_arrow.field(indices[0]).type) != _arrow_type(known_as):
            raise ValueError(f"its column {name} holds {found}, expected {_arrow_type(known_as)}")
    if missing := [name for name in (*_REQUIRED_COLUMNS, *extra) if name not in columns.values()]:
        raise ValueError(f"it has no column {missing[0]}")
    if not any(name.startswith(_PROBABILITY_PREFIX) for name in columns):
        raise ValueError(f"it has no column {_PROBABILITY_PREFIX}… of a model")
    _check_uncompressed_size(file.metadata, set(columns), max_bytes)
    return columns


def _check_uncompressed_size(metadata: Any, names: set[str], max_bytes: int) -> None:
    """Refuse a file whose metadata state far larger columns than the file explains."""
    chunks = (
        metadata.row_group(group).column(i)
        for group in range(metadata.num_row_groups)
        for i in range(metadata.num_columns)
    )
    if sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in names) > max_bytes:
        raise ValueError("its columns take far more room than the file")


def _decode_dictionaries(chunk: Any, names: dict[str, str]) -> Any:
    """Return a chunk with plain text cells, and with the name of each column for `msgspec`."""
    import pyarrow as pa

    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in chunk.columns
    ]
    found = [names[name] for name in chunk.schema.names]
    return pa.RecordBatch.from_arrays(
        columns, names=[_ENCODED_NAMES.get(name, name) for name in found]
    )


def _count_cell_bytes(chunk: Any) -> int:
    """Return the bytes of a chunk's cells once its dictionaries are decoded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return sum(
        (pc.sum(pc.take(pc.binary_length(column.dictionary), column.indices)).as_py() or 0)
        if pa.types.is_dictionary(column.type)
        else _NUMBER_BYTES * chunk.num_rows
        for column in chunk.columns
    )


def _to_score(record: dict[str, Any], names: list[str]) -> Score:
    probabilities = [record[name] for name in names] if record["status"] == "scored" else []
    row = msgspec.convert(record | {"probabilities": probabilities}, Score)
    if not row.is_complete(len(names)):
        raise ValueError(
            f"expected a prediction for scored files alone, found {row.status} "
            f"with {row.prediction or 'none'}"
        )
    return row


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).replace(
        "\r", "\\r"
    )  # Python's csv does not quote it: a reader would see two rows
    return f"'{text}" if text.startswith(FORMULA_PREFIXES) else text


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    if name in ("width_px", "height_px"):
        return pa.int32()
    if name in ("undecided", "atypical"):
        return pa.bool_()
    numbers = (
        *("threshold", "agreement", "spread", "typicality", "viral", "probability"),
        *("brightness", "contrast"),
    )
    return pa.float64() if name in numbers or name.startswith(_PROBABILITY_PREFIX) else pa.string()
