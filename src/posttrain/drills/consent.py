"""24: feedback of users who never agreed is about to be trained on."""

from pathlib import Path

from posttrain.data import check_events
from posttrain.drills.harness import Found, drill
from posttrain.drills.setup import CARD, conversations, fine_tune, tiny_model, write_rows
from posttrain.records import FeedbackEvent, Message


@drill(
    "no-consent",
    number=24,
    fault="the data card gives no consent",
    expects=r"gives no consent.*does not enter training",
)
def no_consent(folder: Path, faulty: bool) -> Found:
    """The stage reads the card before anything else."""
    card = CARD.replace("made data, it describes no person", "unknown") if faulty else CARD
    data = write_rows(folder / "rows.jsonl", conversations(), card=card)
    fine_tune(folder, tiny_model(folder), data)
    return Found("")


@drill(
    "event-without-consent",
    number=24,
    fault="one of twenty feedback events was recorded without consent",
    expects=r"1 feedback events carry no consent: event-7",
)
def event_without_consent(folder: Path, faulty: bool) -> Found:
    """Events are checked one by one: a consent of the file is not that of each user."""
    asked, answered = (Message("user", "Which entry?"),), (Message("assistant", "The second."),)
    events = [
        FeedbackEvent(
            asked, answered, "thumb", "policy 1.0", "" if faulty and n == 7 else "agreed 2026-01-10", "2026-02-01", id=f"event-{n}"
        )
        for n in range(20)
    ]
    check_events(events)
    return Found("")
