import json

import pytest
from typer.testing import CliRunner

from posttrain.cli.suite import app
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.evaluation import changes_since_freeze, freeze_suite, load_suite, read_lock, read_suite

ROWS = [("q one", {"answer": "1", "scale": ""}, ["easy"], "r1"), ("q two", {"not_in_report": True}, ["hard"], "r1")]


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_suite_knows_its_cases_slices_and_scores(make_suite):
    suite = load_suite(make_suite(ROWS))
    assert [case.id for case in suite.cases] == ["c0", "c1"]
    assert suite.slices == ("easy", "hard")
    assert suite.score_names == ("json_schema", "answer", "refusal", "refusal_recall", "refusal_precision", "refusal_answered", "length")
    assert suite.texts["c1"] == 'q two\n{"not_in_report": true}'


def test_copies_of_a_case_are_one_group_and_are_counted(make_suite):
    rows = [("q one", 1, ["easy"], ""), ("q one", 1, ["hard"], "r1"), ("q two", 2, [], "r1"), ("q one", 2, [], ""), ("q three", 3, [], "")]
    suite = read_suite(make_suite(rows))
    groups = suite.groups
    assert groups["c0"] == groups["c1"] == groups["c2"]  # c0 and c1 are copies, c1 and c2 one report
    assert len({*groups.values()}) == 3
    assert suite.num_copies == 1


def test_freezing_and_showing_warn_of_copies(make_suite):
    path = make_suite([("q", 1, [], "")] * 3)
    for command in ("freeze", "show"):
        found = CliRunner().invoke(app, [command, str(path), "--json"])
        assert json.loads(found.stdout)["copies"] == 2
        assert "2 of 3 cases ask and expect the same as an earlier one" in found.stderr


def test_the_hash_follows_content_not_layout(make_suite):
    path = make_suite(ROWS)
    before = read_suite(path).hash
    edit(path, "version:", "# a comment\nversion:")
    cases = path.parent / "cases.jsonl"
    cases.write_text("\n".join(json.dumps(json.loads(line), indent=None) + "  " for line in cases.read_text().splitlines()))
    assert read_suite(path).hash == before
    edit(cases, "q one", "q 1")
    assert read_suite(path).hash != before


def test_freezing_again_keeps_the_time_and_freezing_a_change_does_not(make_suite):
    path = make_suite(ROWS)
    first = freeze_suite(read_suite(path))
    assert freeze_suite(read_suite(path)) == first
    edit(path, 'version: "1"', 'version: "2"')
    assert freeze_suite(read_suite(path))["hash"] != first["hash"]


def test_an_unchanged_frozen_suite_loads(make_suite):
    path = make_suite(ROWS)
    freeze_suite(read_suite(path))
    assert load_suite(path).hash == read_lock(path)["hash"]


def test_a_changed_case_is_refused_with_its_file_and_line(make_suite):
    path = make_suite(ROWS)
    freeze_suite(read_suite(path))
    edit(path.parent / "cases.jsonl", "q two", "q 2")
    with pytest.raises(CheckFailed, match=r"cases\.jsonl:2: case 'c1' changed") as caught:
        load_suite(path)
    assert "freeze" in caught.value.hint


def test_changed_settings_new_gone_and_reordered_cases_are_named(make_suite):
    path = make_suite(ROWS)
    freeze_suite(read_suite(path))
    edit(path, "max_new_tokens: 32", "max_new_tokens: 64")
    assert changes_since_freeze(read_suite(path)) == ["sampling.max_new_tokens: 32 -> 64"]
    make_suite([*ROWS[:1], ("q three", 3, [], "")])
    assert changes_since_freeze(read_suite(path))[0].endswith("case 'c1' changed")
    make_suite(ROWS[:1])
    assert changes_since_freeze(read_suite(path)) == [f"{path.parent / 'cases.jsonl'}: case 'c1' is gone"]
    make_suite(ROWS)
    lines = (path.parent / "cases.jsonl").read_text().splitlines()
    (path.parent / "cases.jsonl").write_text("\n".join(reversed(lines)))
    assert "order" in changes_since_freeze(read_suite(path))[0]


def test_a_changed_schema_file_counts_as_a_change(make_suite):
    path = make_suite(ROWS, 'name: s\nversion: "1"\ncases: cases.jsonl\nscorers:\n  - json_schema: {file: a.json}\n')
    (path.parent / "a.json").write_text('{"type": "object"}')
    freeze_suite(read_suite(path))
    (path.parent / "a.json").write_text('{"type": "array"}')
    assert changes_since_freeze(read_suite(path)) == ["file a.json changed"]


def test_a_damaged_lock_is_no_missing_lock(make_suite):
    path = make_suite(ROWS)
    path.with_suffix(".lock").write_text('{"hash": "suite:0"}')
    with pytest.raises(ConfigError, match="damaged lock"):
        load_suite(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("json_schema:", "json_shema:", "did you mean 'json_schema'"),
        ("field: answer", "feild: answer", "did you mean 'field'"),
        ("scorers:", "slices: [esy]\nscorers:", "slice 'easy' is not declared"),
        ("- refusal: {}", "- refusal: {}\n  - refusal: {}", "two scores are called"),
        ("sampling: {max_new_tokens: 32}", "sampling: {max_new_tokens: 0}", "max_new_tokens"),
        ("sampling: {max_new_tokens: 32}", "samples_per_case: 4", "temperature 0"),
        ("cases: cases.jsonl", "cases: none.jsonl", "no such case file"),
    ],
)
def test_a_wrong_suite_says_what_is_wrong(make_suite, old, new, message):
    path = make_suite(ROWS)
    edit(path, old, new)
    with pytest.raises((ConfigError, DataError)) as caught:
        load_suite(path)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "not JSON"),
        ('{"id": "x", "mesages": []}', "unknown key 'mesages'"),
        ('{"id": "x", "messages": [{"role": "usr", "content": "q"}]}', "messages.0.role"),
        ('{"id": "c0", "messages": [{"role": "user", "content": "q"}]}', "id 'c0' was used on line 1"),
        ('{"id": "x", "messages": []}', "messages"),
    ],
)
def test_a_bad_case_is_named_by_file_and_line(make_suite, line, message):
    path = make_suite(ROWS[:1])
    with open(path.parent / "cases.jsonl", "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError) as caught:
        load_suite(path)
    assert "cases.jsonl:2" in str(caught.value)
    assert message in str(caught.value)


def test_an_empty_case_file_is_refused(make_suite):
    path = make_suite([])
    with pytest.raises(DataError, match="no cases"):
        load_suite(path)
