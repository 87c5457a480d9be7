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


@pytest.mark.parametrize(
    "consent",
    [
        *("no consent", "not consented", "No consent was given.", "without consent", "users did not agree", "users didn't consent"),
        *("consent withdrawn 2026-01-01", "agreed on 2025-03-01, revoked on 2026-01-01", "permission was refused", "consent has expired"),
        *("pending legal review", "users agreed; legal review pending", "awaiting approval", "to be confirmed with the customer"),
        *("users opted out", "opted_out", "opt-out", "not yet asked", "consent required but not obtained", "not allowed for training"),
        *("consent is unclear", "consent: missing", "no one asked them for permission", "never agreed to", "under review by counsel"),
    ],
)
def test_a_consent_that_was_denied_withdrawn_or_is_waited_for_is_none(consent):
    with pytest.raises(CheckFailed, match="its card says that there is no consent"):
        check_consent(DataCard(source="made here", licence="Apache-2.0", consent=consent))


@pytest.mark.parametrize(
    "consent",
    [
        *("public domain, no consent needed", "no personal data", "not required: made data", "made data; no consent is required"),
        *("generated: no person, company or account in it is real", "not applicable, it describes no person", "own work"),
        *("users agreed on 2026-01-10, and can withdraw at any time", "users agreed; those who opted out are left out", "opt-in form 12"),
        *("public under its licence; labels by paid annotators", "terms of 2026", "terms 3.2, consent may be withdrawn by mail"),
        *("customers signed contract 123; nobody has opted out", "agreed, until revoked", "users gave permission, no objections"),
        *("it describes no person, the payees are a list of surnames", "no consent necessary (CC0)", "withdrawn rows were removed"),
    ],
)
def test_a_consent_that_only_sounds_like_a_denial_passes(consent):
    check_consent(DataCard(source="made here", licence="Apache-2.0", consent=consent))


@pytest.mark.parametrize("field", ["source", "licence", "consent", "provenance"])
@pytest.mark.parametrize(
    "text",
    [
        "<why the rows may be used for training>",
        "‹licence›",
        "CC0, see <the terms of the source>",
        "TODO",
        "tbd: ask Ann",
        "todo",
        "MIT (TBD)",
    ],
)
def test_a_placeholder_says_nothing(field, text):
    card = DataCard(source="made here", licence="Apache-2.0", consent="own work", provenance="by hand")
    with pytest.raises(CheckFailed, match=f"its card gives no {field}"):
        check_consent(card.model_copy(update={field: text}))


def test_the_cards_own_template_is_refused_in_every_field_until_it_is_filled_in(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(CheckFailed) as caught:
        load_card(tmp_path / "rows.jsonl")
    template = "\n".join(line.strip() for line in caught.value.hint.splitlines()[1:])
    with pytest.raises(CheckFailed, match="its card gives no source"):
        check_consent(load_card(write_card(tmp_path, template)))


@pytest.mark.parametrize(
    "text",
    [
        *("Ann Lee <ann@example.org>", "CC-BY-4.0 <https://creativecommons.org/licenses/by/4.0/>", "answers without <think> tags"),
        *("rows with < 13 words and > 2 removed", "a todo app's tickets, 2026"),
    ],
)
def test_text_with_brackets_of_its_own_is_no_placeholder(text):
    check_consent(DataCard(source=text, licence="Apache-2.0", consent="own work", provenance=text))


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
