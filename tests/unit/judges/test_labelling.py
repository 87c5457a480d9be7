import json
from dataclasses import replace
from pathlib import Path

import pytest
from judge_server import constitution, judged_by_people

from posttrain.data import load_card, read_records, write_jsonl
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.feedback import load_rubric, to_pairs
from posttrain.generation import EndpointGenerator
from posttrain.judges import (
    Floor,
    PairwiseJudge,
    calibration_lines,
    label_checked,
    load_constitution,
    record,
    record_labels,
    remembered,
)
from posttrain.lineage import LineageStore
from posttrain.records import Comparison

ROOT = Path(__file__).parents[3]
CARD = "source: here\nlicence: MIT\nconsent: given for the test\n"


def unlabelled(count):
    return [replace(one, judgements=()) for one in judged_by_people(count, start=1000)]


def test_labels_above_the_floor_are_written_and_train(make_judge, tmp_path):
    done = label_checked(make_judge(), unlabelled(20), judged_by_people(80), out=tmp_path / "l.jsonl", created="2026-01-01")
    assert (done["labelled"], done["comparisons"]) == (20, 20)
    labelled = list(read_records(tmp_path / "l.jsonl", Comparison))
    pairs = to_pairs(labelled, method="majority")
    assert len(pairs) == 20
    assert all("quality=2" in pair.chosen[0].content for pair in pairs)
    written = json.loads((tmp_path / "l.jsonl.calibration.json").read_text())
    assert written["kappa"]["value"] == 1.0


def test_below_the_floor_no_label_is_written_but_the_figures_are(make_judge, server, tmp_path):
    server.accuracy = 0.5
    with pytest.raises(CheckFailed, match="below its floor against people, so none of its labels is written"):
        label_checked(make_judge(), unlabelled(5), judged_by_people(80), out=tmp_path / "l.jsonl", created="")
    assert not (tmp_path / "l.jsonl").exists()
    assert json.loads((tmp_path / "l.jsonl.calibration.json").read_text())["kappa"]["low"] < 0.4
    assert server.asked == 2 * 80  # the unlabelled file was never shown to it


def test_another_rubric_than_peoples_is_refused_unless_asked_for_and_then_said(make_judge, server, tmp_path):
    judge = make_judge()
    people = [replace(c, judgements=(replace(c.judgements[0], rubric="people-1"),)) for c in judged_by_people(80)]
    options = {"out": tmp_path / "l.jsonl", "created": ""}
    with pytest.raises(DataError, match="people judged under rubric 'people-1', and the judge judges under 'assistant-1'"):
        label_checked(judge, unlabelled(3), people, **options)
    assert server.asked == 0
    done = label_checked(judge, unlabelled(3), people, other_rubric=True, **options)
    assert any("another rubric: 'people-1', the judge under 'assistant-1'" in line for line in calibration_lines(done))
    assert not any(
        "another rubric" in line for line in calibration_lines(label_checked(judge, unlabelled(3), judged_by_people(80), **options))
    )


def test_labels_are_never_mixed_with_those_of_another_rubric(make_judge, server, tmp_path):
    (judged,) = judged_by_people(1)
    other = replace(judged, judgements=(replace(judged.judgements[0], rubric="people-1"),))
    with pytest.raises(DataError, match="judgements under rubric 'people-1', and the judge's labels are under 'assistant-1'"):
        label_checked(make_judge(), [other], judged_by_people(80), out=tmp_path / "l.jsonl", created="")
    assert server.asked == 0
    assert list(tmp_path.iterdir()) == []


def test_no_label_at_all_is_an_error_and_no_file(make_judge, tmp_path):
    same = [replace(one, a=one.b) for one in unlabelled(4)]  # a judge without ties cannot say 'tie'
    with pytest.raises(DataError, match="none of 4 comparisons a label"):
        label_checked(make_judge(ties=False), same, judged_by_people(80), out=tmp_path / "l.jsonl", created="")
    assert not (tmp_path / "l.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [{"floor": Floor(kappa=0.1)}, {"rubric": "assistant-2"}, {"on_inconsistent": "tie"}, {"max_new_tokens": 64}, {"reasons": True}],
)
def test_nothing_in_a_constitution_changes_under_its_version(tmp_path, change):
    store = LineageStore(tmp_path / "lineage.db")
    store.put("constitution", record(constitution()))
    assert store.put("constitution", record(constitution())).startswith("constitution:")
    with pytest.raises(CheckFailed, match="changed without a new version"):
        store.put("constitution", record(constitution().model_copy(update=change)))


def test_answers_on_disk_are_not_asked_again(server, tmp_path):
    generator = EndpointGenerator(server.url, "served", concurrency=4)
    for asked in (16, 0):
        server.asked = 0
        judge = PairwiseJudge(generator, constitution(), name="served", ask=remembered(generator, tmp_path / "answers.jsonl"))
        verdicts = judge.judge([*judged_by_people(8), *judged_by_people(8)])  # every pair twice: asked once
        assert server.asked == asked
        assert [one.choice for one in verdicts[:8]] == [one.choice for one in verdicts[8:]]


def test_the_lineage_holds_the_constitution_its_figures_and_the_labels(make_judge, tmp_path):
    store, source, out = LineageStore(tmp_path / "lineage.db"), tmp_path / "open.jsonl", tmp_path / "l.jsonl"
    write_jsonl(unlabelled(3), source)
    judge = make_judge()
    done = label_checked(judge, unlabelled(3), judged_by_people(80), out=out, created="")
    without_card = store.get(record_labels(store, judge, source=source, out=out, done=done))
    assert without_card.kind == "evaluation"
    (tmp_path / "open.jsonl.card.yaml").write_text(CARD)
    node = store.get(record_labels(store, judge, source=source, out=out, done=done))
    assert (node.kind, node.content["judge"]) == ("data", judge.name)
    assert load_card(out).consent == "given for the test"
    (rules,) = [one for one in store.ancestors(node.id) if one.kind == "constitution"]
    assert rules.content["hash"] == judge.constitution.hash
    changed = constitution().model_copy(update={"principles": ("Prefer what is long.",)})
    with pytest.raises(CheckFailed, match="its text changed without a new version"):
        store.put("constitution", record(changed))


def test_the_shipped_constitution_and_rubric_are_valid_and_belong_together():
    rules, rubric = load_constitution(ROOT / "constitutions" / "assistant.yaml"), load_rubric(ROOT / "rubrics" / "assistant.yaml")
    assert rules.rubric == rubric.label == "assistant-1"
    assert {"truthfulness", "calibration", "uncertainty"} <= {one.name for one in rubric.dimensions}
    assert "Reply with 1, 2 or tie and nothing else." in rules.text
    assert "Verdict: 1 or 2" in rules.model_copy(update={"reasons": True, "ties": False}).text


def test_a_rubric_that_asks_not_for_truth_is_refused(tmp_path):
    text = (ROOT / "rubrics" / "assistant.yaml").read_text().replace("name: truthfulness", "name: charm")
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match="missing: truthfulness"):
        load_rubric(tmp_path / "r.yaml")
    (tmp_path / "c.yaml").write_text("name: x\nversion: '1'\nrubric: r-1\nprinciples: [be true]\nflor: {kappa: 0.3}\n")
    with pytest.raises(ConfigError, match="did you mean 'floor'"):
        load_constitution(tmp_path / "c.yaml")
