"""What the data calls for, and that the settings it names are ones a stage accepts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posttrain.cli.advise import app
from posttrain.errors import ModelError
from posttrain.models import write_tiny_model
from posttrain.recipes.advise import advise
from posttrain.stages import STAGES


def write(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count, *, chosen="a good answer", rejected="one bad answer", **columns):
    return [{"prompt": f"question {i}", "chosen": f"{chosen} {i}", "rejected": f"{rejected} {i}", **columns} for i in range(count)]


def labels(good, bad, *, shared=False):
    rows = [{"prompt": f"q {i}", "completion": f"yes {i}", "label": True} for i in range(good)]
    return rows + [{"prompt": f"q {i if shared else i + good}", "completion": f"no {i}", "label": False} for i in range(bad)]


def demonstrations(count, words=3, answer="word"):
    return [{"prompt": f"question {i}", "completion": " ".join([answer] * words) + f" {i}"} for i in range(count)]


def comparison(number, choices):
    judgements = [{"annotator": name, "choice": choice, "rubric": "1"} for name, choice in zip("abc", choices, strict=False)]
    return {"prompt": f"q {number}", "completion_a": f"left {number}", "completion_b": f"right {number}", "judgements": judgements}


def accepted(advice):
    """The settings as their stage parses them, beside a training section."""
    return STAGES.get(advice.method).parse({**advice.settings, "training": {"epochs": 1}}, where="advice")


@pytest.mark.parametrize(
    ("rows", "method", "objective"),
    [
        (demonstrations(200), "sft", None),
        (pairs(600), "preference", "dpo"),
        (pairs(100), "preference", "ipo"),
        (pairs(100, probability=0.8), "preference", "dpo"),
        (pairs(600, chosen="a very long and winding answer"), "preference", "simpo"),
        (labels(60, 50), "preference", "kto"),
    ],
)
def test_the_shape_and_the_figures_of_the_data_decide_the_method(tmp_path, rows, method, objective):
    advice = advise(write(tmp_path, rows))
    assert advice.method == method
    assert advice.settings.get("objective", {}).get("name") == objective
    assert advice.reasons
    assert advice.would_change
    accepted(advice)


def test_a_few_rows_go_into_the_prompt(tmp_path):
    advice = advise(write(tmp_path, pairs(20)))
    assert (advice.method, advice.settings) == ("prompt only", {})
    assert "20 rows are too few" in advice.reasons[0]


def test_unbalanced_thumbs_are_weighted_into_the_range_of_the_paper(tmp_path):
    # 120 good, 30 bad: 4 to 1; 3 x 30 bad against 120 good is 4/3.
    objective = advise(write(tmp_path, labels(120, 30))).settings["objective"]
    assert objective["undesirable_weight"] == pytest.approx(3.0)
    # 30 good, 120 bad: 4 x 30 good against 120 bad is 1.
    objective = advise(write(tmp_path, labels(30, 120))).settings["objective"]
    assert objective["desirable_weight"] == pytest.approx(4.0)


def test_thumbs_on_the_same_prompt_could_be_pairs_and_thumbs_of_one_kind_teach_nothing(tmp_path):
    assert any("could be paired" in reason for reason in advise(write(tmp_path, labels(60, 50, shared=True))).reasons)
    assert advise(write(tmp_path, labels(60, 0))).method == "label first"


def test_judgements_become_soft_labels_unless_nobody_agrees(tmp_path):
    agreed = [comparison(i, "aab" if i % 5 == 0 else ("aaa" if i % 2 else "bbb")) for i in range(80)]
    advice = advise(write(tmp_path, agreed))
    assert (advice.method, advice.beside) == ("preference", {"labels": {"method": "dawid_skene"}})
    assert "  beside the stage labels: {method: dawid_skene}" in advice.lines()
    accepted(advice)
    scattered = [comparison(i, ("abb", "bab", "aba", "bba")[i % 4]) for i in range(80)]
    assert advise(write(tmp_path, scattered)).method == "label first"


def test_a_published_set_of_judgements_is_read_as_it_is():
    advice = advise(Path(__file__).parents[2] / "fixtures" / "data" / "fine_grained_qa.json")
    assert (advice.facts["kind"], advice.facts["judged_twice"]) == ("Comparison", 0)


def test_single_judgements_are_hard_labels(tmp_path):
    advice = advise(write(tmp_path, [comparison(i, "ab"[i % 2]) for i in range(80)]))
    assert (advice.method, advice.beside) == ("preference", {"labels": {"method": "mean"}})
    assert "was judged once: labels are hard" in advice.reasons[0]


def test_reviewers_are_only_said_to_disagree_when_the_interval_says_so(tmp_path):
    # Two reviewers contradict each other in 17 of 50 where chance would have them do so in about half: alpha is near 1 - .34 / .5.
    advice = advise(write(tmp_path, [comparison(i, "ab" if i % 3 == 0 else "aabb"[2 * (i % 2) :][:2]) for i in range(50)]))
    assert advice.facts["agreement"] == pytest.approx(0.32, abs=0.03)
    assert advice.facts["agreement_high"] > 0.4
    assert advice.method == "preference"
    assert any("leaves that open" in change for change in advice.would_change)


@pytest.mark.parametrize(("good", "bad"), [(59, 61), (37, 63), (97, 70), (250, 90), (53, 97), (101, 71)])
def test_weighted_thumbs_lie_within_the_range_of_the_paper_to_the_last_digit(tmp_path, good, bad):
    objective = advise(write(tmp_path, labels(good, bad))).settings["objective"]
    ratio = good * objective.get("desirable_weight", 1.0) / (bad * objective.get("undesirable_weight", 1.0))
    assert 1 <= ratio <= 4 / 3


def test_reasons_speak_of_the_objective_that_is_recommended(tmp_path):
    rows = pairs(100, chosen="a very long and winding answer", probability=0.9)
    advice = advise(write(tmp_path, rows))
    assert advice.settings["objective"] == {"name": "simpo"}
    assert any("simpo reads them as they are" in reason for reason in advice.reasons)
    assert not any(other in reason for reason in advice.reasons for other in ("dpo", "ipo", "orpo"))
    few = advise(write(tmp_path, pairs(100, chosen="a very long and winding answer")))
    assert not any("ipo" in reason for reason in few.reasons)
    assert "pairs balanced in length: then ipo" in few.would_change


def test_memory_decides_between_an_adapter_and_a_4_bit_base(tmp_path):
    model = str(write_tiny_model(tmp_path / "model", ["some words"], seed=0))
    data = write(tmp_path, demonstrations(100))
    parameters = advise(data, model=model).facts["parameters"]

    def gib(per_parameter):
        return parameters * per_parameter / 2**30

    plenty, tight, less = (advise(data, model=model, memory_gb=gib(size)).settings for size in (100.0, 2.0, 0.5))
    assert plenty["lora"]["targets"] == "attention"
    assert "quantization" not in plenty
    assert tight["quantization"] == "nf4"
    assert "lora" not in less


def test_long_answers_train_the_mlp_too_and_refusals_are_named(tmp_path):
    advice = advise(write(tmp_path, demonstrations(100, words=200)))
    assert advice.settings["lora"]["targets"] == "attention+mlp"
    refusing = advise(write(tmp_path, demonstrations(100, words=1, answer="I'm sorry, but I can't help with that.")))
    assert any("refuse" in reason for reason in refusing.reasons)


def run_of(folder, target, guardrail, *, checks=()):
    """A run whose gate read one target and one guardrail so."""
    figures = [
        {"role": role, "metric": role, "state": state, "value": 0.0} for role, state in (("target", target), ("guardrail", guardrail))
    ]
    overall = {"verdict": "not enough evidence", "reason": "", "figures": figures}
    verdict = {"verdict": "inconclusive", "checks": list(checks), "comparisons": [], "two_metric": {"overall": overall, "rows": []}}
    folder.mkdir()
    (folder / "verdict.json").write_text(json.dumps(verdict))
    return folder


OPEN = {"name": "threshold: good", "kind": "threshold", "metric": "good", "outcome": "inconclusive", "reason": "few", "num_samples": 9}


@pytest.mark.parametrize(
    ("target", "guardrail", "method"),
    [
        ("no gain", "held", "reward_model, then ppo"),
        ("no gain", "unknown", "reward_model, then ppo"),
        ("no gain", "broken", "preference"),
        ("gained", "held", "preference"),
    ],
)
def test_a_run_that_has_flattened_makes_ppo_due_unless_a_guardrail_broke(tmp_path, target, guardrail, method):
    run = run_of(tmp_path / "run", target, guardrail, checks=[OPEN])  # a finding of another kind changes nothing
    advice = advise(write(tmp_path, pairs(600)), run=run)
    assert advice.method == method
    assert any("flattened" in reason for reason in advice.reasons) == (method != "preference")
    if method != "preference":
        assert not any("dpo" in text for text in (*advice.reasons, *advice.would_change))
        STAGES.get("reward_model").parse({**advice.settings, "training": {"epochs": 1}}, where="advice")


def test_thumbs_that_have_flattened_call_for_pairs_as_a_reward_model_learns_from_them(tmp_path):
    advice = advise(write(tmp_path, labels(60, 50)), run=run_of(tmp_path / "run", "no gain", "held"))
    assert (advice.method, advice.settings) == ("label first", {})


def test_demonstrations_say_when_distillation_is_due_and_of_which_kind(tmp_path):
    (change,) = [one for one in advise(write(tmp_path, demonstrations(100))).would_change if "distillation" in one]
    assert change.index("black-box") < change.index("white-box") < change.index("share a tokenizer")


def test_the_command_prints_reasons_and_refuses_a_model_that_is_not_there(tmp_path):
    data = str(write(tmp_path, pairs(600)))
    printed = CliRunner().invoke(app, [data]).stdout
    assert printed.startswith("advice: preference\n  because  600 pairs over 600 prompts")
    assert json.loads(CliRunner().invoke(app, [data, "--json"]).stdout)["settings"]["objective"] == {"name": "dpo", "beta": 0.1}
    with pytest.raises(ModelError, match="nowhere"):
        advise(data, model=str(tmp_path / "nowhere"))
