import json
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest

from posttrain.data import load_comparisons
from posttrain.errors import DataError
from posttrain.feedback import label_quality, label_table, of_rubric
from posttrain.feedback.annotators import _agreement_test, annotators, holm
from posttrain.feedback.tables import warnings
from posttrain.records import Comparison, Judgement, Message

DATA = Path(__file__).parents[2] / "fixtures" / "data"


def simulated(seed, *, annotators, comparisons=200, gold=0, bad=None):
    """Comparisons whose better side annotators see with probability .85; ``bad`` maps an annotator to a way of answering.

    Lengths are drawn apart from quality; the order is random for every judgement.
    """
    rng = np.random.default_rng(seed)
    made = []
    for number in range(comparisons):
        truth = "ab"[rng.integers(2)]
        lengths = dict(zip("ab", rng.permutation([40, 80]).tolist(), strict=True))
        judgements = []
        for name in annotators:
            first = "ab"[rng.integers(2)]
            other = "b" if truth == "a" else "a"
            choice = truth if rng.random() < 0.85 else other
            way = (bad or {}).get(name)
            if way == "random":
                choice = "ab"[rng.integers(2)]
            if way == "first" and rng.random() < 0.5:
                choice = first
            if way == "longer" and rng.random() < 0.6:
                choice = max(lengths, key=lengths.get)
            judgements.append(Judgement(name, choice, "r-1", first_shown=first))
        a, b = (Message("assistant", f"{side}{number} ".ljust(lengths[side], "x")) for side in "ab")
        known = truth if number < gold else None
        made.append(Comparison((Message("user", f"q{number}"),), (a,), (b,), tuple(judgements), gold=known, id=f"c{number}"))
    return made


ALL = ("ann", "bob", "cy", "di")


def test_healthy_annotators_are_rarely_singled_out():
    flagged = []
    for seed in range(60):
        comparisons = simulated(seed, annotators=ALL, comparisons=60, gold=30)
        flagged.append(any(one.uncalibrated for one in annotators(comparisons, label_table(comparisons))))
    # a family-wise error of 5 %: 60 trials give 7 or fewer in 99 of 100 cases
    assert sum(flagged) <= 7


@pytest.mark.parametrize(
    ("way", "test"),
    [
        ("random", "agreement with the others"),
        ("random", "gold tasks right"),
        ("first", "first answer chosen"),
        ("longer", "longer answer chosen against the others"),
    ],
)
def test_an_uncalibrated_annotator_is_singled_out_by_the_test_that_fits(way, test):
    report = label_quality(simulated(1, annotators=ALL, gold=80, bad={"di": way}))
    assert report.uncalibrated == ("di",)
    found = {one.test: one for one in report.annotators[3].findings}
    assert test in found
    assert found[test].p < 0.05


def shown_in_order(seed, *, bad=False, comparisons=300):
    """Side a is always shown first and better in three of four, one choice in ten is wrong; a bad ``di`` often takes the first."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(comparisons):
        truth, other = ("a", "b") if rng.random() < 0.75 else ("b", "a")
        choices = [truth if rng.random() < 0.9 else other for _ in ALL]
        if bad and rng.random() < 0.5:
            choices[3] = "a"
        judgements = tuple(Judgement(name, choice, "r-1", first_shown="a") for name, choice in zip(ALL, choices, strict=True))
        sides = ((Message("assistant", f"{side} {number}"),) for side in "xy")
        gold = truth if number % 2 else None
        made.append(Comparison((Message("user", f"q{number}"),), *sides, judgements, gold=gold, id=str(number)))
    return made


def test_who_is_right_is_not_singled_out_because_the_better_answer_is_always_shown_first():
    assert sum(bool(label_quality(shown_in_order(seed)).uncalibrated) for seed in range(20)) <= 3
    report = label_quality(shown_in_order(0))
    assert report.effects.order_drawn is False
    assert any("the order was not drawn" in one for one in warnings(report))
    assert not any("labels depend on the place" in one for one in warnings(report))


def test_who_takes_the_first_answer_is_singled_out_where_the_order_was_not_drawn():
    report = label_quality(shown_in_order(1, bad=True))
    assert report.uncalibrated == ("di",)
    assert "gold tasks missed with the right answer second" in {one.test for one in report.annotators[3].findings}


def test_the_order_counts_as_drawn_by_system_where_systems_are_named():
    made = [replace(one, metadata={"model_a": "mn"[n % 2], "model_b": "nm"[n % 2]}) for n, one in enumerate(shown_in_order(2))]
    assert label_quality(made).effects.order_drawn is True


def test_confusion_and_gold_accuracy_are_those_of_the_annotator():
    comparisons = simulated(2, annotators=ALL, comparisons=1500, gold=400, bad={"di": "random"})
    report = label_quality(comparisons)
    for one in report.annotators:
        expected = 0.5 if one.name == "di" else 0.85
        assert one.accuracy == pytest.approx(expected, abs=0.04)
        right = [j.choice == c.gold for c in comparisons if c.gold for j in c.judgements if j.annotator == one.name]
        assert one.gold.value == pytest.approx(np.mean(right))
        assert one.gold.low <= expected <= one.gold.high
        assert one.confusion[0][0] == pytest.approx(expected, abs=0.06)


def test_settled_comparisons_are_no_gold_tasks():
    comparisons = [replace(one, metadata={"adjudicated_by": ["boss"]}) for one in simulated(3, annotators=ALL, comparisons=40, gold=40)]
    assert all(one.gold is None for one in label_quality(comparisons).annotators)


def test_effects_of_place_and_length_are_the_shares_of_the_labels():
    comparisons = simulated(4, annotators=("ann", "bob"), bad={"ann": "first", "bob": "first"})
    effects = label_quality(comparisons).effects
    judged = [(c, j) for c in comparisons for j in c.judgements]
    assert effects.first_chosen.value == pytest.approx(np.mean([j.choice == j.first_shown for _, j in judged]))
    assert effects.first_chosen.low <= 0.5 * 0.5 + 0.5 <= effects.first_chosen.high  # half the time blind, half the time by chance
    assert effects.by_position_alone == effects.first_chosen
    longer = [j.choice == ("a" if len(c.a[0].content) > len(c.b[0].content) else "b") for c, j in judged]
    assert effects.longer_chosen.value == pytest.approx(np.mean(longer))
    assert effects.longer_chosen.low <= 0.5 <= effects.longer_chosen.high
    assert effects.by_length_alone.value == pytest.approx(max(np.mean(longer), 1 - np.mean(longer)))


def test_the_place_is_taken_out_of_the_scores_of_systems():
    rng = np.random.default_rng(5)
    made = []
    for number in range(600):
        first = "ab"[rng.integers(2)]
        chance = 1 / (1 + np.exp(-(0.0 + (1.0 if first == "a" else -1.0) / 2 * 1.2)))  # systems are equal; the first place is worth 1.2
        judgement = Judgement("ann", "a" if rng.random() < chance else "b", "r", first_shown=first)
        sides = ((Message("assistant", f"{side} {number}"),) for side in "xy")
        metadata = {"model_a": "m", "model_b": "n"}
        made.append(Comparison((Message("user", f"{number}"),), *sides, (judgement,), id=str(number), metadata=metadata))
    models = label_quality(made).effects.models
    assert models.covariates["shown first"].low <= 1.2 <= models.covariates["shown first"].high
    assert models.scores["m"].low <= 0 <= models.scores["m"].high


def test_the_figures_of_real_annotators_are_those_of_a_plain_count():
    rows = json.loads((DATA / "pandalm.json").read_text())
    report = label_quality(load_comparisons(DATA / "pandalm.json"))
    said = [[row[f"annotator{n}"] for n in (1, 2, 3)] for row in rows]
    assert report.unanimous == sum(len(set(row)) == 1 for row in said)
    assert report.ties == pytest.approx(np.mean(np.array(said) == 0))
    for pair, (i, j) in zip(report.pairs, combinations(range(3), 2), strict=True):
        assert pair.agreement.value == pytest.approx(np.mean([row[i] == row[j] for row in said]))
    unequal = [
        (row, len(r["response1"]) > len(r["response2"]))
        for row, r in zip(said, rows, strict=True)
        if len(r["response1"]) != len(r["response2"])
    ]
    longer = [choice == (1 if first else 2) for row, first in unequal for choice in row if choice]
    assert report.effects.longer_chosen.value == pytest.approx(np.mean(longer))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["judgements"] == 3 * len(rows)


def test_human_evaluation_with_little_overlap_says_only_what_it_can():
    report = label_quality(load_comparisons(DATA / "human_eval.csv"))
    assert {one.name for one in report.annotators} == {"yi", "yo", "yu"}
    assert report.effects.first_chosen is not None
    assert all(pair.kappa is None or pair.shared >= 10 for pair in report.pairs)


def test_dimensions_are_counted_and_their_agreement_is_that_of_the_answers():
    base = simulated(8, annotators=("ann", "bob"), comparisons=30)
    made = []
    for number, c in enumerate(base):
        said = [{"truthfulness": "yes" if number % 3 else "no", "score": float(number % 4)} for _ in range(2)]
        said[1]["truthfulness"] = "yes"
        made.append(replace(c, judgements=tuple(replace(j, dimensions=d) for j, d in zip(c.judgements, said, strict=True))))
    score, truth = label_quality(made).dimensions
    assert (score.name, score.answers, score.alpha.value, score.mean) == (
        "score",
        60,
        1.0,
        pytest.approx(np.mean([n % 4 for n in range(30)])),
    )
    assert truth.shares == {"yes": 50 / 60, "no": 10 / 60}
    # observed disagreement 10 of 30; expected 2 x 50 x 10 / (60 x 59)
    assert truth.alpha.value == pytest.approx(1 - (10 / 30) / (2 * 50 * 10 / (60 * 59)))
    assert label_quality(base).dimensions == ()


def test_single_labels_have_no_agreement_and_no_accuracy():
    report = label_quality(load_comparisons(DATA / "fine_grained_qa.json"))
    assert (report.judged_twice, report.alpha, report.annotators[0].accuracy) == (0, None, None)


def test_a_second_label_of_the_same_annotator_measures_consistency():
    one = simulated(6, annotators=("ann", "bob"), comparisons=12)
    again = []
    for number, c in enumerate(one):
        second = replace(c.judgements[0], choice="tie") if number < 3 else c.judgements[0]
        again.append(replace(c, judgements=(*c.judgements, second)))
    ann, bob = label_quality(again).annotators
    assert (ann.repeated.value, ann.repeated.n, ann.labels) == (9 / 12, 12, 24)
    assert bob.repeated is None


def test_same_again_is_about_the_second_label_however_often_others_judge():
    one = simulated(6, annotators=("ann", "bob"), comparisons=12)
    again = [replace(c, judgements=(*c.judgements, c.judgements[0])) for c in one]
    again[0] = replace(again[0], judgements=(*again[0].judgements, again[0].judgements[0]))  # ann judges this one a third time
    again = [replace(c, judgements=(*c.judgements, c.judgements[1])) for c in again]
    ann, bob = label_quality(again).annotators
    assert (ann.repeated.value, ann.repeated.n, bob.repeated.value, bob.repeated.n) == (1.0, 12, 1.0, 12)


def flip(choice):
    return "b" if choice == "a" else "a"


def test_one_who_is_always_contrary_stands_out_though_nothing_varies():
    truth = simulated(9, annotators=("ann",), comparisons=12)
    made = []
    for c in truth:
        choice = c.judgements[0].choice
        said = {"ann": choice, "bob": choice, "cy": choice, "di": flip(choice)}
        made.append(replace(c, judgements=tuple(Judgement(name, one, "r-1") for name, one in said.items())))
    report = label_quality(made)
    assert report.uncalibrated == ("di",)
    (found,) = report.annotators[3].findings
    assert (found.test, found.value, found.expected) == ("agreement with the others", 0.0, 1.0)
    # 12 groups that agree never, 12 that always do: one of C(24, 12) tables; five tests (four of agreement, one of length)
    assert found.p == pytest.approx(5 / comb(24, 12))


def test_the_one_who_settles_what_others_dispute_does_not_stand_out():
    made = []
    for c in simulated(10, annotators=("ann", "bob", "cy"), comparisons=300):
        if len({j.choice for j in c.judgements}) > 1:  # the boss sees only these, and agrees with two of three at most
            choice = c.judgements[0].choice
            boss = Judgement("boss", choice, "r-1")
            c = replace(c, judgements=(*c.judgements, boss), gold=choice, metadata={"adjudicated_by": ["boss"]})
        made.append(c)
    report = label_quality(made)
    assert report.uncalibrated == ()
    boss = next(one for one in report.annotators if one.name == "boss")
    assert (boss.agreement, boss.accuracy) == (None, None)
    assert boss.labels == sum(bool(c.gold) for c in made) > 30


def test_the_others_agreement_is_that_on_the_comparisons_one_judged_too():
    """A fourth annotator as good as the rest is given only what the other three disagree on."""
    made = []
    for c in simulated(11, annotators=ALL, comparisons=300):
        *three, fourth = c.judgements
        made.append(replace(c, judgements=(*three, fourth) if len({j.choice for j in three}) > 1 else tuple(three)))
    table = label_table(made)
    found = _agreement_test(3, table)
    assert found.expected == pytest.approx(1 / 3)  # of three labels that are not all equal, one pair of three is
    assert "di" not in label_quality(made).uncalibrated


def test_two_rubrics_stop_and_one_can_be_kept():
    comparisons = simulated(7, annotators=("ann", "bob"), comparisons=20)
    mixed = [replace(c, judgements=(c.judgements[0], replace(c.judgements[1], rubric="r-2"))) for c in comparisons]
    with pytest.raises(DataError, match=r"'r-1' \(20 judgements\), 'r-2' \(20 judgements\)"):
        label_quality(mixed)
    assert label_quality(of_rubric(mixed, "r-2")).annotators[0].name == "bob"
    with pytest.raises(DataError, match=r"(?s)under rubric 'r-3'.*known: r-1, r-2"):
        of_rubric(mixed, "r-3")
    with pytest.raises(DataError, match="none of 1 comparisons has a judgement"):
        label_quality([replace(mixed[0], judgements=())])


def test_holm_multiplies_by_the_tests_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
