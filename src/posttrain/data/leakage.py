"""Does the training data hold what the suites ask? Verbatim overlap, near duplicates and exact copies of short texts.

A case is contaminated when one training record holds a *meaningful* part of it, not merely a phrase that both use:

1. Runs of ``ngram`` words (13, as in GPT-3, Brown et al. 2020, appendix C) shared with a training record are found and compared
   word by word.
2. Boilerplate is left out: runs in many cases of the suite or in many different training records (templates, standard
   phrases; :func:`_is_boilerplate` has the numbers). Identical records count once, so a leak that was repeated is no template.
3. What remains must cover ``min_coverage`` of the words of the case that are its own. GPT-3 counted a single shared run; reports of
   one field share many, so as in Llama 2 (Touvron et al. 2023, section A.6) the covered share decides.
4. Cases changed here and there are found by MinHash over runs of three words, verified by their exact Jaccard similarity,
   unless they differ in one stretch only (a template around another question).
5. Cases shorter than ``ngram`` words match a message, or a whole record, that says exactly the same. Where the prompts of the cases are
   given, a short one is looked for on its own too, whatever is answered (:mod:`posttrain.data.short_prompts`).

Give suite texts without the system prompt (:func:`posttrain.data.words.speech` leaves it out) and with everything that is the case's own:
its report, its question, its expected answer. A question such as "What was the revenue in 2019?" recurs legitimately, and is a
leak only together with its report. Give prompts only of cases that are their own without the expected answer.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from posttrain.data.minhash import band_keys, pairs_between, split_sets, unique_pairs, verified
from posttrain.data.overlap import Hashes, SuiteIndex, coverage
from posttrain.data.short_prompts import ShortPrompts
from posttrain.data.words import UNKNOWN, Ids, difference, grams, passage, segments, sides, words
from posttrain.errors import CheckFailed
from posttrain.records import Record

BATCH = 2000  # records examined at once
SHINGLE = 3  # words a shingle of the near-duplicate check
FREQUENT = 25  # a run in more cases (or records) than this, and than FREQUENT_SHARE of them, is boilerplate
FREQUENT_SHARE = 0.05
HALF = 0.5  # so is one in more than half of the cases of a suite that has at least SMALL_SUITE, or of cases and records
SMALL_SUITE = 8
SMALL_CHANGE = 2  # words in a row by which a near duplicate may differ, whatever they are
ALIKE = 0.5  # else the share of the words of the part that differs which must agree
SHOWN_WORDS = 40
MIN_WAIVER = 10  # characters of a reason
NEVER_AN_ID = 1 << 40
Numbers = NDArray[np.int64]
NOTHING = np.zeros(0, dtype=np.int64)
Suites = Mapping[str, Sequence[tuple[str, str]]]
Prompts = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Hit:
    """A contaminated case. ``records`` are positions in the training data, the strongest first; ``overlap`` is that one's:

    the covered share of the case's own words ("ngram"), the Jaccard similarity ("near_duplicate") or 1 ("exact", "prompt").
    """

    suite: str
    case_id: str
    kind: str
    overlap: float
    text: str
    record_id: str
    records: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ContaminationReport:
    """What was compared, what was found, and how many shared runs meant nothing.

    ``num_sharing``: cases that share any run of ``ngram`` words with a training record, boilerplate included;
    ``num_boilerplate``: distinct runs left out as boilerplate. ``num_short``: cases with a text or prompt too short for runs;
    ``num_prompts`` of them were compared by their prompt alone, ``num_inside`` of these inside longer messages too.
    ``precision`` is the share of the cases a plain n-gram check would
    have flagged that this report upholds. The matches themselves are compared word by word, so every quoted text is in both.
    """

    hits: tuple[Hit, ...]
    num_records: int
    num_cases: Mapping[str, int]
    num_sharing: int
    num_boilerplate: int
    ngram: int
    min_coverage: float
    near_jaccard: float
    num_short: int = 0
    num_prompts: int = 0
    num_inside: int = 0

    @property
    def precision(self) -> float | None:
        """Upheld n-gram cases over cases sharing any run; None when no case shares one."""
        upheld = sum(hit.kind == "ngram" for hit in self.hits)
        return upheld / self.num_sharing if self.num_sharing else None

    @property
    def contaminated_records(self) -> frozenset[int]:
        """Positions of the training records to remove."""
        return frozenset(index for hit in self.hits for index in hit.records)

    def short_cases(self) -> str:
        """How the cases that are too short for runs of words were compared, in one line; empty when there are none."""
        if not self.num_short:
            return ""
        told = f"{self.num_short} of {sum(self.num_cases.values())} suite cases are too short for runs of {self.ngram} words: "
        told += f"{self.num_prompts} compared by their prompt alone, {self.num_inside} of them inside longer messages too"
        rest = self.num_short - self.num_prompts
        return f"{told}; {rest} only as a whole text" if rest else told

    def check(self, waiver: str | None = None) -> None:
        """Raise CheckFailed when any case is contaminated, unless ``waiver`` gives a written reason of a few words."""
        if not self.hits or (waiver and len(waiver.strip()) >= MIN_WAIVER):
            return
        shown = [f'  {hit.suite}/{hit.case_id} in {hit.record_id} ({hit.kind}, {hit.overlap:.0%}): "{hit.text}"' for hit in self.hits[:5]]
        more = [f"  and {len(self.hits) - 5} more cases"] if len(self.hits) > 5 else []
        listing = "\n".join([*shown, *more])
        raise CheckFailed(
            f"{len(self.hits)} of {sum(self.num_cases.values())} suite cases are in the training data "
            f"({len(self.contaminated_records)} of {self.num_records} records):\n{listing}",
            hint=f"remove those records, or waive it with a written reason of at least {MIN_WAIVER} characters, which is recorded",
        )

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types, for the report and the lineage."""
        short = ("num_short", "num_prompts", "num_inside")
        numbers = ("num_records", "num_sharing", "num_boilerplate", *short, "ngram", "min_coverage", "near_jaccard")
        hits = [{name: getattr(hit, name) for name in Hit.__slots__} | {"records": list(hit.records)} for hit in self.hits]
        return {name: getattr(self, name) for name in numbers} | {
            "num_cases": dict(self.num_cases),
            "precision": self.precision,
            "contaminated_records": sorted(self.contaminated_records),
            "hits": hits,
        }


def contamination(
    records: Iterable[Record],
    suites: Suites,
    *,
    prompts: Prompts | None = None,
    ngram: int = 13,
    min_coverage: float = 0.3,
    near_jaccard: float = 0.5,
) -> ContaminationReport:
    """Compare training records, streamed, with the texts of suites: ``{suite: [(case id, text), ...]}``.

    ``prompts``: ``{suite: {case id: prompt}}``, of the cases whose prompt alone, without the expected answer, is their own.
    Linear in the words of both; memory holds the suites and, for each record, the suite runs it shares.
    """
    search = _Search(suites, ngram, near_jaccard, prompts or {})
    ids: list[str] = []
    for batch in _batches(records):
        search.examine(batch, len(ids))
        ids += [record.id or f"row {len(ids) + offset}" for offset, record in enumerate(batch, 1)]
    sharing, boilerplate, found = search.finish(min_coverage)
    hits = [search.hit(case, rows, ids) for case, rows in sorted(found.items())]
    return ContaminationReport(
        hits=tuple(sorted(hits, key=lambda hit: -hit.overlap)),
        num_records=len(ids),
        num_cases={name: len(cases) for name, cases in suites.items()},
        num_sharing=sharing,
        num_boilerplate=boilerplate,
        ngram=ngram,
        min_coverage=min_coverage,
        near_jaccard=near_jaccard,
        num_short=search.num_short,
        num_prompts=search.prompts.num_whole,
        num_inside=search.prompts.num_inside,
    )


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    stream = iter(records)
    while batch := list(islice(stream, BATCH)):
        yield batch


Found = dict[int, dict[int, tuple[float, str]]]  # case -> record -> (overlap, kind)


class _Search:
    """The suites, indexed, and what the records seen so far share with them."""

    def __init__(self, suites: Suites, ngram: int, near_jaccard: float, prompts: Prompts) -> None:
        self._names = [(suite, case_id) for suite, cases in suites.items() for case_id, _ in cases]
        self._texts = [text for cases in suites.values() for _, text in cases]
        self._suite_of = np.repeat(np.arange(len(suites)), [len(cases) for cases in suites.values()])
        self._suite_sizes = np.array([len(cases) for cases in suites.values()], dtype=np.int64)
        self._ngram = ngram
        self._near_jaccard = near_jaccard
        self._index = SuiteIndex(self._texts, ngram)
        self._short = self._short_texts()
        asked = {
            case: (suite, prompts[suite][case_id], self._texts[case])
            for case, (suite, case_id) in enumerate(self._names)
            if case_id in prompts.get(suite, {})
        }
        self.prompts = ShortPrompts(asked, ngram)
        short = {case for cases in self._short.values() for case in cases}
        self.num_short = len(short | {case for case, (_, prompt, _) in asked.items() if 0 < len(words(prompt)) < ngram})
        self._shared: list[tuple[Numbers, Numbers]] = []  # (record, run) of every batch
        self._frequency = np.zeros(len(self._index.hashes), dtype=np.int64)  # different training records a run
        self._digests: set[bytes] = set()
        self._exact: list[tuple[int, int]] = []  # (case, record)
        self._near: list[tuple[int, int, float]] = []  # (case, record, similarity)
        self._near_cases, self._near_sets = self._shingle_sets()
        self._near_keys = band_keys(self._near_sets, near_jaccard) if self._near_sets else np.zeros((0, 1), dtype=np.uint64)

    def _short_texts(self) -> dict[str, list[int]]:
        short: dict[str, list[int]] = {}
        for case, case_ids in enumerate(self._index.ids):
            if 0 < len(case_ids) < self._ngram:
                short.setdefault(" ".join(words(self._texts[case])), []).append(case)
        return short

    def _shingle_sets(self) -> tuple[list[int], list[Hashes]]:
        """Shingles of the longer cases, without those that are boilerplate inside their suite."""
        every = grams(self._index.ids, SHINGLE)
        self._shingles, run = np.unique(every.hashes, return_inverse=True)
        self._frequent_shingles = self._frequent_in_suite(run, every.owner, len(self._shingles))
        kept = ~self._frequent_shingles[run]
        sets = split_sets(every.hashes[kept], every.owner[kept], len(self._texts))
        cases = [case for case, one in enumerate(sets) if len(one) > self._ngram - SHINGLE]
        return cases, [sets[case] for case in cases]

    def _frequent_in_suite(
        self, run: Numbers, case: Numbers, num_runs: int, *, usual: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """Which runs are in too many cases of one of the suites to tell anything; ``usual`` ones are in most training records."""
        result = np.zeros(num_runs, dtype=bool)
        for suite, size in enumerate(self._suite_sizes.tolist()):
            mine = self._suite_of[case] == suite
            in_cases = np.bincount(unique_pairs(run[mine], case[mine])[0], minlength=num_runs)
            result |= _is_boilerplate(in_cases, size)
            in_half = (in_cases > HALF * size) & (in_cases > 1)
            result |= in_half if size >= SMALL_SUITE else in_half & (usual if usual is not None else False)
        return result

    def examine(self, batch: Sequence[Record], first: int) -> None:
        """Note what a batch of records, counted from ``first``, shares with the suites."""
        texts = [segments(record) for record in batch]
        owner = np.repeat(np.arange(len(batch)), [len(some) for some in texts])
        said = [words(text) for some in texts for text in some]
        ids = [self._index.vocabulary.look_up(one) for one in said]
        new = np.array([self._is_new(some) for some in texts])
        row, run = self._index.shared_runs(ids)
        member, run = unique_pairs(owner[row], run)
        self._shared.append((member + first, run))
        self._frequency += np.bincount(run[new[member]], minlength=len(self._frequency))
        for position, one in enumerate(said):
            if len(one) < self._ngram:
                self._exact += [(case, first + int(owner[position])) for case in self._short.get(" ".join(one), ())]
        if self._short:
            for offset, record in enumerate(batch):
                whole = " ".join(words("\n".join(sides(record))))
                self._exact += [(case, first + offset) for case in self._short.get(whole, ())]
        for offset, record in enumerate(batch):
            self.prompts.examine(record, first + offset, new=bool(new[offset]))
        self._examine_near(ids, owner + first)

    def _is_new(self, texts: Sequence[str]) -> bool:
        digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=12).digest()
        seen = digest in self._digests
        self._digests.add(digest)
        return not seen

    def _examine_near(self, ids: Sequence[Ids], record: Numbers) -> None:
        """Note near duplicates. A text has similarity t to a case only if a share t of its shingles is in the suites."""
        if not self._near_cases:
            return
        every = grams([_distinct_unknown(one) for one in ids], SHINGLE)
        at = np.minimum(np.searchsorted(self._shingles, every.hashes), len(self._shingles) - 1)
        known = self._shingles[at] == every.hashes
        own = ~(known & self._frequent_shingles[at])
        hashes, owner = every.hashes[own], every.owner[own]
        sizes = np.bincount(owner, minlength=len(ids))
        shared = np.bincount(owner[known[own]], minlength=len(ids))
        lengths = np.array([len(one) for one in ids])
        likely = np.flatnonzero((shared > 0) & (shared >= self._near_jaccard / 2 * sizes) & (lengths >= self._ngram))
        if not len(likely):
            return
        mine = np.isin(owner, likely)
        sets = split_sets(hashes[mine], np.searchsorted(likely, owner[mine]), len(likely))
        pairs = pairs_between(self._near_keys, band_keys(sets, self._near_jaccard))
        for case, text, similarity in verified(pairs, self._near_sets, sets, self._near_jaccard):
            if _alike(self._index.ids[self._near_cases[case]], ids[likely[text]]):
                self._near.append((self._near_cases[case], int(record[likely[text]]), similarity))

    def finish(self, min_coverage: float) -> tuple[int, int, Found]:
        """Cases sharing any run, runs left out as boilerplate, and the contaminated cases."""
        index = self._index
        usual = self._frequency > HALF * len(self._digests)
        frequent = self._frequent_in_suite(index.run, index.case, len(index.hashes), usual=usual)
        frequent |= _is_boilerplate(self._frequency, len(self._digests))
        self._own_runs = ~frequent
        self._record = np.concatenate([NOTHING, *(records for records, _ in self._shared)])  # ascending
        self._run = np.concatenate([NOTHING, *(runs for _, runs in self._shared)])
        shared = np.zeros(len(index.hashes), dtype=bool)
        shared[self._run] = True
        found: Found = {}
        for case, row, share in coverage(index, self._record, self._run, self._own_runs, min_coverage):
            found.setdefault(case, {})[row] = (share, "ngram")
        for case, row in self._exact:
            found.setdefault(case, {}).setdefault(row, (1.0, "exact"))
        num_different = len(self._digests)
        for case, row in self.prompts.found(lambda count: bool(_is_boilerplate(np.array(count), num_different))):
            found.setdefault(case, {}).setdefault(row, (1.0, "prompt"))
        for case, row, similarity in self._near:
            found.setdefault(case, {}).setdefault(row, (similarity, "near_duplicate"))
        sharing = np.unique(index.case[shared[index.run]]).size
        return int(sharing), int(np.count_nonzero(frequent & shared)), found

    def hit(self, case: int, rows: Mapping[int, tuple[float, str]], ids: Sequence[str]) -> Hit:
        """The hit with the matching text: the longest shared run of words, or the case's beginning."""
        order = sorted(rows, key=lambda row: (-rows[row][0], row))
        overlap, kind = rows[order[0]]
        first, last = 0, SHOWN_WORDS
        if kind == "ngram":
            runs = self._run[slice(*np.searchsorted(self._record, [order[0], order[0] + 1]))]
            first, last = self._index.longest_stretch(case, runs[self._own_runs[runs]])
        suite, case_id = self._names[case]
        text = passage(self._texts[case], first, min(last, first + SHOWN_WORDS))
        return Hit(suite, case_id, kind, round(overlap, 4), text, ids[order[0]], tuple(order))


def _alike(a: Ids, b: Ids) -> bool:
    """Whether two similar texts differ little, or here and there: a shared template around two questions is no near duplicate."""
    left, right = difference(a, b)
    return max(len(left), len(right)) <= SMALL_CHANGE or len(np.intersect1d(left, right)) >= ALIKE * len(np.union1d(left, right))


def _distinct_unknown(text: Ids) -> Ids:
    """Unknown words made different from all others, so that the sizes of shingle sets stay right."""
    return np.where(text == UNKNOWN, np.arange(len(text)) + NEVER_AN_ID, text)


def _is_boilerplate(in_texts: Numbers, num_texts: int) -> NDArray[np.bool_]:
    return np.asarray(in_texts > max(FREQUENT, FREQUENT_SHARE * num_texts), dtype=bool)
