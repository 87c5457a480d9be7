"""The shipped data of the tools recipe are what its builder makes, and keep their sides apart."""

import gzip
import json
from pathlib import Path

import pytest

from posttrain.worlds.recipe_data import suite_rows, training_rows

ROOT = Path(__file__).parents[3]


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def shipped() -> tuple[list[dict], list[dict]]:
    data = gzip.decompress((ROOT / "recipes/data/tools.jsonl.gz").read_bytes()).decode("utf-8")
    return rows(data), rows((ROOT / "suites/tools.jsonl").read_text(encoding="utf-8"))


def test_the_shipped_files_are_what_the_builder_makes(shipped):
    bfcl = rows(gzip.decompress((ROOT / "recipes/data/tools-bfcl.jsonl.gz").read_bytes()).decode("utf-8"))
    cases = rows((ROOT / "suites/tools-bfcl.jsonl").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(training_rows(bfcl))) == shipped[0]
    assert json.loads(json.dumps(suite_rows(cases))) == shipped[1]


def test_no_company_and_no_function_of_bfcl_is_on_both_sides(shipped):
    def companies(of):
        prompts = [row["messages"][0]["content"] for row in of if row["messages"][0]["role"] == "system"]
        return {prompt.split(".")[0] for prompt in prompts}

    def functions(of):
        return {tool["function"]["name"] for row in of if row["messages"][0]["role"] != "system" for tool in row["tools"]}

    train, suite = shipped
    assert len(companies(train)) > 20
    assert not companies(train) & companies(suite)
    assert len(functions(train)) > 50
    assert not functions(train) & functions(suite)


def test_actions_are_the_cases_whose_books_have_to_change(shipped):
    for case in shipped[1]:
        assert ("action" in case["slices"]) == bool(case["expected"].get("state")), case["id"]
