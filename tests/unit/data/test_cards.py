import pytest

from posttrain.data import DataCard, card_path, check_consent, check_events, load_card
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.records import FeedbackEvent, Message

CARD = """\
source: example.org/reports, commit 1a2b
licence: CC-BY-4.0
consent: public under its licence
provenance: rows drawn at random
split: train
"""


def write_card(tmp_path, text):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    card_path(data).write_text(text)
    return data


def test_a_whole_card_passes(tmp_path):
    card = load_card(write_card(tmp_path, CARD))
    assert (card.licence, card.split) == ("CC-BY-4.0", "train")
    check_consent(card)
    assert "path" not in card.dump()


def test_the_card_lies_beside_the_file(tmp_path):
    assert card_path(tmp_path / "a.jsonl.gz") == tmp_path / "a.jsonl.gz.card.yaml"


def test_a_link_has_the_card_of_the_file_it_leads_to_unless_it_has_one_of_its_own(tmp_path):
    data, link = write_card(tmp_path, CARD), tmp_path / "other" / "link.jsonl"
    link.parent.mkdir()
    link.symlink_to(data)
    assert load_card(link).licence == "CC-BY-4.0"
    (tmp_path / "other" / "link.jsonl.card.yaml").write_text(CARD.replace("CC-BY-4.0", "MIT"))
    assert load_card(link).licence == "MIT"


def test_a_missing_file_is_missing_before_its_card_is(tmp_path):
    write_card(tmp_path, CARD)
    with pytest.raises(DataError, match=r"row.jsonl: no such file.*\n.*rows.jsonl") as caught:
        load_card(tmp_path / "row.jsonl")
    assert caught.value.exit_code == 2


def test_data_without_a_card_is_stopped_and_told_how_to_write_one(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(CheckFailed, match=r"rows.jsonl: has no data card") as caught:
        load_card(tmp_path / "rows.jsonl")
    assert "rows.jsonl.card.yaml" in caught.value.hint
    assert "consent:" in caught.value.hint
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("field", ["source", "licence", "consent"])
@pytest.mark.parametrize("value", [None, '""', "unknown", "Pending.", "withdrawn", "N/A", "no"])
def test_a_card_that_says_nothing_is_stopped(tmp_path, field, value):
    lines = [line for line in CARD.splitlines() if not line.startswith(field)] + ([f"{field}: {value}"] if value else [])
    data = write_card(tmp_path, "\n".join(lines))
    with pytest.raises(CheckFailed, match=f"rows.jsonl: its card gives no {field}") as caught:
        check_consent(load_card(data))
    assert str(card_path(data)) in caught.value.hint


def test_a_misspelt_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'license': did you mean 'licence'"):
        load_card(write_card(tmp_path, CARD + "license: MIT\n"))


def test_a_card_made_in_code_is_checked_too():
    check_consent(DataCard(source="made here", licence="Apache-2.0", consent="own work"))
    with pytest.raises(CheckFailed, match="consent"):
        check_consent(DataCard(source="made here", licence="Apache-2.0"))


def test_feedback_without_consent_is_stopped():
    def event(consent, id):
        turn = Message(role="user", content="q")
        return FeedbackEvent((turn,), (Message(role="assistant", content="a"),), "thumbs", "v1", consent, "2026-01-01", id=id)

    check_events([event("terms of 2026", "e1")])
    with pytest.raises(CheckFailed, match="2 feedback events carry no consent: e2, e3"):
        check_events([event("terms of 2026", "e1"), event("denied", "e2"), event("withdrawn", "e3")])
