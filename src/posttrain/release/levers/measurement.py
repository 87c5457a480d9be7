"""Rules on the measurement itself and on the data: what is wrong here makes every later figure mean nothing."""

from collections.abc import Iterator

from posttrain.release.levers.catalogue import Figure, Seen, rule
from posttrain.release.levers.evidence import Evidence, needed

MAX_DUPLICATES = 0.2  # of the rows
MAX_BROKEN = 0.01  # of the rows set aside or without supervision
UNIFORM_ANSWERS = 0.3  # share of answers that an earlier row gave word for word
ONE_SOURCE = 0.9  # Herfindahl index of sources


@rule(
    "unscored",
    "measurement",
    "the scorers could not tell",
    lever="repair the scorer, the endpoint or the token limit, and evaluate again",
    not_yet="reading any other figure of this evaluation",
)
def unscored(evidence: Evidence) -> Iterator[Seen]:
    """More samples of this evaluation are unscored than the suite allows: a count, not an estimate."""
    for source in evidence.candidates():
        limit = source.data["suite"].get("max_unscored_share", 0.02)
        for name, entry in source.data["scores"].items():
            share = entry["overall"]["unscored_share"]
            if share > limit:
                text = f"{share:.1%} of the samples of '{name}' are unscored, {limit:.1%} are allowed"
                yield Seen(text, (Figure(source.name, f"{name} unscored", share),))


@rule(
    "too-few-samples",
    "measurement",
    "the suite cannot decide",
    lever="add cases to the suite, most of all to the small slices, before the next training",
    not_yet="training again, or loosening the gate until it passes",
)
def too_few_samples(evidence: Evidence) -> Iterator[Seen]:
    """An inconclusive verdict whose open checks say that samples are missing or the interval is too wide."""
    for source in evidence.all("verdict.json"):
        open_checks = [check for check in source.data["checks"] if check["outcome"] == "inconclusive" and check["kind"] != "two_metric"]
        if source.data["verdict"] == "inconclusive" and open_checks:
            names = ", ".join(check["name"] for check in open_checks[:3])
            figures = tuple(Figure(source.name, f"n of {check['name']}", check["num_samples"]) for check in open_checks[:3])
            yield Seen(f"{len(open_checks)} checks are open ({names}): {open_checks[0]['reason']}", figures)


@rule(
    "evidence-not-independent",
    "measurement",
    "the gate rests only on what was trained on",
    lever="add a score that neither rewarded nor filtered the training data",
    not_yet="shipping on the training reward: a reward is no release gate",
)
def evidence_not_independent(evidence: Evidence) -> Iterator[Seen]:
    """The gate's own check on independent evidence says no."""
    checks = [(source, check) for source in evidence.all("verdict.json") for check in source.data["checks"] if check["kind"] == "evidence"]
    for source, check in needed(checks, "a verdict with a check on independent evidence"):
        if check["outcome"] == "block":
            yield Seen(check["reason"], (Figure(source.name, check["name"], check["outcome"]),))


@rule(
    "valid-taken-for-right",
    "measurement",
    "the gate takes valid for right",
    lever="require a score of the content as well: the right calls, their arguments, the end state, the answer",
    not_yet="shipping on valid outputs, or training on the format further",
)
def valid_taken_for_right(evidence: Evidence) -> Iterator[Seen]:
    """The gate's own check says that it asks for nothing but form."""
    checks = [(source, check) for source in evidence.all("verdict.json") for check in source.data["checks"] if check["kind"] == "substance"]
    for source, check in needed(checks, "a verdict that rests on scores of form"):
        if check["outcome"] == "block":
            yield Seen(check["reason"], (Figure(source.name, check["name"], check["outcome"]),))


@rule(
    "contamination",
    "data",
    "evaluation cases stand in the training data",
    lever="take the rows out and train again",
    not_yet="reporting any score of this suite, or tuning on it",
)
def contamination(evidence: Evidence) -> Iterator[Seen]:
    """The curation step's report has hits."""
    searched = [source for source in evidence.all("contamination.json") if sum(source.data["num_cases"].values())]
    for source in needed(searched, "a search for suite cases in the training rows"):
        hits = source.data["hits"]
        if hits:
            cases = ", ".join(f"{hit['suite']}/{hit['case_id']}" for hit in hits[:3])
            text = f"{len(hits)} of {sum(source.data['num_cases'].values())} suite cases were found in the training rows ({cases})"
            yield Seen(text, (Figure(source.name, "contaminated cases", len(hits)),))


@rule(
    "repeated-rows",
    "data",
    "much of the data is the same row again",
    lever="drop exact and near duplicates, or collect more varied rows",
    not_yet="more epochs, or a larger model",
)
def repeated_rows(evidence: Evidence) -> Iterator[Seen]:
    """Exact and near duplicates beyond a fifth of the rows, still there when it trained."""
    for source in evidence.all("duplicates.json"):
        rows = source.data["num_records"]
        if source.data.get("dropped", False):
            continue
        repeats = len({repeated for _, repeated, *_ in (*source.data["exact"], *source.data["near"])})
        if rows and repeats / rows > MAX_DUPLICATES:
            yield Seen(f"{repeats} of {rows} rows repeat another", (Figure(source.name, "share repeated", repeats / rows),))


@rule(
    "mask-or-rows",
    "data",
    "rows that do not train what they should",
    lever="check the chat template and the supervision mask (posttrain check --sample 3), and mend or drop the rows",
    not_yet="adding more data before serialisation and label boundaries are right",
)
def mask_or_rows(evidence: Evidence) -> Iterator[Seen]:
    """Rows without a supervised token, or set aside as broken."""
    counted = [source for source in evidence.all("data.json") if "rows_without_supervision" in source.data]
    for source in needed(counted, "a count of the rows that train something"):
        rows = source.data["rows"]
        for key, what in (("rows_without_supervision", "train nothing"), ("rows_skipped", "could not be read")):
            share = source.data.get(key, 0) / max(rows, 1)
            if share > MAX_BROKEN:
                yield Seen(f"{source.data[key]} of {rows} rows {what}", (Figure(source.name, key, source.data[key]),))


@rule(
    "uniform-answers",
    "data",
    "the answers are cut from one cloth",
    lever="shorter and more varied target answers from several sources; answer first, explain after",
    not_yet="judging by a benchmark alone: people will call it a script",
)
def uniform_answers(evidence: Evidence) -> Iterator[Seen]:
    """Long answers that repeat one another word for word, from a single source."""
    described = [source for source in evidence.all("data.json") if "same_answer" in source.data.get("mixture", {}).get("total", {})]
    for source in needed(described, "a description of the data's mixture"):
        mixture, total = source.data["mixture"], source.data["mixture"]["total"]
        same, length = total["same_answer"], total["completion_words_p50"]
        if same > UNIFORM_ANSWERS and length >= 20 and mixture["source_concentration"] > ONE_SOURCE:
            text = f"{same:.0%} of the answers repeat an earlier one, half of them over {length:.0f} words, nearly all from one source"
            yield Seen(text, (Figure(source.name, "same_answer", same), Figure(source.name, "completion_words_p50", length)))
