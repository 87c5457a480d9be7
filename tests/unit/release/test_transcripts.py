"""Answers with tools on the report's page: what was said, called and read, side by side, and all of it text."""

import re

from posttrain.evaluation import SampleResult, evaluate, load_suite
from posttrain.records import CallRecord, Generation, Message, ToolCall
from posttrain.release import judge, write_report
from posttrain.release.transcripts import TEXT_LIMIT, transcript_view

ATTACK = "</pre><script>window.stolen = 1</script>"


class Acted:
    """Asks a ledger in every case; ``answers`` are the final turns, ``result`` what the ledger said."""

    def __init__(self, name, answers, result, *, status="ok"):
        self.identity = {"model": name}
        self._answers, self._result, self._status = answers, result, status

    def generate(self, requests, *, on_done=None):
        for index, request in enumerate(requests):
            text = self._answers[int(request.id.removeprefix("c").partition("#")[0])]
            call = ToolCall("get_balance", {"account": f"A-{index}", "note": ATTACK}, "call00000")
            transcript = (
                Message("assistant", "I look it up.", (call,)),
                Message("tool", self._result, tool_call_id="call00000", name="get_balance"),
                Message("assistant", text),
            )
            record = CallRecord(call.name, call.arguments, self._status, self._result, self._status != "ok", 0, 0.1, "call00000")
            answer = Generation(text, "stop", 100, 20, 0.1, transcript=transcript, calls=(record,), outcome={"ok": text == "yes"})
            on_done(index, answer)
        return []


def test_transcripts_stand_side_by_side_and_are_text(bench):
    bench.write(20)
    suite = load_suite(bench.root / "suite.yaml")
    old = evaluate(suite, Acted("old", ["yes"] * 18 + ["no"] * 2, "12 EUR"), out_dir=bench.root / "old")
    new = evaluate(suite, Acted("new", ["yes"] * 12 + ["no"] * 8, f"gone {ATTACK}", status="error"), out_dir=bench.root / "new")
    gate = bench.gate
    write_report(bench.root / "report.html", judge(new, old, gate), new, old, gate)
    page = (bench.root / "report.html").read_text(encoding="utf-8")
    first = page[page.index('<details class="card sample"') :]
    first = first[: first.index("<h4>Expected</h4>")]
    assert 'data-change="regressed"' in first
    kinds = re.findall(r'<li class="(\w+)"><small>([^<]*)</small>', first)
    # Left what is in service, right the candidate; the final answers stand below, marked where they differ.
    assert kinds == [
        ("said", "said"),
        ("call", "call"),
        ("result", "get_balance"),
        ("said", "said"),
        ("call", "call"),
        ("failed", "get_balance · error"),
    ]
    assert "<del>yes</del>" in first
    assert "<ins>no</ins>" in first
    assert "1 tool call<" in first
    assert "&#34;ok&#34;: true" in first
    assert page.count("<script>") == 1, "the page's own"
    assert "1.00 (p95 1)" in page


def sample(*transcript, outcome=None):
    return SampleResult("c", 0, "", "stop", 1, 1, None, "", 0, {}, transcript=transcript, outcome=outcome or {})


def test_an_answer_without_tools_has_no_turns():
    assert transcript_view(sample()) == {"turns": [], "outcome": ""}


def test_what_the_model_was_told_about_a_call_nobody_could_read_is_marked():
    turns = transcript_view(sample({"role": "assistant", "content": "<tool_call>{"}, {"role": "user", "content": "This is no JSON."}))[
        "turns"
    ]
    assert [(turn["kind"], turn["text"]) for turn in turns] == [("said", "<tool_call>{"), ("failed", "This is no JSON.")]


def test_a_long_result_is_cut_and_says_so():
    result = {"role": "tool", "content": "x" * (TEXT_LIMIT + 5), "name": "dump"}
    [turn] = transcript_view(sample(result))["turns"]
    assert turn["text"].endswith("… 5 more characters")
