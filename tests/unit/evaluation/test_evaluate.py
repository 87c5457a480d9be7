import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.errors import ConfigError
from posttrain.evaluation import EvaluationResult, Score, evaluate, load_suite, rate_of
from posttrain.records import CallRecord

ANSWERS = {f"q {i}": json.dumps({"answer": str(i if i % 4 else -1), "scale": ""}) for i in range(12)}
ROWS = [(f"q {i}", {"answer": str(i), "scale": ""}, ["even" if i % 2 == 0 else "odd"], f"r{i // 3}") for i in range(12)]


@pytest.fixture
def suite(make_suite):
    return load_suite(make_suite(ROWS))


def test_rates_are_counted_overall_and_by_slice(suite, recorded, tmp_path):
    summary = evaluate(suite, recorded(ANSWERS), out_dir=tmp_path / "out").summary
    answer = summary["scores"]["answer"]
    # Wrong for 0, 4, 8: nine of twelve right; all wrong ones are even.
    assert answer["overall"]["value"] == 9 / 12
    assert answer["slices"]["even"]["value"] == 3 / 6
    assert answer["slices"]["odd"]["value"] == 1
    assert answer["overall"]["num_groups"] == 4
    assert summary["scores"]["refusal"]["labels"] == {"answered": 12}
    assert summary["scores"]["refusal_recall"]["overall"]["num_not_applicable"] == 12
    assert summary["scores"]["refusal_recall"]["overall"]["value"] is None
    assert summary["tokens"]["prompt"]["total"] == 120


def test_half_a_surrogate_pair_in_a_call_can_be_written(suite, recorded, tmp_path):
    class Calling(recorded):
        def generate(self, requests, *, on_done):
            call = CallRecord("pay", {"to": "\ud83d"}, "ok", "", False, 0, id="1")
            return super().generate(requests, on_done=lambda index, answer: on_done(index, replace(answer, calls=(call,))))

    result = evaluate(suite, Calling(ANSWERS), out_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
    again = evaluate(suite, Calling({}), out_dir=tmp_path / "again", cache_dir=tmp_path / "cache")
    for samples in (result.samples, again.samples):
        assert {sample.calls[0]["arguments"]["to"] for sample in samples.values()} == {"?"}


def test_a_second_call_only_reads(suite, recorded, tmp_path):
    first = evaluate(suite, recorded(ANSWERS), out_dir=tmp_path / "out")
    again = recorded(ANSWERS)
    second = evaluate(suite, again, out_dir=tmp_path / "out")
    assert again.asked == []
    assert second == first


def test_answers_that_ended_in_an_error_are_asked_again(suite, recorded, tmp_path):
    class Broken(recorded):
        def generate(self, requests, *, on_done):
            def fail(index, answer):
                on_done(index, replace(answer, text="", finish_reason="error") if index % 2 else answer)

            return super().generate(requests, on_done=fail)

    first = evaluate(suite, Broken(ANSWERS), out_dir=tmp_path / "out")
    assert sum(sample.finish_reason == "error" for sample in first.samples.values()) == 6
    again = recorded(ANSWERS)
    second = evaluate(suite, again, out_dir=tmp_path / "out")
    assert len(again.asked) == 6
    assert not any(sample.finish_reason == "error" for sample in second.samples.values())


def test_cached_answers_are_not_generated_again_and_have_no_latency(suite, recorded, tmp_path):
    first = evaluate(suite, recorded(ANSWERS), out_dir=tmp_path / "a", cache_dir=tmp_path / "cache")
    again = recorded(ANSWERS)
    second = evaluate(suite, again, out_dir=tmp_path / "b", cache_dir=tmp_path / "cache")
    assert again.asked == []
    assert first.summary["latency"][0]["num_measured"] == 12
    assert second.summary["latency"] == []
    assert all(sample.seconds is None for sample in second.samples.values())
    assert second.summary["scores"] == first.summary["scores"]


@pytest.mark.parametrize("what", ["model", "sampling"])
def test_the_cache_is_not_used_for_another_model_or_sampling(suite, recorded, tmp_path, make_suite, what):
    evaluate(suite, recorded(ANSWERS), out_dir=tmp_path / "a", cache_dir=tmp_path / "cache")
    other = recorded(ANSWERS, model="other" if what == "model" else "recorded")
    if what == "sampling":
        path = suite.path
        path.write_text(path.read_text().replace("max_new_tokens: 32", "max_new_tokens: 33"))
        suite = load_suite(path)
    evaluate(suite, other, out_dir=tmp_path / "b", cache_dir=tmp_path / "cache")
    assert len(other.asked) == 12


def test_latency_is_kept_by_machine_and_concurrency(suite, recorded, tmp_path):
    result = evaluate(suite, recorded(ANSWERS), out_dir=tmp_path / "out", concurrency=3)
    (row,) = result.summary["latency"]
    assert row["concurrency"] == 3
    assert "cores" in row["machine"]
    assert row["p50"]["value"] == pytest.approx(0.555)  # .50, .51 ... .61
    assert row["p95"]["high"] is None


def test_results_of_another_model_are_left_alone(suite, recorded, tmp_path):
    evaluate(suite, recorded(ANSWERS), out_dir=tmp_path / "out")
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="another model"):
        evaluate(suite, recorded(ANSWERS, model="other"), out_dir=tmp_path / "out")
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_an_answer_that_never_came_is_unscored_and_widens_the_bounds(suite, recorded, tmp_path):
    answers = ANSWERS | {"q 1": None}
    rate = evaluate(suite, recorded(answers), out_dir=tmp_path / "out").summary["scores"]["answer"]["overall"]
    assert (rate["num_scored"], rate["num_unscored"]) == (11, 1)
    assert rate["value"] == 8 / 11
    assert (rate["value_low"], rate["value_high"]) == (8 / 12, 9 / 12)
    assert rate["bound_low"] < rate["low"]
    assert rate["unscored_share"] == 1 / 12


def test_an_answer_that_never_came_is_asked_again_from_the_cache(suite, recorded, tmp_path):
    evaluate(suite, recorded(ANSWERS | {"q 1": None}), out_dir=tmp_path / "a", cache_dir=tmp_path / "cache")
    again = recorded(ANSWERS)
    evaluate(suite, again, out_dir=tmp_path / "b", cache_dir=tmp_path / "cache")
    assert [request.messages[-1].content for request in again.asked] == ["q 1"]


def test_several_samples_a_case_have_their_own_seeds_and_give_pass_at_k(make_suite, tmp_path, recorded):
    text = 'name: s\nversion: "1"\ncases: cases.jsonl\nsampling: {temperature: 1, seed: 10}\nsamples_per_case: 5\n'
    suite = load_suite(make_suite([("q", "yes", [], "")], text + "scorers:\n  - exact: {}\n"))

    class Seeded(recorded):
        def generate(self, requests, *, on_done=None):
            for request in requests:
                self.answers["q"] = "yes" if request.sampling.seed in (10, 13) else "no"
                super().generate([request], on_done=lambda _, g, i=requests.index(request): on_done(i, g))

    generator = Seeded({})
    summary = evaluate(suite, generator, out_dir=tmp_path / "out").summary
    assert [request.sampling.seed for request in generator.asked] == [10, 11, 12, 13, 14]
    # n = 5, c = 2: pass@1 = .4, pass@3 = .9.
    assert summary["scores"]["exact"]["pass_at_k"] == pytest.approx({"1": 0.4, "2": 0.7, "3": 0.9, "5": 1.0})
    assert summary["num_cases"] == 1


def test_odd_characters_survive_the_results_file(make_suite, recorded, tmp_path):
    odd = "line\u2028sep \x85 \ud800 \x00 “quote” 円"
    suite = load_suite(make_suite([("q", "x", [], "")]))
    result = evaluate(suite, recorded({"q": odd}), out_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
    assert result.samples["c0", 0].text == odd.replace("\ud800", "?")


def test_unscored_fractions_and_amounts():
    fraction = [Score("f", 0.5, kind="fraction"), Score("f", None, "unscored", kind="fraction")]
    rate = rate_of(fraction, ["a", "b"])
    assert (rate.value_low, rate.value, rate.value_high) == (0.25, 0.5, 0.75)
    amount = rate_of([Score("n", 4.0, kind="amount"), Score("n", None, "unscored")], ["a", "b"])
    assert amount.kind == "amount"
    assert amount.value_low is None, "an amount has no worst value"


KILLED = """
import sys, time, json
from posttrain.evaluation import evaluate, load_suite
from posttrain.records import Generation
class Slow:
    identity = {"model": "slow"}
    def generate(self, requests, *, on_done=None):
        for index, request in enumerate(requests):
            time.sleep(0.02)
            on_done(index, Generation('{"answer": "1", "scale": ""}', "stop", 1, 1, 0.05))
        return []
evaluate(load_suite(sys.argv[1]), Slow(), out_dir=sys.argv[2])
"""


def test_a_killed_evaluation_goes_on_and_equals_an_uninterrupted_one(make_suite, tmp_path):
    path = make_suite([(f"q {i}", {"answer": "1", "scale": ""}, [], "") for i in range(40)])
    out, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(out)])
    results, deadline = out / "results.jsonl", time.monotonic() + 30
    while (not results.exists() or results.read_bytes().count(b"\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = results.read_bytes()
    assert 5 <= kept.count(b"\n") < 40
    with pytest.raises(ConfigError, match="not finished"):
        EvaluationResult.load(out)
    results.write_bytes(kept + b'{"case": "c39", "sam')  # the torn line a power cut leaves
    for folder in (out, whole):
        subprocess.run([sys.executable, "-c", KILLED, str(path), str(folder)], check=True)
    assert results.read_bytes().startswith(kept)
    assert EvaluationResult.load(out).samples == EvaluationResult.load(whole).samples
    assert EvaluationResult.load(out).summary == EvaluationResult.load(whole).summary


def test_a_folder_that_holds_no_results_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not the results of an evaluation"):
        EvaluationResult.load(tmp_path)
    with pytest.raises(ConfigError):
        EvaluationResult.load(Path(tmp_path, "nowhere"))
