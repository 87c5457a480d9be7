"""Data cards: ``<file>.card.yaml`` beside a data file says where it came from, under which licence and with whose consent."""

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
TEMPLATE = """\
source: <where the rows come from: repository, file, commit or system and date>
licence: <SPDX name or the terms, such as CC-BY-4.0 or 'internal, contract 123'>
consent: <why the rows may be used for training: 'public under its licence', 'users agreed on 2026-01-10'>
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
    """Raise CheckFailed unless the card names a source, a licence and a consent; 'unknown', 'pending' and the like are none."""
    for field in ("source", "licence", "consent"):
        value = str(getattr(card, field))
        if not is_given(value):
            what = f"{card.path or 'the data'}: its card gives no {field} (got {value!r})"
            raise CheckFailed(f"{what}; data without it does not enter training", hint=_how(card_path(card.path) if card.path else None))


def check_events(events: Iterable[FeedbackEvent]) -> None:
    """Raise CheckFailed when a feedback event was recorded without consent to be used."""
    without = [event.id or f"number {position}" for position, event in enumerate(events, 1) if not is_given(event.consent)]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        raise CheckFailed(
            f"{len(without)} feedback events carry no consent: {', '.join(without[:5])}{more}",
            hint="remove them, or record the consent under which they were given; they do not enter training without it",
        )


def is_given(consent: str) -> bool:
    """Whether a consent, licence or source says something: 'unknown', 'pending', 'withdrawn' and empty text do not."""
    return consent.strip().strip(".").casefold() not in NOT_GIVEN


def _how(card: Path | None) -> str:
    return f"write {card or '<data file>.card.yaml'} with:\n" + "\n".join(f"     {line}" for line in TEMPLATE.splitlines())
