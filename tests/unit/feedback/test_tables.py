import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from posttrain.data import load_comparisons
from posttrain.feedback import adjudication_queue, label_quality, label_tables, report_lines, write_page
from posttrain.feedback.tables import warnings

DATA = Path(__file__).parents[2] / "fixtures" / "data"


def test_every_table_is_printed_and_in_the_page(tmp_path):
    comparisons = load_comparisons(DATA / "pandalm.json")
    report = label_quality(comparisons)
    tables = label_tables(report, adjudication_queue(comparisons))
    text = "\n".join(report_lines(tables))
    write_page(tmp_path / "page.html", report, tables, title="Labels")
    page = (tmp_path / "page.html").read_text()
    for table in tables:
        assert table.title in text
        for row in table.rows:
            assert all(cell in text for cell in row)
    assert page.count("<table>") == len(tables)
    assert all(line == line.rstrip() for line in report_lines(tables))


def test_where_systems_have_no_scores_the_report_says_why():
    comparisons = load_comparisons(DATA / "pandalm.json")
    pair = ({"model_a": "v", "model_b": "w"}, {"model_a": "x", "model_b": "y"})
    islands = [replace(c, metadata=pair[n % 2]) for n, c in enumerate(comparisons)]
    nameless = [replace(c, metadata={}) for c in comparisons]
    for given, said in ((islands, "2 islands never compared with each other: v, w | x, y"), (nameless, "model_a and model_b")):
        table = next(one for one in label_tables(label_quality(given)) if one.title == "Systems compared")
        assert said in table.rows[0][0]


def test_names_from_a_file_cannot_become_markup(tmp_path):
    comparisons = load_comparisons(DATA / "pandalm.json")
    evil = [replace(c, judgements=tuple(replace(j, annotator=f"<script>{j.annotator}") for j in c.judgements)) for c in comparisons]
    report = label_quality(evil)
    write_page(tmp_path / "page.html", report, label_tables(report), title="<b>")
    assert "<script>" not in (tmp_path / "page.html").read_text()
    assert "<b>" not in (tmp_path / "page.html").read_text()


def test_warnings_are_said_where_the_figures_call_for_them():
    single = label_quality(load_comparisons(DATA / "fine_grained_qa.json"))
    assert "no comparison was judged by two annotators: agreement is unknown" in warnings(single)
    good = label_quality(load_comparisons(DATA / "pandalm.json"))
    assert not any("agreement is unknown" in one or "alpha" in one for one in warnings(good))


def test_label_quality_needs_no_torch():
    code = "import sys, posttrain.feedback; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stderr == ""
