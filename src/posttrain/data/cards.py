"""Data cards: ``<file>.card.yaml`` beside a data file says where it came from, under which licence and with whose consent."""

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from posttrain.config import Config, parse, read_yaml
from posttrain.data.sources import check_exists
from posttrain.errors import CheckFailed
from posttrain.records import FeedbackEvent

NOT_GIVEN = (
    "",
    "?",
    "unknown",
    "none",
    "no",
    "not given",
    "n/a",
    "na",
    "tbd",
    "todo",
    "pending",
    "refused",
    "denied",
    "withdrawn",
    "revoked",
    "false",
)
PLACEHOLDER = re.compile(
    r"^\s*[<‹](?!\w+://)[^<>‹›@]*[>›]\s*$"  # the whole text: <licence>
    r"|[<‹](?=\S)(?!\w+://)[^<>‹›@]*\s[^<>‹›@]*(?<=\S)[>›]"  # several words inside a text: CC0, see <where the rows come from>
    r"|\b(?:TODO|TBD|FIXME|XXX)\b|^\s*(?i:todo|tbd|fixme)\s*(?:[:.,;-]|$)"
)
"""Text of a template that nobody filled in."""
_AGREED = r"(?:consent\w*|permission\w*|permitted|authori[sz]\w+|agree\w*|allowed|granted|obtained|given|ask\w*|cleared)"
_TAKEN_BACK = r"(?:withdr[ae]w\w*|revoke\w*|refuse\w*|denie\w+|rescind\w*|decline\w*|expire\w*|opt(?:ed|s|ing)?[ -]?out)"
WITHOUT_CONSENT = re.compile(
    rf"\b(?:no|not|never|without|lack(?:s|ing)?|missing|\w+n['’]t)\W+(?:\w+\W+){{0,3}}?{_AGREED}\b"
    rf"|\b{_AGREED}\W+(?:\w+\W+){{0,2}}?(?:missing|lacking|absent)\b"
    rf"|\b{_TAKEN_BACK}\b"
    r"|\b(?:pending|await\w*|unclear|unresolved|unknown|tbc|not yet|(?:in|under) review)\b"
    r"|^(?:missing|lacking|absent)$"
    r"|\bto be (?:confirmed|obtained|asked|clarified|decided|determined|checked)\b"
)
"""A clause that denies consent, takes it back or waits for it."""
NO_DENIAL = re.compile(
    r"\b(?:no|not|without|\w+n['’]t)\b.*\b(?:needed|necessary|required?s?)\b"  # no consent needed
    r"|\b(?:removed|excluded|left out|filtered|dropped|deleted|honou?red|respected)\b"  # users who opted out are removed
    rf"|\b(?:may|might|can|could|if|when|until|unless)\W+(?:\w+\W+){{0,4}}?{_TAKEN_BACK}\b"  # can be withdrawn at any time
    rf"|\b(?:nobody|no[ -]one|none|nothing|no \w+)\W+(?:\w+\W+){{0,3}}?(?:{_TAKEN_BACK}|pending)\b"  # nobody opted out
)
"""A clause that only sounds like one."""
CLAUSE = re.compile(r"[,;:.()\n]|\b(?:but|though|although|however)\b")
TEMPLATE = """\
source: <where the rows come from, with commit or date>
licence: <SPDX name or the terms, such as CC-BY-4.0 or 'internal, contract 123'>
consent: <why the rows may be used for training, such as 'public under its licence' or 'users agreed on 2026-01-10'>
provenance: <how the file was made from the source>
split: <train, dev or test>
notice: <the attribution the licence asks for>"""


class DataCard(Config):
    """What must be known about a data file before it may train a model."""

    source: str = ""
    """Where the rows come from: repository, file and commit, or system and date."""
    licence: str = ""
    """SPDX name or the terms."""
    consent: str = ""
    """Why the rows may be used for training."""
    provenance: str = ""
    """How the file was made from its source."""
    split: str = ""
    """train, dev or test, as the source names it."""
    notice: str = ""
    """The attribution the licence asks for."""
    path: str = Field("", exclude=True)
    """The data file; filled in by :func:`load_card`, not written in the card."""


def card_path(path: str | Path) -> Path:
    """Where the card of a data file (or `datasets` folder) lies: its name with ``.card.yaml`` added; for a link without a card of its own,
    beside the file it leads to."""
    file = Path(path)
    own = file.with_name(file.name + ".card.yaml")
    if not own.is_file() and file.is_symlink():
        target = file.resolve()
        linked = target.with_name(target.name + ".card.yaml")
        return linked if linked.is_file() else own
    return own


def load_card(path: str | Path) -> DataCard:
    """The card of the data file ``path``. Raises DataError without the file, CheckFailed without a card, ConfigError for a wrong one."""
    check_exists(Path(path))
    card = card_path(path)
    if not card.is_file():
        raise CheckFailed(f"{path}: has no data card, so nobody can say whether it may be used", hint=_how(card))
    return parse(DataCard, {**read_yaml(card), "path": str(path)}, where=str(card))


def check_consent(card: DataCard) -> None:
    """Raise CheckFailed unless the card names a source, a licence and a consent.

    Placeholders, 'unknown' and the like are none; nor is a consent that was denied or withdrawn, or is still waited for.
    """
    hint = _how(card_path(card.path) if card.path else None)
    for field in ("source", "licence", "consent", "provenance"):
        value = str(getattr(card, field))
        if not (is_given(value) or (field == "provenance" and not value.strip())):
            what = f"{card.path or 'the data'}: its card gives no {field} (got {value!r})"
            raise CheckFailed(f"{what}; data without it does not enter training", hint=hint)
    if denial := denied(card.consent):
        raise CheckFailed(
            f"{card.path or 'the data'}: its card says that there is no consent: '{denial}' (in {card.consent!r}); "
            "such data does not enter training",
            hint="say why the rows may be used for training; if they may, put it in plain words: 'no consent needed: made data'",
        )


def check_events(events: Iterable[FeedbackEvent]) -> None:
    """Raise CheckFailed when a feedback event was recorded without consent to be used."""
    without = [event.id or f"number {position}" for position, event in enumerate(events, 1) if not _consents(event.consent)]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        raise CheckFailed(
            f"{len(without)} feedback events carry no consent: {', '.join(without[:5])}{more}",
            hint="remove them, or record the consent under which they were given; they do not enter training without it",
        )


def is_given(text: str) -> bool:
    """Whether a consent, licence or source says something: 'unknown', 'pending', a template's placeholder and empty text do not."""
    return text.strip().strip(".").casefold() not in NOT_GIVEN and not PLACEHOLDER.search(text)


def denied(consent: str) -> str:
    """The clause in which a consent says that there is none (denied, withdrawn, pending); empty when there is no such clause."""
    clauses = [clause.strip() for clause in CLAUSE.split(consent.replace("_", " ").casefold())]
    return next((clause for clause in clauses if WITHOUT_CONSENT.search(clause) and not NO_DENIAL.search(clause)), "")


def _consents(consent: str) -> bool:
    return is_given(consent) and not denied(consent)


def _how(card: Path | None) -> str:
    return f"write {card or '<data file>.card.yaml'} with:\n" + "\n".join(f"     {line}" for line in TEMPLATE.splitlines())
