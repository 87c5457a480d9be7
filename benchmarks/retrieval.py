"""Search over many passages: build time, peak memory, query times and whether the passage looked for is found.

    python benchmarks/retrieval.py                              # 100,000 passages, both backends, each in a process of its own
    python benchmarks/retrieval.py --quality FILE               # TAT-QA questions: is the paragraph they were written for among the best?

Passages: the paragraphs of the TAT-QA slice in recipes/data, varied by a seeded generator. Each variant keeps about half of the words of
its paragraph; the others are drawn anew, by Zipf's law from a vocabulary of 30,000 words led by those of all paragraphs, and digits are
drawn anew too. Queries: "what was the", then 5 to 8 words of a passage in order, none of the 100 most frequent, one of them replaced by a
drawn one; the first 50 only warm up. Bars: p50 under 30 ms (FTS5), 2 ms (tantivy).
"""

import argparse
import gzip
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.tools.retrieval import Document, build_index, open_index

SLICE = Path(__file__).parents[1] / "recipes" / "data" / "tatqa-slice.json.gz"
BARS = {"fts5": 30.0, "tantivy": 2.0}
VOCABULARY = 30_000
EXPONENT = 1.07


def reports(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as stream:
        return json.load(stream)


class Varied:
    """Paragraphs, endlessly; the same for the same seed."""

    def __init__(self, paragraphs: list[str], seed: int) -> None:
        self._rng = random.Random(seed)
        self._paragraphs = [re.findall(r"\w+|\W+", text) for text in paragraphs]
        real = [word for word, _ in Counter(word.lower() for text in paragraphs for word in re.findall(r"[A-Za-z]+", text)).most_common()]
        syllables = [
            a + b
            for a in ["b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v"]
            for b in ["a", "e", "i", "o", "u", "an", "er", "in", "on", "us"]
        ]
        invented = ("".join(self._rng.choices(syllables, k=self._rng.choice((2, 3, 3, 4)))) for _ in itertools.count())
        known = set(real)
        self._words = [*real, *itertools.islice((word for word in invented if word not in known), VOCABULARY - len(real))]
        self._frequent = set(real[:100])
        self._weights = list(itertools.accumulate(1 / (rank + 2) ** EXPONENT for rank in range(len(self._words))))

    def word(self) -> str:
        return self._rng.choices(self._words, cum_weights=self._weights)[0]

    def passage(self) -> str:
        pieces = [self._piece(piece) for piece in self._rng.choice(self._paragraphs)]
        return "".join(pieces)[:800].strip()

    def _piece(self, piece: str) -> str:
        if piece[0].isdigit():
            return "".join(str(self._rng.randrange(10)) if one.isdigit() else one for one in piece)
        return self.word() if piece[0].isalpha() and self._rng.random() < 0.5 else piece

    def query(self, passage: str) -> str:
        words = [word for word in re.findall(r"\w+", passage) if word.lower() not in self._frequent]
        places = sorted(self._rng.sample(range(len(words)), min(len(words), self._rng.randint(5, 8))))
        chosen = [words[place] for place in places]
        if chosen:
            chosen[self._rng.randrange(len(chosen))] = self.word()
        return " ".join(["what was the", *chosen])


def varied(seed: int) -> Varied:
    return Varied([paragraph["text"] for report in reports(SLICE) for paragraph in report["paragraphs"]], seed)


def documents(count: int) -> Iterator[Document]:
    source = varied(seed=0)
    for number in range(count):
        yield Document(f"d{number}", source.passage())


def measure(backend: str, count: int, num_queries: int, folder: Path) -> dict[str, Any]:
    """In a process of its own, so that its peak is its own."""
    start = time.perf_counter()
    wanted = {round(place): "" for place in np.linspace(0, count - 1, num_queries)}
    making = 0.0

    def watched() -> Iterator[Document]:
        nonlocal making
        begin = time.perf_counter()
        for number, document in enumerate(documents(count)):
            if number in wanted:
                wanted[number] = document.text
            making += time.perf_counter() - begin
            yield document
            begin = time.perf_counter()

    build_index(watched(), folder / backend, backend).close()
    built = time.perf_counter() - start - making
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    asking = varied(seed=1)
    seconds, processor, found = [], [], 0
    with open_index(folder / backend) as index:
        for text in list(wanted.values())[:50]:
            index.search(asking.query(text), 10)
        passages = index.manifest.num_passages
        for number, text in wanted.items():
            query = asking.query(text)
            begin, begin_processor = time.perf_counter(), time.process_time()
            hits = index.search(query, 10)
            processor.append(time.process_time() - begin_processor)
            seconds.append(time.perf_counter() - begin)
            found += any(hit.passage.document == f"d{number}" for hit in hits)
    p50, p99 = (float(np.percentile(seconds, share)) * 1e3 for share in (50, 99))
    size = sum(file.stat().st_size for file in (folder / backend).rglob("*") if file.is_file()) / 2**20
    return {"backend": backend, "passages": passages, "build_seconds": built, "peak_mib": peak, "index_mib": size} | {
        "p50_ms": p50,
        "p99_ms": p99,
        "processor_p50_ms": float(np.percentile(processor, 50)) * 1e3,
        "hit_at_10": found / num_queries,
    }


def quality(path: Path) -> None:
    """Questions of TAT-QA against all paragraphs of all reports; a hit is a paragraph named as relevant to the question."""
    paragraphs = [Document(one["uid"], one["text"]) for report in reports(path) for one in report["paragraphs"]]
    asked = []
    for report in reports(path):
        uid = {str(one["order"]): one["uid"] for one in report["paragraphs"]}
        relevant = [(one["question"], {uid[order] for order in one["rel_paragraphs"]}, one["answer_from"]) for one in report["questions"]]
        asked += [one for one in relevant if one[1]]
    for backend in BARS:
        with build_index(paragraphs, None, backend, max_chars=4000) as index:
            hits = [[hit.passage.document in gold for hit in index.search(question, 10)] for question, gold, _ in asked]
        text = [one for one, (_, _, source) in zip(hits, asked, strict=True) if source == "text"]
        for name, rows in (("all", hits), ("answered from text", text)):
            shares = [sum(any(row[:k]) for row in rows) / len(rows) for k in (1, 5, 10)]
            shown = ", ".join(f"hit@{k} {share:.3f}" for k, share in zip((1, 5, 10), shares, strict=True))
            print(f"{backend}, {len(paragraphs)} paragraphs, {len(rows)} questions ({name}): {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--quality", type=Path, nargs="?", const=SLICE)
    parser.add_argument("--one", choices=sorted(BARS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quality:
        quality(options.quality)
        return
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.one, options.passages, options.queries, Path(folder))))
        return
    for backend, bar in BARS.items():
        command = [sys.executable, __file__, "--one", backend, "--passages", str(options.passages), "--queries", str(options.queries)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{backend}: {row['passages']:,} passages, build {row['build_seconds']:.1f} s, peak {row['peak_mib']:.0f} MiB, index "
            f"{row['index_mib']:.0f} MiB, p50 {row['p50_ms']:.2f} ms (bar {bar:g}), p99 {row['p99_ms']:.2f} ms, "
            f"p50 of processor time {row['processor_p50_ms']:.2f} ms, hit@10 {row['hit_at_10']:.3f}"
        )


if __name__ == "__main__":
    main()
