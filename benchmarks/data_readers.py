"""Peak memory and speed of reading a file larger than one wants in memory, format by format, against loading it whole.

    python benchmarks/data_readers.py --megabytes 1024          # writes, reads and deletes files of that size
    python benchmarks/data_readers.py --curation 50000          # contamination of that many records against a tenth as many cases

Each reading runs in a process of its own, so its peak is its own; rows a minute are of processor time. The bar: a 5 GB file in under
1 GB; as the peak does not grow with the file, a file of any size shows it, and --megabytes 5120 shows it literally.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

READ = """
import resource, sys, time
from posttrain.data import read_records
start = time.process_time()
count = sum(1 for _ in read_records(sys.argv[1]))
print(count, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
LOAD = """
import json, resource, sys, time
start = time.process_time()
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
print(len(rows), time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WORDS = ("revenue", "total", "company", "net", "cost", "cash", "sales", "shares", "tax", "income", "fiscal", "rate", "debt", "segment")


def text(rng: random.Random, count: int) -> str:
    return " ".join(f"{rng.choice(WORDS)}{rng.randrange(400)}" for _ in range(count))


def write(path: Path, megabytes: int, rng: random.Random) -> None:
    """Conversations of about 2 kB until the file has the size."""
    samples = [[{"role": "user", "content": text(rng, 150)}, {"role": "assistant", "content": text(rng, 60)}] for _ in range(500)]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"messages": samples})
        with pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as writer:
            while path.stat().st_size < megabytes << 20:
                writer.write_table(pa.concat_tables([table] * 20))
        return
    rows = [json.dumps({"messages": sample}) for sample in samples]
    if path.suffix == ".csv":
        rows = ['"' + json.dumps(sample).replace('"', '""') + '"' for sample in samples]
    first, between, last = {".jsonl": ("", "\n", "\n"), ".json": ("[", ",\n", "]"), ".csv": ("messages\n", "\n", "\n")}[path.suffix]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(first + rows[0])
        while stream.tell() < megabytes << 20:
            stream.writelines(between + row for row in rows)
        stream.write(last)


def measure(code: str, path: Path) -> tuple[int, float, float]:
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout.split()
    return int(out[0]), float(out[1]), float(out[2])


def readers(megabytes: int, folder: Path) -> None:
    rng = random.Random(0)
    print(f"{'file':12s} {'MiB':>6s} {'rows':>9s} {'rows/min':>10s} {'peak MiB':>9s}")
    for suffix in (".jsonl", ".json", ".csv", ".parquet"):
        path = folder / f"rows{suffix}"
        try:
            write(path, megabytes, rng)
            size = path.stat().st_size >> 20
            for what, code in (("read", READ), *((("json.loads", LOAD),) if suffix == ".jsonl" and megabytes <= 1024 else ())):
                count, seconds, peak = measure(code, path)
                print(f"{what + suffix:12s} {size:6d} {count:9d} {count / seconds * 60:10.0f} {peak:9.0f}")
        finally:
            path.unlink(missing_ok=True)


def curation(count: int) -> None:
    """Random words, so that nothing but the planted leaks is shared; 300 words a record, 120 a case."""
    from posttrain.data import contamination, duplicates
    from posttrain.records import Demonstration, Message

    rng = random.Random(0)
    system = text(rng, 60)
    rows = [
        Demonstration((Message("system", system), Message("user", text(rng, 160)), Message("assistant", text(rng, 80))))
        for _ in range(count)
    ]
    cases = [(str(number), f"{system}\n{text(rng, 120)}") for number in range(count // 10)]
    for number in range(20):
        rows[rng.randrange(count)] = Demonstration((Message("user", cases[number][1]), Message("assistant", "ok")))
    for name, run in (
        ("contamination", lambda: contamination(rows, {"suite": cases}).hits),
        ("duplicates", lambda: duplicates(rows).dropped),
    ):
        start, cpu = time.perf_counter(), time.process_time()
        found = len(run())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        seconds, worked = time.perf_counter() - start, time.process_time() - cpu
        print(f"{name:14s} {count} records: {seconds:.1f} s ({worked:.1f} s of processor), {found} found, peak {peak} MiB with the data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--curation", type=int, default=0, metavar="RECORDS")
    options = parser.parse_args()
    if options.curation:
        curation(options.curation)
        return
    with tempfile.TemporaryDirectory() as folder:
        readers(options.megabytes, Path(folder))


if __name__ == "__main__":
    main()
