import pytest

from posttrain.worlds import missing_facts


@pytest.mark.parametrize("text", ["EUR 1234.5", "It is 1,234.50 EUR.", "EUR 1234.50, as booked", "(1234.5)", "1,234.5"])
def test_a_number_is_found_however_it_is_written(text):
    assert missing_facts({"numbers": [1234.5]}, text) == []


@pytest.mark.parametrize("text", ["EUR 1234.6", "INV-1234.5", "12345", "2024-12-34", "1234.5.1", "x1234.5", "", "21234.5", "-1234.5"])
def test_other_numbers_and_parts_of_identifiers_are_not_it(text):
    assert missing_facts({"numbers": [1234.5]}, text) == ["1234.5"]


def test_every_number_is_needed_and_a_list_of_texts_needs_one():
    expected = {"numbers": [1, 2], "contains": ["[POL-1", ["treasurer", "controller"]]}
    assert missing_facts(expected, "1 and 2 [POL-12]: ask the Controller") == []
    assert missing_facts(expected, "1 and 3") == ["2", "'[POL-1'", "'treasurer' or 'controller'"]


def test_a_sign_counts():
    assert missing_facts({"numbers": [-3.2]}, "EUR -3.2") == missing_facts({"numbers": [-3.2]}, "EUR −3.20") == []
    assert missing_facts({"numbers": [-3.2]}, "EUR 3.2") == ["-3.2"]


def test_what_must_not_be_said_is_missed_when_it_is():
    expected = {"contains": ["approved"], "excludes": ["not approved"]}
    assert missing_facts(expected, "It is approved.") == []
    assert missing_facts(expected, "It is not approved.") == ["the absence of 'not approved'"]
