import json
from collections import Counter
from pathlib import Path

import pytest

from posttrain.data import contamination, load_card, read_records
from posttrain.data.cards import check_consent
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.cases import read_cases
from posttrain.metrics import check_calls
from posttrain.records import Demonstration, PreferencePair, ToolCall, check_record
from posttrain.worlds import SPLITS, open_world, preference_pairs, worlds, write_tasks
from posttrain.worlds.finops.scene import kinds


def replay(task, turns):
    """(calls, results, outcome) of the calls in ``turns``, made again in a fresh world opened from JSON."""
    environment = open_world(json.loads(json.dumps(task.world)))
    calls, results = [], []
    for message in turns:
        if message.tool_calls:
            calls += message.tool_calls
            results += environment.call_many(message.tool_calls)
    outcome = environment.outcome(turns)
    assert environment.tools == task.tools
    environment.close()
    assert json.loads(json.dumps(outcome)) == outcome
    return calls, results, outcome


@pytest.mark.parametrize("split", SPLITS)
def test_every_demonstration_solves_its_task_again(split, tasks_of):
    for task in tasks_of(split):
        calls, results, outcome = replay(task, task.demonstration)
        assert [one.content for one in results] == [one.content for one in task.demonstration if one.role == "tool"], task.id
        assert not any(one.is_error for one in results), task.id
        assert outcome["end_state_ok"], (task.id, outcome)
        assert not outcome["violations"], (task.id, outcome)
        assert not outcome["answer_missing"], (task.id, outcome)
        assert outcome["injection_obeyed"] in (None, False), task.id
        assert outcome["injection_read"] in (None, True), task.id
        assert check_calls(calls, task.expected["calls"], task.tools).valid, task.id
        assert len(task.demonstration[-1].content) < 160, task.id
        check_record(Demonstration((*task.messages, *task.demonstration), task.tools))


@pytest.mark.parametrize("split", SPLITS)
def test_every_counterexample_is_found_out(split, tasks_of):
    reasons = Counter()
    for task in tasks_of(split)[:80]:
        for wrong in worlds.get("finops").counterexamples(task):
            reasons[wrong.kind] += 1
            assert wrong.turns[: wrong.shared] == task.demonstration[: wrong.shared]
            assert wrong.turns[wrong.shared] != task.demonstration[wrong.shared]
            calls, _, outcome = replay(task, wrong.turns)
            found = (
                not outcome["end_state_ok"]
                or outcome["violations"]
                or outcome["answer_missing"]
                or outcome["injection_obeyed"]
                or not check_calls(calls, task.expected["calls"], task.tools).valid
            )
            assert found, (task.id, wrong)
    assert {"wrong_account", "future_date", "other_tenant", "needless_call", "guess", "injection_obeyed", "unauthorised"} <= set(reasons)


def test_actions_that_go_wrong_do_not_reach_the_end_state(tasks_of):
    seen = 0
    for task in tasks_of("train")[:80]:
        if "state" not in task.expected:
            continue
        assert not replay(task, ())[2]["end_state_ok"]
        for wrong in worlds.get("finops").counterexamples(task):
            if wrong.kind in (
                "wrong_account",
                "future_date",
                "wrong_side",
                "wrong_amount",
                "wrong_direction",
                "over_limit",
                "not_approved",
                "not_done",
            ):
                assert not replay(task, wrong.turns)[2]["end_state_ok"], (task.id, wrong)
                seen += 1
    assert seen > 20


def test_every_kind_of_task_comes_up_and_worlds_are_small_groups(tasks_of):
    slices = Counter(name for split in SPLITS for task in tasks_of(split) for name in task.slices)
    assert {f"kind:{name}" for name in kinds} <= set(slices)
    assert {f"tenant:{name}" for name in ("bank_A", "retail_B", "saas_C")} <= set(slices)
    assert max(Counter(task.group for task in tasks_of("test")).values()) <= 10


def test_the_tasks_of_a_world_begin_with_the_same_words_and_tools(tasks_of):
    by_group = {}
    for task in tasks_of("test"):
        by_group.setdefault(task.group, []).append(task)
    for group in by_group.values():
        assert len({task.messages[0].content for task in group}) == 1
        shortest = min(len(task.tools) for task in group)
        assert len({json.dumps(task.tools[:shortest]) for task in group}) == 1


def test_more_tasks_do_not_change_the_earlier_ones_and_a_choice_keeps_them(tasks_of):
    world = worlds.get("finops")
    assert world.tasks("test", seed=3, count=5) == list(tasks_of("test")[:5])
    chosen = world.tasks("test", seed=3, count=4, only=["injection"])
    assert chosen == [task for task in tasks_of("test") if "family:injection" in task.slices][:4]


def test_no_tool_list_of_a_role_is_longer_than_ten(tasks_of):
    assert max(len(task.tools) for task in tasks_of("test")) <= 11


def test_unknown_kinds_worlds_and_states_are_refused_by_name():
    with pytest.raises(DataError, match="unknown kind of task 'lokup'"):
        worlds.get("finops").tasks("test", seed=0, count=1, only=["lokup"])
    with pytest.raises(ConfigError, match="unknown world 'finop'"):
        worlds.get("finop")
    with pytest.raises(DataError, match="a world has no name"):
        open_world({"split": "test"})
    with pytest.raises(ConfigError, match="sead"):
        open_world({"name": "finops", "split": "test", "sead": 1, "task": 0})


def test_a_case_whose_world_has_changed_since_is_refused(tasks_of):
    written = {**tasks_of("test")[0].world, "hash": "0123456789abcdef"}
    with pytest.raises(DataError, match=r"is another one than when it was written.*\n.*write the file again"):
        open_world(written)


def test_rows_are_read_back_and_training_rows_hold_nothing_of_the_cases(tmp_path, tasks_of):
    rows, cases, pairs = (tmp_path / name for name in ("train.jsonl", "cases.jsonl", "pairs.jsonl"))
    assert write_tasks(tasks_of("train"), rows, "demonstrations") == len(tasks_of("train"))
    assert write_tasks(tasks_of("test"), cases, "cases") == len(tasks_of("test"))
    count = write_tasks(tasks_of("train")[:20], pairs, "pairs")
    demonstrations = list(read_records(rows, Demonstration))
    assert [one.messages for one in demonstrations] == [(*task.messages, *task.demonstration) for task in tasks_of("train")]
    assert [one.tools for one in demonstrations] == [task.tools for task in tasks_of("train")]
    read = read_cases(cases)
    assert [(one.messages, one.tools, one.expected, one.group) for one in read] == [
        (task.messages, task.tools, task.expected, task.group) for task in tasks_of("test")
    ]
    assert len(list(read_records(pairs, PreferencePair))) == count > 20
    for path in (rows, cases, pairs):
        check_consent(load_card(path))
    assert not contamination(demonstrations, {"world": [(case.id, case.text) for case in read]}).hits


def test_pairs_part_at_one_turn(tasks_of):
    by_id = {task.id: task for task in tasks_of("train")}
    pairs = list(preference_pairs(tasks_of("train")[:30]))
    for pair in pairs:
        task = by_id[pair.id.split(":")[0]]
        right = (*task.messages, *task.demonstration)
        assert (*pair.prompt, *pair.chosen) == right[: len(pair.prompt) + 1]
        check_record(pair)
        assert len(pair.chosen) == len(pair.rejected) == 1
        assert pair.prompt[-1].role in ("user", "tool")
    assert any(pair.chosen[0].tool_calls and not pair.rejected[0].tool_calls for pair in pairs)
    assert any(pair.rejected[0].tool_calls and not pair.chosen[0].tool_calls for pair in pairs)


def test_any_words_find_a_policy_and_other_arguments_count():
    (task,) = worlds.get("finops").tasks("validation", seed=0, count=1, only=["policy"])
    needed = task.expected["calls"]
    assert check_calls([ToolCall("search_policy", {"query": "quite other words"})], needed, task.tools).valid
    assert not check_calls([ToolCall("search_policy", {"query": 5})], needed, task.tools).valid
    assert not check_calls([ToolCall("search_policy", {"query": "x", "tenant": "bank_A"})], needed, task.tools).valid


def test_what_cannot_be_written_is_said(tmp_path, tasks_of):
    with pytest.raises(DataError, match=r"cannot be written as 'case'.*\n.*'cases'"):
        write_tasks(tasks_of("test")[:1], Path(tmp_path, "x.jsonl"), "case")
    with pytest.raises(DataError, match="no tasks"):
        write_tasks([], Path(tmp_path, "x.jsonl"), "cases")
