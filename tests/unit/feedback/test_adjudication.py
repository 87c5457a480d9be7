from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data import load_comparisons, read_records, write_jsonl
from posttrain.errors import ConfigError, DataError
from posttrain.feedback import adjudication_queue, build_pairs, labelling_tasks, load_rubric, take_decisions
from posttrain.records import Comparison, Judgement, Message

DATA = Path(__file__).parents[2] / "fixtures" / "data"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def comparisons():
    return load_comparisons(DATA / "pandalm.json")


def test_the_queue_holds_what_annotators_differ_on_most_uncertain_first(comparisons):
    queue = adjudication_queue(comparisons, method="mean", least=2.0)
    usable = [one for one in comparisons if one.a != one.b and one.a[0].content.strip() and one.b[0].content.strip()]
    split = [one.id for one in usable if len({j.choice for j in one.judgements}) > 1]
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
        assert set(task.metadata) == {"task", "swapped", "rubric"}
        assert task.source == ""
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
    assert all(one.metadata["adjudicated_by"] == ["boss"] for one in settled.values())
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


def test_ids_that_are_repeated_or_empty_lose_no_row_when_decisions_come_back(comparisons):
    first, second = comparisons[:2]
    with pytest.raises(DataError, match=rf"1 ids are empty or occur twice: '{first.id}' \(2\)"):
        take_decisions([first, replace(second, id=first.id)], [], final=True)
    with pytest.raises(DataError, match=r"occur twice: '' \(1\)"):
        take_decisions([first, replace(second, id="")], [], final=True)


def decided(comparison, choice, *, annotator="boss", rubric="pandalm-2023"):
    """The comparison's task, judged: ``choice`` in the comparison's own order."""
    task = labelling_tasks([comparison], seed=0)[0]
    seen = {"a": "b", "b": "a", "tie": "tie"}[choice] if task.metadata["swapped"] else choice
    return replace(task, judgements=(Judgement(annotator, seen, rubric),))


def test_a_final_decision_may_not_contradict_a_gold_answer_or_another_decision(comparisons):
    gold = replace(comparisons[0], gold="a")
    with pytest.raises(DataError, match=f"'{gold.id}' is decided as 'b', and its gold answer is 'a'"):
        take_decisions([gold], [decided(gold, "b")], final=True)
    (vote,) = take_decisions([gold], [decided(gold, "b")], final=False)
    assert (vote.gold, len(vote.judgements)) == ("a", 4)
    with pytest.raises(DataError, match="the decision of boss is 'a'"):
        take_decisions(comparisons, [decided(comparisons[0], "a"), decided(comparisons[0], "b", annotator="chief")], final=True)


def test_a_gold_task_that_a_labeller_answered_stays_a_gold_task(comparisons):
    gold = replace(comparisons[0], gold="a")
    (answered,) = take_decisions([gold], [decided(gold, "a")], final=True)
    assert answered.gold == "a"
    assert "adjudicated_by" not in answered.metadata
    assert answered.judgements[-1].annotator == "boss"


def test_decisions_read_back_twice_count_once(comparisons):
    task = decided(comparisons[0], "a")
    once = take_decisions(comparisons, [task], final=False)
    assert len(once[0].judgements) == 4
    assert take_decisions(once, [task], final=False) == once
    settled = take_decisions(comparisons, [task, decided(comparisons[0], "a", annotator="chief")], final=True)
    assert settled[0].metadata["adjudicated_by"] == ["boss", "chief"]


def test_a_task_shows_nothing_but_prompt_answers_and_what_is_asked(comparisons):
    rubric = load_rubric(ROOT / "rubrics" / "assistant.yaml")
    open_ones = [replace(one, judgements=(), metadata={"generator": "v4", "winner": "a", "system": "x"}) for one in comparisons]
    tasks = labelling_tasks(open_ones, seed=0, rubric=rubric)
    assert all(set(task.metadata) == {"task", "swapped", "rubric", "question"} for task in tasks)
    assert (tasks[0].metadata["rubric"], tasks[0].metadata["question"]) == ("assistant-1", rubric.question)
    other = replace(tasks[0], judgements=(Judgement("ann", "a", "assistant-2"),))
    with pytest.raises(DataError, match="was asked under rubric 'assistant-1' and decided under 'assistant-2'"):
        take_decisions(open_ones, [other], final=False)
    with pytest.raises(DataError, match="judged under rubric 'pandalm-2023', not 'assistant-1'"):
        labelling_tasks(comparisons, seed=0, rubric=rubric)


def test_answers_that_never_train_are_not_sent_to_anyone(comparisons):
    split = next(doubt.comparison for doubt in adjudication_queue(comparisons, method="mean"))
    assert adjudication_queue([split], method="mean")
    assert adjudication_queue([replace(split, b=split.a)], method="mean") == []
    assert adjudication_queue([replace(split, b=(Message("assistant", " "),))], method="mean") == []


def test_an_unknown_method_is_refused_with_the_nearest_one(comparisons):
    with pytest.raises(ConfigError, match="did you mean 'dawid_skene'"):
        adjudication_queue(comparisons, method="david_skene")
