from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data import load_comparisons, read_records, write_jsonl
from posttrain.errors import DataError
from posttrain.feedback import adjudication_queue, build_pairs, labelling_tasks, take_decisions
from posttrain.records import Comparison, Judgement

DATA = Path(__file__).parents[2] / "fixtures" / "data"


@pytest.fixture
def comparisons():
    return load_comparisons(DATA / "pandalm.json")


def test_the_queue_holds_what_annotators_differ_on_most_uncertain_first(comparisons):
    queue = adjudication_queue(comparisons, method="mean", least=2.0)
    split = [one.id for one in comparisons if len({j.choice for j in one.judgements}) > 1]
    assert sorted(doubt.comparison.id for doubt in queue) == sorted(split)
    assert [doubt.entropy for doubt in queue] == sorted((doubt.entropy for doubt in queue), reverse=True)
    for doubt in queue:
        if sorted(doubt.votes.values()) == [1, 2]:
            assert doubt.entropy == pytest.approx(0.9183, abs=1e-4)  # of (1/3, 2/3)
    settled = [replace(one, gold="a") for one in comparisons]
    assert adjudication_queue(settled) == []


def test_tasks_are_blind_and_their_order_is_random_and_repeats(comparisons):
    tasks = labelling_tasks(comparisons, seed=3)
    assert tasks == labelling_tasks(comparisons, seed=3)
    assert tasks != labelling_tasks(comparisons, seed=4)
    swapped = [task.metadata["swapped"] for task in tasks]
    assert 15 <= sum(swapped) <= 45  # of 60; a fair coin stays inside with p > .9999
    for one, task in zip(comparisons, tasks, strict=True):
        assert task.judgements == ()
        assert not {"model_a", "model_b", "cmp_key"} & set(task.metadata)
        assert (task.a, task.b) == ((one.b, one.a) if task.metadata["swapped"] else (one.a, one.b))


def test_decisions_come_back_on_the_right_side_and_settle_the_comparison(comparisons, tmp_path):
    queue = [doubt.comparison for doubt in adjudication_queue(comparisons)][:6]
    better = {one.id: "ab"[number % 2] for number, one in enumerate(queue)}  # in the comparison's own order
    decided = []
    for task in labelling_tasks(queue, seed=0):
        choice = better[task.id]
        if task.metadata["swapped"]:
            choice = "b" if choice == "a" else "a"
        decided.append(replace(task, judgements=(Judgement("boss", choice, "pandalm-2023"),)))
    decided[-1] = replace(decided[-1], judgements=())
    write_jsonl(decided, tmp_path / "tasks.jsonl")
    back = take_decisions(comparisons, list(read_records(tmp_path / "tasks.jsonl", Comparison)), final=True)
    settled = {one.id: one for one in back if one.gold}
    assert {name: one.gold for name, one in settled.items()} == {one.id: better[one.id] for one in queue[:-1]}
    assert all(one.metadata["adjudicated_by"] == "boss" for one in settled.values())
    swaps = {task.id: task.metadata["swapped"] for task in decided}
    assert all(one.judgements[-1].first_shown == ("b" if swaps[name] else "a") for name, one in settled.items())
    pairs = {pair.id: pair for pair in build_pairs(back).pairs}
    for name, one in settled.items():
        if name in pairs:
            assert pairs[name].probability == 1.0
            assert pairs[name].chosen == (one.a if better[name] == "a" else one.b)


def test_a_vote_more_does_not_settle(comparisons):
    task = replace(labelling_tasks(comparisons[:1], seed=0)[0], judgements=(Judgement("boss", "a", "pandalm-2023"),))
    (one, *_) = take_decisions(comparisons, [task], final=False)
    assert one.gold is None
    assert len(one.judgements) == 4


def test_decisions_that_do_not_belong_are_refused(comparisons):
    task = labelling_tasks(comparisons[:1], seed=0)[0]
    judged = replace(task, judgements=(Judgement("boss", "a", "pandalm-2023"),))
    for wrong, said in [
        (replace(judged, metadata={**task.metadata, "task": "nothing"}), "about no comparison"),
        (replace(judged, a=judged.b), "shows other answers"),
        (replace(judged, judgements=(Judgement("boss", "a", "other-2"),)), "rubric 'pandalm-2023' and decided under 'other-2'"),
        (replace(judged, judgements=(*judged.judgements, Judgement("chief", "b", "pandalm-2023"))), "2 final decisions"),
    ]:
        with pytest.raises(DataError, match=said):
            take_decisions(comparisons, [wrong], final=True)
    with pytest.raises(DataError, match="empty or occur twice"):
        labelling_tasks([comparisons[0], comparisons[0]], seed=0)
