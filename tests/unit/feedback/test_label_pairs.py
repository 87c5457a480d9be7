import random
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data import load_comparisons, read_records, write_jsonl
from posttrain.data.comparisons import swap
from posttrain.errors import ConfigError, DataError
from posttrain.feedback import build_pairs, to_pairs
from posttrain.records import Comparison, Judgement, Message, PreferencePair

DATA = Path(__file__).parents[2] / "fixtures" / "data"


def judged(choices, *, strengths=None, gold=None, number=0):
    judgements = tuple(
        Judgement(f"ann{i}", choice, "rubric-1", strength=strengths[i] if strengths else None) for i, choice in enumerate(choices)
    )
    sides = ((Message("assistant", f"{side} {number}"),) for side in ("left", "right"))
    return Comparison((Message("user", f"q{number}"),), *sides, judgements, gold=gold, id=f"c{number}", source="s")


def test_eight_of_ten_votes_are_a_probability_of_point_eight():
    (pair,) = to_pairs([judged(["a"] * 8 + ["b"] * 2)], method="mean")
    assert pair.probability == 0.8
    assert pair.chosen[0].content == "left 0"
    (turned,) = to_pairs([judged(["a"] * 2 + ["b"] * 8)], method="mean")
    assert (turned.probability, turned.chosen[0].content) == (0.8, "right 0")
    assert turned.metadata["labels"]["votes"] == {"chosen": 8, "rejected": 2, "tie": 0}


def test_a_tie_is_half_a_vote_to_each_side():
    (pair,) = to_pairs([judged(["a", "a", "tie"])], method="mean")
    assert pair.probability == pytest.approx((2 + 0.5) / 3)
    assert build_pairs([judged(["a", "b"]), judged(["a"], number=1)], method="mean").left_out == {"tie": 1}
    kept = to_pairs([judged(["a", "b"])], method="mean", ties="half")
    assert kept[0].probability == 0.5


@pytest.mark.parametrize("method", ["mean", "majority", "dawid_skene"])
def test_an_annotator_who_judges_again_has_one_vote_the_latest(method):
    again = replace(judged([]), judgements=tuple(Judgement(*one, "rubric-1") for one in (("x", "a"), ("x", "a"), ("x", "b"), ("y", "b"))))
    once = replace(judged([]), judgements=again.judgements[2:])
    others = [judged(["a", "a"], number=n) for n in range(1, 4)]
    assert to_pairs([again, *others], method=method) == to_pairs([once, *others], method=method)


def test_majority_is_hard_and_has_no_winner_without_most_votes():
    done = build_pairs(
        [judged(["a", "a", "b"]), judged(["a", "b", "tie"], number=1), judged(["tie", "tie", "a"], number=2)], method="majority"
    )
    assert [pair.probability for pair in done.pairs] == [1.0]
    assert done.left_out == {"tie": 2}


def test_dawid_skene_follows_the_annotators_who_agree_with_the_rest():
    agreed = [judged(["a"] * 3 + ["b"] if n % 2 else ["b"] * 3 + ["a"], number=n) for n in range(40)]  # the fourth always says the contrary
    contested = replace(
        judged(["a", "b", "b", "b"], number=99), judgements=(Judgement("ann0", "a", "rubric-1"), Judgement("ann3", "b", "rubric-1"))
    )
    pair = to_pairs([*agreed, contested])[-1]
    assert pair.chosen[0].content == "left 99"
    assert pair.probability > 0.95  # ann3's 'b' speaks for 'a'
    assert build_pairs([*agreed, contested], method="mean").left_out == {"tie": 1}


def test_dawid_skene_does_not_care_which_answer_is_listed_first():
    draw = random.Random(2)
    listed = []
    for number in range(200):  # the better answer is a in 17 of 20
        better, worse = ("a", "b") if draw.random() < 0.85 else ("b", "a")
        listed.append(judged([better if draw.random() < 0.8 else worse for _ in range(2)], number=number))
    turned = [swap(one) if draw.random() < 0.5 else one for one in listed]
    once, again = build_pairs(listed), build_pairs(turned)
    assert once.left_out == again.left_out == {"tie": sum({j.choice for j in one.judgements} == {"a", "b"} for one in listed)}
    assert [pair.chosen for pair in once.pairs] == [pair.chosen for pair in again.pairs]
    assert [pair.probability for pair in once.pairs] == pytest.approx([pair.probability for pair in again.pairs], abs=1e-6)


def test_two_who_always_contradict_each_other_decide_nothing():
    assert build_pairs(
        [judged(["a", "b"] if n % 3 else ["b", "a"], number=n) for n in range(60)] + [judged(["a", "a"], number=60)]
    ).left_out == {"tie": 60}


def test_single_labels_are_refused_by_dawid_skene_unless_gold_tasks_teach_it():
    singles = [judged(["a"], number=n) for n in range(4)]
    with pytest.raises(DataError, match="judged by two annotators"):
        to_pairs(singles)
    assert len(to_pairs([*singles, judged(["a"], gold="a", number=9)])) == 5


def test_gold_outweighs_votes():
    for method in ("mean", "majority", "dawid_skene"):
        (pair,) = to_pairs([judged(["a", "a", "a"], gold="b")], method=method)
        assert (pair.chosen[0].content, pair.probability) == ("right 0", 1.0)


def test_two_rubrics_stop_with_both_names_and_counts():
    other = replace(judged(["b"], number=1), judgements=(Judgement("ann0", "b", "rubric-2"),))
    with pytest.raises(DataError) as error:
        to_pairs([judged(["a", "a"]), other], method="mean")
    assert "'rubric-1' (2 judgements)" in str(error.value)
    assert "'rubric-2' (1 judgements)" in str(error.value)


def test_what_cannot_be_a_pair_is_left_out_and_counted():
    empty = replace(judged(["a"], number=1), b=(Message("assistant"),))
    equal = replace(judged(["a"], number=2), b=(Message("assistant", "left 2"),))
    unsure = judged(["a", "a", "b"], number=3)
    done = build_pairs([judged(["a"]), empty, equal, unsure, judged([], number=4)], method="mean", min_confidence=0.7)
    assert done.left_out == {"empty answer": 1, "equal answers": 1, "no judgement": 1, "confidence below 0.7": 1}
    assert len(done.pairs) + sum(done.left_out.values()) == done.comparisons == 5
    with pytest.raises(DataError, match="none of 1 comparisons"):
        to_pairs([empty], method="mean")
    with pytest.raises(ConfigError, match="min_confidence"):
        to_pairs([judged(["a"])], min_confidence=0.4)


def test_the_margin_is_the_mean_strength_towards_the_chosen_side():
    (pair,) = to_pairs([judged(["a", "a", "b"], strengths=[2.0, 1.0, 1.0])], method="mean")
    assert pair.margin == pytest.approx((2 + 1 - 1) / 3)
    (unrated,) = to_pairs([judged(["a"])], method="mean")
    assert unrated.margin is None


@pytest.mark.parametrize("method", ["dawid_skene", "majority", "mean"])
def test_real_comparisons_become_pairs_that_the_readers_take(tmp_path, method):
    comparisons = load_comparisons(DATA / "pandalm.json")
    done = build_pairs(comparisons, method=method)
    assert len(done.pairs) + sum(done.left_out.values()) == len(comparisons)
    assert all(0.5 <= pair.probability <= 1 for pair in done.pairs)
    write_jsonl(done.pairs, tmp_path / "pairs.jsonl")
    assert tuple(read_records(tmp_path / "pairs.jsonl", PreferencePair)) == done.pairs
