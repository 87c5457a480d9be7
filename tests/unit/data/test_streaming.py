"""Memory does not grow with the file: measured as the peak of a fresh process reading a small and a large file."""

import json
import subprocess
import sys
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data import read_records

TEXT = "The total revenue of the segment rose by three percent against the year before. " * 12
MEASURE = """
import resource, sys
from posttrain.data import read_records
count = sum(1 for _ in read_records(sys.argv[1]))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write(path, rows):
    if path.suffix == ".parquet":
        schema = pa.schema([("prompt", pa.string()), ("completion", pa.string())])
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            batch = pa.table({"prompt": [TEXT] * 1000, "completion": [TEXT] * 1000}, schema=schema)
            for _ in range(rows // 1000):
                writer.write_table(batch)
        return
    row = json.dumps({"prompt": TEXT, "completion": TEXT})
    first, between, last = {".json": ("[", ",", "]"), ".jsonl": ("", "\n", "\n"), ".csv": ("prompt,completion\n", "\n", "\n")}[path.suffix]
    row = f'"{TEXT}","{TEXT}"' if path.suffix == ".csv" else row
    with open(path, "w") as stream:
        stream.write(first + row)
        stream.writelines(between + row for _ in range(rows - 1))
        stream.write(last)


def peak_kib(path):
    out = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    count, peak = map(int, out.stdout.split())
    return count, peak


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_peak_memory_of_a_50_mb_file_is_that_of_a_2_mb_file(tmp_path, suffix):
    small, large = tmp_path / f"small{suffix}", tmp_path / f"large{suffix}"
    write(small, 1000)
    write(large, 26_000)
    assert large.stat().st_size > 48_000_000
    count_small, peak_small = peak_kib(small)
    count_large, peak_large = peak_kib(large)
    assert (count_small, count_large) == (1000, 26_000)
    assert peak_large - peak_small < 12 * 1024


def test_the_first_rows_come_before_the_last_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n' * 2000 + "broken\n")
    assert len(list(islice(read_records(path), 2000))) == 2000
