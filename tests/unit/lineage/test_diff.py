import pytest

from posttrain.lineage import LineageStore, render_diff, render_tree

DATA = {"name": "books", "licence": "CC-BY-4.0", "consent": "public", "provenance": "made by hand", "num_rows": 10}


@pytest.fixture
def store(tmp_path):
    return LineageStore(tmp_path / "lineage.db")


def make_model(store, *, rate=1e-4, policy=("1.0.0", "Be right.\nBe short."), data=DATA, suite=True):
    parents = [
        store.put("data", data),
        store.put("policy", {"name": "p", "version": policy[0], "text": policy[1]}),
        store.put("config", {"name": "sft", "training": {"learning_rate": rate, "betas": [0.9, 0.95]}}),
    ]
    if suite:
        parents.append(store.put("suite", {"name": "s", "hash": "1"}))
    return store.put("adapter", {"name": "assistant"}, parents=parents)


def test_equal_models_do_not_differ(store):
    model = make_model(store)
    diff = store.diff(model, make_model(store))
    assert diff.changes == ()
    assert diff.num_shared == 5
    assert "no difference" in render_diff(diff)


def test_diff_names_the_changed_setting_the_text_line_the_data_and_what_only_one_side_has(store):
    old = make_model(store)
    new = make_model(store, rate=2e-4, policy=("1.1.0", "Be right.\nBe brief."), data={**DATA, "num_rows": 12}, suite=False)
    diff = store.diff(old, new)
    found = {(change.kind, field.field): (field.before, field.after) for change in diff.changes for field in change.fields}
    assert found == {
        ("data", "num_rows"): (10, 12),
        ("policy", "version"): ("1.0.0", "1.1.0"),
        ("policy", "text"): ("Be right.\nBe short.", "Be right.\nBe brief."),
        ("config", "training.learning_rate"): (1e-4, 2e-4),
    }
    assert [(change.kind, change.what) for change in diff.changes if change.what != "changed"] == [("suite", "removed")]
    lines = render_diff(diff)
    assert "  training.learning_rate: 0.0001 -> 0.0002" in lines
    assert "    -Be short." in lines
    assert "    +Be brief." in lines
    assert any(line.startswith("suite s: only in the first") for line in lines)
    assert "adapter assistant: equal itself, made from other things" in lines


def test_changed_files_are_part_of_the_difference(store, tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"a")
    old = store.put("adapter", {"name": "a"}, files=[weights])
    weights.write_bytes(b"b")
    new = store.put("adapter", {"name": "a"}, files=[weights])
    assert [field.field for field in store.diff(old, new).changes[0].fields] == ["file w.bin", "file w.bin"]


def test_tree_shows_every_ancestor_and_each_subtree_once(store):
    data = store.put("data", DATA)
    config = store.put("config", {"name": "sft"}, parents=[data])
    adapter = store.put("adapter", {"name": "a"}, parents=[config])
    evaluation = store.put("evaluation", {"name": "after"}, parents=[adapter])
    verdict = store.put("verdict", {"name": "gate", "verdict": "ship"}, parents=[evaluation, adapter])
    lines = render_tree(store, verdict)
    assert lines[0] == f"{verdict}  gate  verdict ship"
    assert sum("(above)" in line for line in lines) == 1
    assert sum(data in line for line in lines) == 1
    assert {node for line in lines for node in (data, config, adapter, evaluation, verdict) if node in line} == {
        data, config, adapter, evaluation, verdict,
    }  # fmt: skip
