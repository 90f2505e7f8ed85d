"""Tables that somebody else put into an output: refused before they fill the memory."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_scorer.errors import OutputError
from batch_scorer.results import store
from batch_scorer.results.tables import decode_parquet, encode_parquet
from batch_scorer.storage.output import open_output
from tests.factories import make_models, make_rows


def parquet(compression="snappy", **columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression=compression)
    return buffer.getvalue()


def repeated(text, times, kind=None):
    indices = pa.array([0] * times, pa.int32())
    values = pa.array([text], kind or pa.string())
    return pa.DictionaryArray.from_arrays(indices, values)


BOMBS = {
    "rows": lambda: parquet(image=repeated("a", 3_000_000), status=repeated("scored", 3_000_000)),
    "text": lambda: parquet(
        image=repeated("ab" * 200_000, 2000),
        status=repeated("scored", 2000),
        sha256=pa.array([f"{number:064x}" for number in range(2000)]),
    ),
    "codec": lambda: parquet(
        "zstd", image=pa.array(["a" * 50_000_000]), status=pa.array(["scored"])
    ),
    "kind": lambda: parquet(image=pa.array([["a"] * 100_000]), status=pa.array(["scored"])),
    "nested": lambda: parquet(image=pa.array([{"a": {"b": "c"}}]), status=pa.array(["scored"])),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_table_that_claims_much_is_refused(kind, tmp_path):
    data = BOMBS[kind]()
    assert len(data) < 3_000_000
    with pytest.raises(ValueError, match=r"rows in|far more room|compressed by|column image holds"):
        decode_parquet(data)
    place = open_output(tmp_path)
    place.write(store.PARQUET_FILE, data)
    with pytest.raises(OutputError, match=r"predictions\.parquet in .* cannot be read: "):
        store.read_rows(place, "")


def test_what_the_program_wrote_is_read_whatever_its_rows_hold():
    models = make_models("cnn")
    rows = make_rows(models, 300, 900, names=["x" * 4000 + f"{n}.png" for n in range(1200)])
    table = decode_parquet(encode_parquet(rows, models, "a" * 16))
    assert (table.config_hash, table.models) == ("a" * 16, ("cnn",))
    assert [row.image for row in table.rows] == [row.image for row in rows]


def test_added_columns_come_back_under_their_names_and_take_nobody_elses():
    models = make_models("cnn")
    rows = make_rows(models, 700, 800)
    added = {"ward": [f"ward {n % 3}" for n in range(len(rows))], "empty": [""] * len(rows)}
    table = decode_parquet(encode_parquet(rows, models, "", added))
    assert table.rows == rows
    assert table.extra_columns == {"ward": added["ward"]}
    assert decode_parquet(encode_parquet(rows, models, "")).extra_columns == {}
    with pytest.raises(ValueError, match="columns of different names"):
        encode_parquet(rows, models, "", {"status": [""] * len(rows)})


def test_a_table_of_a_later_version_or_without_the_columns_that_it_names_is_refused():
    models = make_models("cnn")
    rows = make_rows(models, 2, 2)
    table = pq.read_table(io.BytesIO(encode_parquet(rows, models, "", {"ward": ["a"] * 4})))
    for metadata, message in (
        ({b"cxr schema version": b"3"}, "it has version 3, expected at most 2"),
        ({b"cxr added columns": b'["ward", "bed"]'}, "it has no column bed"),
        ({b"cxr added columns": b"ward"}, "JSON is malformed"),
    ):
        data = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(table.schema.metadata | metadata), data)
        with pytest.raises(ValueError, match=message):
            decode_parquet(data.getvalue())
