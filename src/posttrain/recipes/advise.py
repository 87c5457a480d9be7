"""Which training method the data at hand calls for, with the figures it rests on and what would change it.

The numbers below are rules of thumb, kept here in one place: they say where to begin, and the gate says whether it worked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data import load_comparisons, looks_like_refusal, read_records
from posttrain.errors import DataError
from posttrain.records import Comparison, Demonstration, Message, PreferencePair, Record, StepLabels, UnpairedLabel, VerifiableTask
from posttrain.stages.pairs import likelier_first
from posttrain.stages.preference_files import holds_comparisons

FEW = 50  # rows below which the prompt is changed and no weight
FEW_PAIRS = 500  # pairs below which hard labels are learned by heart
MANY_PAIRS = 5_000  # pairs from which a reward model is worth its cost
MANY_ROWS = 20_000  # rows from which training every weight is worth its cost
LONGER = 0.7  # share of pairs whose chosen answer is the longer one
LONG_ANSWER = 120  # words; style and terminology weigh more than instruction following
REFUSALS = 0.3  # share of answers that refuse
LOW_AGREEMENT = 0.4  # Krippendorff's alpha, little more than chance below it
BALANCE = 4 / 3  # kto: weight of good over bad answers (Ethayarajh et al. 2024, equation 8: between 1 and this)
FULL_BYTES, LORA_BYTES, NF4_BYTES = 16.0, 4.2, 0.8
"""Bytes a parameter: fp32 master, gradient and two moments; a frozen fp32 copy with its adapter; a frozen 4-bit one with its adapter."""
HEADROOM = 0.7  # of the memory for weights and optimiser; the rest is for activations


@dataclass(frozen=True, slots=True)
class Advice:
    """``method``: the stage or a step before any; ``settings``: what to write under it in the recipe; ``beside``: what to write beside
    it, in its entry; ``facts``: the figures it rests on."""

    method: str
    settings: Mapping[str, Any]
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]
    facts: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        lines = [f"advice: {self.method}"]
        lines += [f"  because  {reason}" for reason in self.reasons]
        lines += [f"  settings {name}: {_flow(value)}" for name, value in self.settings.items()]
        lines += [f"  beside the stage {name}: {_flow(value)}" for name, value in self.beside.items()]
        lines += [f"  would change it: {change}" for change in self.would_change]
        return [*lines, "  facts    " + ", ".join(f"{name} {_number(value)}" for name, value in self.facts.items() if value is not None)]


@dataclass(frozen=True, slots=True)
class _Choice:
    method: str
    settings: dict[str, Any]
    reasons: list[str]
    would_change: list[str]
    beside: dict[str, Any] = field(default_factory=dict)


def advise(data: str | Path, *, model: str | None = None, memory_gb: float | None = None, run: str | Path | None = None) -> Advice:
    """Read a data file and recommend. ``model``: a folder or cached name, for the memory; ``run``: the evidence of an earlier run.

    Raises DataError for a file of rows that no method trains on, and as :func:`posttrain.data.read_records` does.
    """
    records = _records(data)
    facts = _facts(records)
    choice = _choose(records, facts, str(data))
    if run is not None:
        choice = _with_run(choice, facts, run)
    if choice.method not in ("prompt only", "label first"):
        parameters = _parameters(model) if model else None
        facts |= {"parameters": parameters, "memory_gb": memory_gb}
        choice.settings.update(_tuning(choice, facts))
    if facts["tenants"] > 1:
        choice.reasons.append(
            f"the rows name {facts['tenants']} tenants: one adapter each over one base, stacked at serving, tested each apart"
        )
    return Advice(choice.method, choice.settings, tuple(choice.reasons), tuple(choice.would_change), facts, choice.beside)


def _records(data: str | Path) -> list[Record]:
    """The rows in whatever shape they come, published sets of judgements too; the likelier side of a pair as chosen."""
    if holds_comparisons(data):
        return list(load_comparisons(data))
    return [likelier_first(one) if isinstance(one, PreferencePair) else one for one in read_records(data)]


# ---- facts -----------------------------------------------------------------------------------------------------------------


def _facts(records: Sequence[Record]) -> dict[str, Any]:
    answers = [_answer(record) for record in records]
    words = [len(text.split()) for text in answers if text]
    prompts = [repr(_prompt(record)) for record in records]
    facts: dict[str, Any] = {
        "rows": len(records),
        "kind": type(records[0]).__name__,
        "prompts": len(set(prompts)),
        "median_answer_words": float(np.median(words)) if words else None,
        "refusals": float(np.mean([looks_like_refusal(text) for text in answers if text])) if words else None,
        "tenants": len({record.metadata.get("tenant") for record in records if record.metadata.get("tenant")}),
    }
    if isinstance(records[0], PreferencePair):
        pairs = [record for record in records if isinstance(record, PreferencePair)]
        lengths = np.array([[len(_text(side).split()) for side in (pair.chosen, pair.rejected)] for pair in pairs])
        uneven = lengths[:, 0] != lengths[:, 1]
        facts |= {
            "expected_wrong": float(np.mean([1 - max(pair.probability, 1 - pair.probability) for pair in pairs])),
            "soft_labels": float(np.mean([0 < pair.probability < 1 for pair in pairs])),
            "chosen_longer": float((lengths[uneven, 0] > lengths[uneven, 1]).mean()) if uneven.any() else None,
            "not_to_imitate": float(np.mean([pair.metadata.get("imitation") is False for pair in pairs])),
        }
    if isinstance(records[0], UnpairedLabel):
        labels = [record for record in records if isinstance(record, UnpairedLabel)]
        sides: dict[str, set[bool]] = {}
        for prompt, label in zip(prompts, labels, strict=True):
            sides.setdefault(prompt, set()).add(label.label)
        facts |= {
            "good": float(np.mean([label.label for label in labels])),
            "prompts_with_both": sum(len(found) == 2 for found in sides.values()) / len(sides),
        }
    if isinstance(records[0], Comparison):
        facts |= _label_facts([record for record in records if isinstance(record, Comparison)])
    return facts


def _label_facts(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    from posttrain.feedback import label_quality

    report = label_quality(comparisons)
    return {
        "annotators": len(report.annotators),
        "judged_twice": report.judged_twice,
        "agreement": report.alpha.value if report.alpha else None,
        "agreement_low": report.alpha.low if report.alpha else None,
        "agreement_high": report.alpha.high if report.alpha else None,
        "uncalibrated": len(report.uncalibrated),
    }


def _prompt(record: Record) -> tuple[Message, ...]:
    return record.messages[:-1] if isinstance(record, Demonstration) else record.prompt


def _answer(record: Record) -> str:
    """What would be imitated or preferred."""
    if isinstance(record, Demonstration):
        return record.messages[-1].content
    if isinstance(record, PreferencePair):
        return _text(record.chosen)
    return _text(record.completion) if isinstance(record, UnpairedLabel) else ""


def _text(turns: Sequence[Message]) -> str:
    return "\n".join(turn.content for turn in turns)


# ---- the method ------------------------------------------------------------------------------------------------------------


def _choose(records: Sequence[Record], facts: Mapping[str, Any], data: str) -> _Choice:
    if facts["rows"] < FEW:
        return _Choice(
            "prompt only",
            {},
            [f"{facts['rows']} rows are too few to train on: put the best of them into the prompt, and keep the rest for a suite"],
            [f"{FEW} rows or more, in the shape of the behaviour you want"],
        )
    if isinstance(records[0], Demonstration):
        return _demonstrations(facts, data)
    if isinstance(records[0], PreferencePair):
        return _pairs(facts, data)
    if isinstance(records[0], UnpairedLabel):
        return _labels(facts, data)
    if isinstance(records[0], Comparison):
        return _comparisons(facts, data)
    if isinstance(records[0], StepLabels | VerifiableTask):
        steps = isinstance(records[0], StepLabels)
        reward = "a process reward (steps are labelled)" if steps else "an outcome reward (a verifier tells right from wrong)"
        return _Choice(
            "verifier and reward" if steps else "verifier and search",
            {},
            [f"what is right can be checked here: {reward} beats preferences", "begin with sft on answers the verifier accepts"],
            [
                "no reliable check of the answer: then preference pairs",
                "labels on single steps: then a process reward" if not steps else "no step labels: then an outcome reward",
            ],
        )
    raise DataError(
        f"{data}: rows of kind {facts['kind']} train nothing as they are", hint="give demonstrations, pairs, labels or comparisons"
    )


def _demonstrations(facts: Mapping[str, Any], data: str) -> _Choice:
    reasons = [f"{facts['rows']} demonstrations: behaviour, role and format are learned from what to say"]
    change = [
        "two acceptable answers of which one is better: then preference pairs and dpo",
        "missing knowledge rather than behaviour: then retrieval",
        "a larger model that does it well: then its answers as demonstrations (black-box distillation) first; its token probabilities "
        "(white-box) only where they can be had and both share a tokenizer",
    ]
    if facts["refusals"] is not None and facts["refusals"] > REFUSALS:
        reasons.append(f"{facts['refusals']:.0%} of the answers refuse: add safe rows that look sensitive, or it will refuse too much")
    return _Choice("sft", {"data": data}, reasons, change)


def _pairs(facts: Mapping[str, Any], data: str) -> _Choice:
    objective, why, change = _pair_objective(facts)
    reasons = [f"{facts['rows']} pairs over {facts['prompts']} prompts: learned offline, without a reward model or rollouts", *why]
    if facts["soft_labels"] > 0:
        wrong = f"{facts['expected_wrong']:.0%} expected to be wrong"
        reasons.append(f"{facts['soft_labels']:.0%} of the labels are soft ({wrong}): {objective['name']} reads them as they are")
    change.append("offline gains have flattened and the product needs more: then a reward model and ppo (--run shows it)")
    if facts["not_to_imitate"] > 0:
        reasons.append(f"{facts['not_to_imitate']:.0%} of the chosen answers must not be imitated: {objective['name']} only ranks them")
    else:
        change.append("no sft stage yet: then orpo, which holds the chosen answers in one stage and needs no reference")
    if facts["rows"] >= MANY_PAIRS:
        change.append(
            f"{facts['rows']} pairs are enough for a reward model with a held-out second: worth it when new answers must be ranked"
        )
    return _Choice("preference", {"data": data, "objective": objective}, reasons, change)


def _pair_objective(facts: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The objective, why it, and what would make it another. Length comes first: it spoils whatever is learned from such pairs."""
    few = facts["soft_labels"] == 0 and facts["rows"] < FEW_PAIRS
    longer = facts["chosen_longer"]
    if longer is not None and longer > LONGER:
        why = (
            f"the chosen answer is the longer one in {longer:.0%} of the pairs: simpo goes by likelihood per token, so length pays nothing"
        )
        return {"name": "simpo"}, [why], [f"pairs balanced in length: then {'ipo' if few else 'dpo'}"]
    if few:
        why = f"fewer than {FEW_PAIRS} pairs with hard labels are soon learned by heart: ipo stops at a margin where dpo goes on"
        return {"name": "ipo", "beta": 0.1}, [why], [f"{FEW_PAIRS} pairs or more, or soft labels out of several reviewers: then dpo"]
    flipped = "a known rate of flipped labels, from gold tasks: then robust_dpo with that rate as label_smoothing"
    return {"name": "dpo", "beta": 0.1}, [], [] if facts["soft_labels"] else [flipped]


def _labels(facts: Mapping[str, Any], data: str) -> _Choice:
    good = facts["good"]
    reasons = [f"{facts['rows']} single answers called good or bad ({good:.0%} good): thumbs need no pairs under kto"]
    objective: dict[str, Any] = {"name": "kto", "beta": 0.1}
    if not 0 < good < 1:
        return _Choice(
            "label first",
            {},
            [f"all {facts['rows']} labels are {'good' if good else 'bad'}: nothing to compare"],
            ["answers of the other kind"],
        )
    ratio = good / (1 - good)
    if not 1 <= ratio <= BALANCE:
        weight = "undesirable_weight" if ratio > 1 else "desirable_weight"
        least = ratio / BALANCE if ratio > 1 else 1 / ratio
        objective[weight] = math.ceil(round(100 * least, 6)) / 100  # rounded down it would fall short of the range
        reasons.append(f"good over bad is {ratio:.2f}: {weight} {objective[weight]} brings it to between 1 and 4/3")
    change = ["two answers to the same prompt with a preference: then pairs and dpo"]
    if facts["prompts_with_both"] > 0.5:
        reasons.append(f"{facts['prompts_with_both']:.0%} of the prompts have a good and a bad answer: they could be paired")
        change.insert(0, "pair good and bad answers of a prompt, and dpo learns from the contrast")
    return _Choice("preference", {"data": data, "objective": objective}, reasons, change)


def _comparisons(facts: Mapping[str, Any], data: str) -> _Choice:
    agreement, low, high = (facts[name] for name in ("agreement", "agreement_low", "agreement_high"))
    if agreement is not None and high < LOW_AGREEMENT:
        return _Choice(
            "label first",
            {},
            [f"the reviewers hardly agree (Krippendorff's alpha {agreement:.2f} [{low:.2f}, {high:.2f}]): a model would learn their noise"],
            ["a sharper rubric and new labels; see posttrain preferences report"],
        )
    if facts["judged_twice"]:
        method = "dawid_skene"
        reasons = [f"{facts['annotators']} reviewers on {facts['rows']} comparisons: disagreement becomes soft labels ({method})"]
        change = ["one reviewer a pair: then hard labels, and ipo when they are few"]
    else:
        method = "mean"
        reasons = [f"each of {facts['rows']} comparisons was judged once: labels are hard, and how far reviewers agree is unknown"]
        change = ["some comparisons judged twice: then agreement is known and disagreement becomes soft labels"]
    if agreement is not None and low < LOW_AGREEMENT:
        change.append(
            f"agreement below {LOW_AGREEMENT:g} (alpha {agreement:.2f} [{low:.2f}, {high:.2f}] leaves that open): then label first"
        )
    if facts["uncalibrated"]:
        reasons.append(f"{facts['uncalibrated']} of them judge otherwise than the rest; dawid_skene weighs them down")
    settings = {"data": data, "objective": {"name": "dpo", "beta": 0.1}}
    return _Choice("preference", settings, reasons, change, {"labels": {"method": method}})


# ---- after an earlier run --------------------------------------------------------------------------------------------------


def _with_run(choice: _Choice, facts: Mapping[str, Any], run: str | Path) -> _Choice:
    """The choice with what the run shows: where preference training has flattened, the next method."""
    from posttrain.release.levers import diagnose

    shown = [f"the run shows: {finding.failure} ({finding.seen}); first lever: {finding.lever}" for finding in diagnose(run).findings[:3]]
    if choice.method != "preference" or not _has_flattened(run):
        choice.reasons.extend(shown)
        return choice
    reason = "offline training gained nothing more and broke nothing: it has flattened"
    if facts["kind"] == "UnpairedLabel":
        reason += "; a reward model and ppo are due, and a reward model learns from pairs"
        return _Choice("label first", {}, [reason, *shown], ["pairs of answers to one prompt, of which one is better: then a reward model"])
    reason += ", and ppo against a reward model can go on with answers that are in no pair"
    change = ["a held-out reward model that does not follow (posttrain diagnose): then better pairs, not more ppo"]
    return _Choice("reward_model, then ppo", {"data": choice.settings["data"]}, [reason, *shown], change, choice.beside)


def _has_flattened(run: str | Path) -> bool:
    """Does the run's last reading say that no target gained, and of no guardrail that it is broken?"""
    from posttrain.release.levers.evidence import Evidence

    verdicts = Evidence.load(run).files.get("verdict.json", ())
    readings = [source.data["two_metric"]["overall"] for source in verdicts if source.data.get("two_metric")]
    if not readings:
        return False
    targets, guardrails = ([one["state"] for one in readings[-1]["figures"] if one["role"] == role] for role in ("target", "guardrail"))
    return all(state == "no gain" for state in targets) and "broken" not in guardrails


# ---- how much of the model trains ------------------------------------------------------------------------------------------


def _parameters(model: str) -> int:
    from posttrain.models.inspect import describe

    return int(describe(model)["parameters"])


def _tuning(choice: _Choice, facts: Mapping[str, Any]) -> dict[str, Any]:
    """LoRA or every weight, where, and whether it fits."""
    parameters, memory = facts["parameters"], facts["memory_gb"]
    words = facts["median_answer_words"] or 0
    targets = "attention+mlp" if words > LONG_ANSWER else "attention"
    lora = {"lora": {"rank": 16, "targets": targets}}
    why = (
        "long answers: style and terminology sit in the mlp as well"
        if words > LONG_ANSWER
        else "instruction following and format sit in the attention"
    )
    need = {
        kind: parameters * per / 2**30 if parameters else None
        for kind, per in (("full", FULL_BYTES), ("lora", LORA_BYTES), ("nf4", NF4_BYTES))
    }

    def fits(kind: str) -> bool:
        size = need[kind]
        return memory is None or size is None or size <= HEADROOM * memory

    if facts["rows"] >= MANY_ROWS and fits("full"):
        choice.reasons.append(f"{facts['rows']} rows can move every weight" + _size(need["full"], memory))
        choice.would_change.append("many versions of one base: then an adapter each")
        return {}
    if not fits("lora"):
        if not fits("nf4"):
            choice.reasons.append(f"not even a 4-bit base fits{_size(need['nf4'], memory)}: take a smaller model")
            return {}
        choice.reasons.append(f"only a 4-bit base fits{_size(need['nf4'], memory)}")
        return {**lora, "quantization": "nf4"}
    choice.reasons.append(f"an adapter ({targets}): {why}" + _size(need["lora"], memory))
    choice.would_change.append(f"a deep change of ability with {MANY_ROWS} rows or more: then every weight" + _size(need["full"], memory))
    choice.would_change.append("one version at the lowest latency: merge the adapter; many versions: stack them")
    return lora


def _size(gib: float | None, memory: float | None) -> str:
    if gib is None:
        return ""
    return f" (about {gib:.2g} GiB for weights and optimiser" + (f" of {memory:g})" if memory else ")")


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_flow(entry)}" for name, entry in value.items()) + "}"
    return str(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
