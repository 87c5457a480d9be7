"""`posttrain preferences`: the commands on real judgements, a tiny model that really answers, and a served judge of known faults."""

import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posttrain.chat import ChatContract
from posttrain.cli import preferences
from posttrain.data import read_records, write_jsonl
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.models import ModelSettings, ScalarModel
from posttrain.models.tiny import write_tiny_model
from posttrain.records import Comparison, Message, PreferencePair
from posttrain.rewards import RewardModel

TESTS = Path(__file__).parents[1]
DATA = TESTS / "fixtures" / "data"
ROOT = TESTS.parent
CARD = "source: here\nlicence: Apache-2.0\nconsent: public under its licence\n"
_spec = importlib.util.spec_from_file_location("judge_server_e2e", TESTS / "unit" / "judges" / "judge_server.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


def posttrain(*arguments, cwd=None):
    command = [str(Path(sys.executable).with_name("posttrain")), "preferences", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=cwd)


def inside(*arguments):
    """The same command in this process: one that needs torch starts in seconds, not in ten."""
    return CliRunner().invoke(preferences.app, list(map(str, arguments)))


def test_report_prints_tables_one_json_object_and_an_offline_page(tmp_path):
    page = tmp_path / "labels.html"
    text = posttrain("report", DATA / "pandalm.json", "--html", page)
    assert (text.returncode, text.stderr) == (0, "")
    for said in ("Krippendorff's alpha", "decided by length alone", "annotator3", "To adjudicate first"):
        assert said in text.stdout
        assert said.replace("'", "&#39;") in page.read_text()
    assert "://" not in page.read_text()
    found = json.loads(posttrain("report", DATA / "pandalm.json", "--json").stdout)
    assert (found["comparisons"], found["judgements"], found["rubric"]) == (60, 180, "pandalm-2023")


def test_pairs_keep_the_card_and_say_what_was_left_out(tmp_path):
    source = shutil.copy(DATA / "pandalm.json", tmp_path / "judged.json")
    (tmp_path / "judged.json.card.yaml").write_text(CARD)
    done = json.loads(posttrain("pairs", source, "-o", tmp_path / "pairs.jsonl", "--method", "mean", "--json").stdout)
    pairs = list(read_records(tmp_path / "pairs.jsonl", PreferencePair))
    assert len(pairs) == done["pairs"]
    assert done["pairs"] + sum(done["left_out"].values()) == 60
    assert sum(pair.probability < 1 for pair in pairs) == done["soft"] > 0
    assert (tmp_path / "pairs.jsonl.card.yaml").read_text() == CARD


def test_mixed_rubrics_stop_with_usage_error_and_one_can_be_kept(tmp_path):
    rows = [json.loads(line) for line in _written(tmp_path, DATA / "pandalm.json").read_text().splitlines()]
    for row in rows[:10]:
        row["judgements"][0]["rubric"] = "pandalm-2024"
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stopped = posttrain("pairs", tmp_path / "mixed.jsonl", "-o", tmp_path / "pairs.jsonl")
    assert stopped.returncode == 2
    assert "'pandalm-2023' (170 judgements), 'pandalm-2024' (10 judgements)" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "pairs.jsonl").exists()
    assert posttrain("pairs", tmp_path / "mixed.jsonl", "-o", tmp_path / "pairs.jsonl", "--rubric", "pandalm-2023").returncode == 0
    mistyped = inside("pairs", tmp_path / "mixed.jsonl", "-o", tmp_path / "other.jsonl", "--rubric", "pandalm-2032")
    assert isinstance(mistyped.exception, DataError)
    assert "known: pandalm-2023, pandalm-2024" in str(mistyped.exception)


def test_adjudication_goes_out_as_tasks_and_comes_back_as_decisions(tmp_path):
    source, tasks, settled = (
        shutil.copy(DATA / "pandalm.json", tmp_path / "judged.json"),
        tmp_path / "tasks.jsonl",
        tmp_path / "settled.jsonl",
    )
    (tmp_path / "judged.json.card.yaml").write_text(CARD)
    out = json.loads(posttrain("adjudicate", source, "-o", tasks, "--limit", 3, "--json").stdout)
    assert out["tasks"] == 3
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    for row in rows[:2]:
        row["judgements"] = [{"annotator": "boss", "choice": "a", "rubric": "pandalm-2023"}]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    back = json.loads(posttrain("adjudicate", source, "--decisions", tasks, "-o", settled, "--json").stdout)
    assert (back["comparisons"], back["decided"], back["open"]) == (60, 2, 1)
    assert (tmp_path / "settled.jsonl.card.yaml").read_text() == CARD
    decided = [one for one in read_records(settled, Comparison) if one.gold]
    expected = {row["metadata"]["task"]: "b" if row["metadata"]["swapped"] else "a" for row in rows[:2]}
    assert {one.id: one.gold for one in decided} == expected


def test_judgements_that_come_home_under_two_rubrics_are_not_written(tmp_path):
    rows = [json.loads(line) for line in _written(tmp_path, DATA / "pandalm.json").read_text().splitlines()[:2]]
    tasks = []
    for number, row in enumerate(rows):
        row["judgements"] = []
        judgement = {"annotator": "ann", "choice": "a", "rubric": f"r-{number}"}
        tasks.append({**row, "judgements": [judgement], "metadata": {"task": row["id"], "swapped": False}})
    for name, given in (("open", rows), ("tasks", tasks)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    options = ["--decisions", tmp_path / "tasks.jsonl", "-o", tmp_path / "out.jsonl", "--no-final"]
    refused = inside("adjudicate", tmp_path / "open.jsonl", *options)
    assert isinstance(refused.exception, DataError)
    assert "under 2 rubric versions" in str(refused.exception)
    assert not (tmp_path / "out.jsonl").exists()


def test_collect_samples_a_model_and_writes_blind_tasks(tmp_path):
    prompts = ["what fell in March?", "why did cash fall?", "name the account"]
    model = write_tiny_model(tmp_path / "model", [*prompts, "cash fell in March"], seed=3, vocab_size=300, hidden=32, max_length=128)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    (tmp_path / "p.jsonl.card.yaml").write_text(CARD)
    options = ["-p", tmp_path / "p.jsonl", "-m", model, "-o", tmp_path / "open.jsonl", "--max-new-tokens", 6, "-n", 3, "--json"]
    options += ["--rubric-file", ROOT / "rubrics" / "assistant.yaml"]
    found = json.loads(inside("collect", *options).stdout)
    assert (found["comparisons"], found["prompts"], found["candidates"]) == (3, 3, 9)
    tasks = list(read_records(tmp_path / "open.jsonl.tasks.jsonl", Comparison))
    assert len(tasks) == 3
    assert all(not task.judgements for task in tasks)
    assert {task.metadata["rubric"] for task in tasks} == {"assistant-1"}
    assert (tmp_path / "open.jsonl.card.yaml").read_text() == CARD
    written = (tmp_path / "open.jsonl").read_bytes()
    assert json.loads(inside("collect", *options).stdout) == found  # answered before: the same comparisons again
    assert (tmp_path / "open.jsonl").read_bytes() == written


def test_collect_chooses_by_the_scores_of_a_reward_model(tmp_path):
    prompts = ["what fell in March?", "why did cash fall?"]
    model = write_tiny_model(tmp_path / "model", [*prompts, "cash fell in March"], seed=3, vocab_size=300, hidden=32, max_length=128)
    ScalarModel.load(ModelSettings(path=str(model), dtype="float32"), seed=0).save(tmp_path / "reward", ChatContract.load(model))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    options = ["-p", tmp_path / "p.jsonl", "-m", model, "-o", tmp_path / "open.jsonl", "--max-new-tokens", 6, "-n", 4]
    refused = inside("collect", *options, "--strategy", "uncertain")
    assert "needs scores" in str(refused.exception)
    found = inside("collect", *options, "--strategy", "uncertain", "--reward-model", tmp_path / "reward", "--json")
    assert json.loads(found.stdout)["comparisons"] == 2
    scorer = RewardModel.load(tmp_path / "reward")
    answers = [json.loads(line) for line in (tmp_path / "open.jsonl.answers").read_text().splitlines()]
    for number, one in enumerate(read_records(tmp_path / "open.jsonl", Comparison), 1):
        texts = {row["text"] for row in answers if row["id"].startswith(f"{number}#") and row["text"].strip()}
        scores = sorted(scorer.score([(one.prompt, (Message("assistant", text),)) for text in texts]))
        closest = min(high - low for low, high in itertools.pairwise(scores))
        assert abs(one.metadata["score_a"] - one.metadata["score_b"]) == pytest.approx(closest, abs=1e-5)


@pytest.fixture
def judge_server():
    with _module.JudgeServer() as server:
        yield server


def test_a_judge_labels_only_above_its_floor(tmp_path, judge_server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(_module.judged_by_people(110), tmp_path / "people.jsonl")
    write_jsonl(_module.judged_by_people(10, start=500), tmp_path / "open.jsonl")
    (tmp_path / "open.jsonl.card.yaml").write_text(CARD)
    options = ["-c", ROOT / "constitutions" / "assistant.yaml", "--human", "people.jsonl", "-m", "served", "--endpoint", judge_server.url]
    judge_server.place = 0.8
    weak = inside("judge", "open.jsonl", *options, "-o", "weak.jsonl")
    assert isinstance(weak.exception, CheckFailed)
    assert weak.exception.exit_code == 1
    assert "coverage is 0." in str(weak.exception)
    assert not (tmp_path / "weak.jsonl").exists()
    judge_server.place = 0.0
    good = inside("judge", "open.jsonl", *options, "-o", "good.jsonl", "--json")
    found = json.loads(good.stdout)
    assert (good.exit_code, found["labelled"], found["calibration"]["kappa"]["value"]) == (0, 10, 1.0)
    assert found["lineage"].startswith("data:")
    labels = {one.judgements[-1].rubric for one in read_records(tmp_path / "good.jsonl", Comparison)}
    assert labels == {"assistant-1"}


def test_counterexamples_of_real_answers(tmp_path):
    done = posttrain("counterexamples", DATA / "gsm8k_train.jsonl", "-o", tmp_path / "c.jsonl", "--json")
    found = json.loads(done.stdout)
    assert found["pairs"] == found["rows"] == found["made"]["nice_but_false"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "FILE", "--html", "FILE"),
        ("pairs", "FILE", "-o", "FILE", "--method", "mean"),
        ("adjudicate", "FILE", "-o", "FILE"),
        ("adjudicate", "FILE", "-o", "FILE", "--decisions", "OTHER"),
        ("adjudicate", "FILE", "-o", "OTHER", "--decisions", "OTHER"),
        ("collect", "-p", "FILE", "-m", "none", "-o", "FILE"),
        ("counterexamples", "FILE", "-o", "FILE"),
        ("judge", "FILE", "--human", "OTHER", "-c", "c.yaml", "-m", "none", "-o", "OTHER"),
    ],
)
def test_no_command_writes_over_what_it_reads(tmp_path, arguments):
    file = _written(tmp_path, DATA / "pandalm.json")
    other = tmp_path / "other.jsonl"
    other.symlink_to(file)  # another name for the same file is the same file
    before = file.read_bytes()
    refused = inside(*({"FILE": file, "OTHER": other}.get(one, one) for one in arguments))
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.exit_code == 2
    assert "would be written over" in str(refused.exception)
    assert file.read_bytes() == before


def test_judged_tasks_are_never_replaced_by_new_ones(tmp_path):
    source, tasks = DATA / "pandalm.json", tmp_path / "open.jsonl.tasks.jsonl"
    assert inside("adjudicate", source, "-o", tasks).exit_code == 0
    assert inside("adjudicate", source, "-o", tasks).exit_code == 0  # nobody has judged yet
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    rows[1]["judgements"] = [{"annotator": "ann", "choice": "a", "rubric": "pandalm-2023"}]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.jsonl").write_text('{"prompt": "why?"}\n')
    before = tasks.read_bytes()
    for arguments in (
        ("adjudicate", source, "-o", tasks),
        ("pairs", source, "-o", tasks, "--method", "mean"),
        ("collect", "-p", tmp_path / "p.jsonl", "-m", "none", "-o", tmp_path / "open.jsonl"),
    ):
        refused = inside(*arguments)
        assert isinstance(refused.exception, ConfigError)
        assert "holds 1 judged rows" in str(refused.exception)
    assert tasks.read_bytes() == before


def test_an_empty_result_is_an_error_and_writes_no_file(tmp_path):
    rows = [json.loads(line) for line in _written(tmp_path, DATA / "pandalm.json").read_text().splitlines()]
    for row in rows:
        row["judgements"] = [{"annotator": "ann", "choice": "tie", "rubric": "r-1"}]
    (tmp_path / "ties.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.jsonl").write_text('{"prompt": "why?", "completion": "because"}\n')
    for name, arguments in {
        "gives no pair": ("pairs", tmp_path / "ties.jsonl", "--method", "mean"),
        "is uncertain": ("adjudicate", tmp_path / "ties.jsonl", "--method", "mean"),
        "no counterexample can be made": ("counterexamples", tmp_path / "words.jsonl"),
    }.items():
        refused = inside(*arguments, "-o", tmp_path / "out.jsonl")
        assert isinstance(refused.exception, DataError)
        assert name in str(refused.exception)
    assert not (tmp_path / "out.jsonl").exists()


def _written(tmp_path, source):
    from posttrain.data import load_comparisons

    write_jsonl(load_comparisons(source), tmp_path / "copy.jsonl")
    return tmp_path / "copy.jsonl"
