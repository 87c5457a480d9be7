import dataclasses
import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from posttrain.data.finops import (
    SUITE,
    TRAIN,
    build_finops,
    cluster_reports,
    estimate_tokens,
    lines,
    read_system_prompt,
    select_slice,
    training_rows,
)
from posttrain.data.ledger import build_ledger_data
from posttrain.data.tatqa import (
    ANSWER_SCHEMA,
    Item,
    Question,
    Report,
    build_answer,
    build_messages,
    dump_answer,
    find_evidence,
    operands,
    read_tatqa,
    render_report,
)
from posttrain.data.unanswerable import is_absent
from posttrain.errors import DataError

ROOT = Path(__file__).parents[3]
SLICE = ROOT / "recipes/data/tatqa-slice.json.gz"

REPORT = Report(
    uid="sales",
    cells=(
        ("", "", "Years Ended September 30,", ""),
        ("", "2019", "2018", "2017"),
        ("Fixed Price", "$ 1,452.4", "$ 1,146.2", "$ 1,036.9"),
        ("Other", "44.1", "56.7", "70.8"),
        ("Total sales", "$1,496.5", "$1,202.9", "$1,107.7"),
    ),
    paragraphs={1: "Substantially all of our contracts are fixed-price type contracts.", 2: "Net sales by contract type (in millions):"},
    questions=(),
)


def question(text="What is the amount of total sales in 2019?", **changes):
    base = Question(
        uid="q1",
        text=text,
        answer="$1,496.5",
        scale="million",
        answer_type="span",
        answer_from="table-text",
        derivation="",
        paragraphs=(2,),
        comparison=False,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def data():
    return build_finops(SLICE, read_system_prompt(ROOT / "policies/finops.yaml"))


def test_report_comes_first_with_stable_references_and_question_last():
    system, user = build_messages(REPORT, "Which year?", "Rules.")
    assert (system.role, system.content) == ("system", "Rules.")
    assert user.content == render_report(REPORT) + "\n\nQuestion: Which year?"
    rows = render_report(REPORT).split("\n")
    assert rows[0] == "|c0|c1|c2|c3"
    assert rows[4] == "r3|Other|44.1|56.7|70.8"
    assert rows[-1] == "p2: Net sales by contract type (in millions):"


def test_span_in_the_table_is_mapped_to_its_cell_and_the_related_paragraph():
    evidence = find_evidence(REPORT, question())
    assert evidence.status == "exact"
    assert evidence.references == ("r4c1 $1,496.5", "p2")
    answer = dump_answer(build_answer(question(), evidence))
    assert answer == '{"evidence":["r4c1 $1,496.5","p2"],"answer":"$1,496.5","scale":"million"}'


def test_arithmetic_is_mapped_to_the_cells_of_its_operands():
    asked = question(
        "What is the percentage change in Other in 2019 from 2018?", answer=-22.22, derivation="(44.1-56.7)/56.7", answer_type="arithmetic"
    )
    assert find_evidence(REPORT, asked).references == ("r3c1 44.1", "r3c2 56.7", "p2")


def test_comparison_needs_its_figures_and_its_answer():
    asked = question("In which year is the amount largest?", answer="2019", derivation="1,496.5>1,202.9", comparison=True)
    assert find_evidence(REPORT, asked).references == ("r1c1 2019", "r4c1 $1,496.5", "r4c2 $1,202.9", "p2")
    vague = dataclasses.replace(asked, derivation="compare the columns of row 7")
    assert find_evidence(REPORT, vague).status == "unmapped"


def test_equal_cells_are_told_apart_by_the_words_of_the_question_or_called_ambiguous():
    cells = (("", "2019", "2018"), ("Land", "672", "672"), ("Buildings", "900", "672"))
    report = dataclasses.replace(REPORT, cells=cells)
    clear = question("What was the value of land in 2018?", answer="672", paragraphs=())
    assert find_evidence(report, clear).references == ("r1c2 672",)
    assert find_evidence(report, clear).status == "exact"
    tie = dataclasses.replace(clear, text="What was the value of land?")
    assert find_evidence(report, tie).status == "ambiguous"


def test_an_answer_found_nowhere_or_a_paragraph_that_is_not_there_is_unmapped():
    assert find_evidence(REPORT, question(answer="$9.9")).status == "unmapped"
    assert find_evidence(REPORT, question(paragraphs=(7,))).status == "unmapped"


@pytest.mark.parametrize(
    ("derivation", "expected"),
    [
        ("(680-774)/774", ["680", "774", "774"]),
        ("(243,424+221,233)/2", ["243,424", "221,233"]),
        ("126 / 67 - 1", ["126", "67"]),
        ("(1.5/3)*100", ["1.5", "3"]),
        ("6 - 41", ["6", "41"]),
    ],
)
def test_operands_leave_out_the_constants_of_the_formula(derivation, expected):
    assert operands(derivation) == expected


def test_a_question_is_absent_only_from_a_report_without_its_figures_and_its_subject():
    item = Item(REPORT, question("What is the amount of deferred tax liabilities in 2019?", answer="$55.2"), None)
    other = dataclasses.replace(REPORT, uid="other", cells=(("Rent", "10.5"),), paragraphs={1: "Rent paid."})
    assert is_absent(item, other)
    assert not is_absent(item, dataclasses.replace(other, cells=(("Rent", "55.20"),)))
    assert not is_absent(item, dataclasses.replace(other, paragraphs={1: "Deferred tax is small."}))
    assert not is_absent(item, dataclasses.replace(other, paragraphs={1: "Liabilities of a deferred kind."}))
    assert not is_absent(dataclasses.replace(item, question=question("What is the total in 2019?", answer="$55.2")), other)
    assert not is_absent(dataclasses.replace(item, question=question("Who approved the audit statement?", answer="the Board")), other)


def test_shipped_files_are_what_the_shipped_slice_gives(data):
    assert gzip.decompress((ROOT / TRAIN).read_bytes()).decode() == lines(training_rows(data.demonstrations))
    assert (ROOT / SUITE).read_text(encoding="utf-8") == lines(data.cases)
    assert json.loads((ROOT / "suites/finops.schema.json").read_text()) == ANSWER_SCHEMA


def test_shipped_slice_is_whole_original_reports_in_their_own_columns(tmp_path):
    rows = json.loads(gzip.decompress(SLICE.read_bytes()))
    assert {*rows[0]} == {"table", "paragraphs", "questions"}
    assert {len(row["questions"]) for row in rows} == {6}
    (tmp_path / "original.json").write_text(json.dumps(rows))
    assert select_slice(tmp_path / "original.json") == rows


def test_suite_and_training_share_no_report_no_cluster_and_no_run_of_thirteen_words(data):
    trained = {row.metadata["report"] for row in data.demonstrations}
    tested = {case["metadata"]["report"] for case in data.cases}
    assert not trained & tested
    for group in cluster_reports(read_tatqa(SLICE)):
        uids = {report.uid for report in group}
        assert not (uids & trained and uids & tested)

    def runs(text):
        tokens = re.findall(r"\w+", text.lower())
        return {tuple(tokens[i : i + 13]) for i in range(len(tokens) - 12)}

    seen = {run for row in data.demonstrations for run in runs(row.messages[1].content)}
    assert not any(run in seen for case in data.cases for run in runs(case["messages"][1]["content"]))


def test_numbers_of_rows_and_slices_are_those_of_the_documentation(data):
    slices = Counter(name for case in data.cases for name in case["slices"])
    assert (len(data.cases), slices["answerable"], slices["not_in_report"]) == (150, 120, 30)
    wanted = ("type:span", "type:multi-span", "type:arithmetic", "from:table", "from:table-text", "from:text", "not_in_report")
    assert all(slices[name] >= 30 for name in wanted)
    absent = sum("not_in_report" in row.messages[2].content for row in data.demonstrations)
    assert 0.14 <= absent / len(data.demonstrations) <= 0.18


def test_every_answer_fits_the_schema_and_its_evidence_stands_in_the_report(data):
    validator = Draft202012Validator(ANSWER_SCHEMA)
    pairs = [(row.messages[1].content, json.loads(row.messages[2].content)) for row in data.demonstrations]
    pairs += [(case["messages"][1]["content"], case["expected"]) for case in data.cases]
    for prompt, answer in pairs:
        assert validator.is_valid(answer)
        table = {line.split("|")[0]: line.split("|") for line in prompt.split("\n") if re.match(r"r\d+\|", line)}
        for reference in answer.get("evidence", []):
            cell = re.fullmatch(r"(r\d+)c(\d+) (.+)", reference)
            if cell:
                assert cell[3] in "|".join(table[cell[1]][int(cell[2]) + 1 :])
            else:
                assert f"\n{reference}: " in prompt


@pytest.mark.parametrize(
    "wrong",
    [
        {"answer": "1", "scale": "million"},
        {"evidence": ["r1c1 1"], "answer": "1", "scale": "dozen"},
        {"evidence": ["cell 1"], "answer": "1", "scale": ""},
        {"evidence": [], "answer": "1", "scale": ""},
        {"not_in_report": False},
        {"not_in_report": True, "answer": "1"},
    ],
)
def test_schema_refuses_answers_that_are_not_in_the_form(wrong):
    assert not Draft202012Validator(ANSWER_SCHEMA).is_valid(wrong)


def test_prompts_are_short_enough_for_two_cores(data):
    rendered = [message["content"] for case in data.cases for message in case["messages"]]
    assert max(map(estimate_tokens, rendered)) < 550


def test_a_broken_file_names_file_report_and_field(tmp_path):
    path = tmp_path / "t.json"
    with pytest.raises(DataError, match=r"t\.json: no such file"):
        read_tatqa(path)
    path.write_text("[{")
    with pytest.raises(DataError, match=r"t\.json: not a readable JSON file"):
        read_tatqa(path)
    path.write_text('[{"table": {"uid": "x"}}]')
    with pytest.raises(DataError, match="report 1: missing or wrong field: KeyError\\('table'\\)"):
        read_tatqa(path)
    row = json.loads(gzip.decompress(SLICE.read_bytes()))[0]
    row["questions"][0]["scale"] = "dozen"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match="scale 'dozen'"):
        read_tatqa(path)


def test_ledger_files_are_what_the_generator_gives_and_share_no_entry():
    rows, cases = build_ledger_data(read_system_prompt(ROOT / "policies/tiny.yaml"))
    assert (ROOT / "recipes/data/tiny.jsonl").read_text() == lines(training_rows(rows))
    assert (ROOT / "suites/tiny.jsonl").read_text() == lines(cases)
    trained = {row.messages[1].content for row in rows}
    tested = {case["messages"][1]["content"] for case in cases}
    assert (len(trained), len(tested)) == (960, 128)
    assert not trained & tested
    slices = Counter(case["slices"][0] for case in cases)
    assert min(slices["answerable"], slices["not_in_chart"]) >= 30
