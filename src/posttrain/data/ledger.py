"""Small made ledgers and questions about them: a lookup that a tiny model can learn from scratch in seconds.

A ledger has a number and four lines of account and amount. A question names an account; the answer is ``{"answer":87}`` or, when
the ledger lacks the account, ``{"not_in_report":true}``. Ledgers are numbered without repetition and no two hold the same lines,
so the training rows and the suite share no ledger.

Command: ``python -m posttrain.data.ledger`` (rewrite the shipped files, run in the project's root folder).
"""

import random
from typing import Any

from posttrain.config.files import write_text
from posttrain.data.finops import lines, read_system_prompt, training_rows
from posttrain.data.tatqa import dump_answer
from posttrain.records import Demonstration, Message

ACCOUNTS = ("cash", "rent", "fees", "tax", "wages", "loans", "stock", "sales", "travel", "power", "water", "audit")
NUM_LINES = 4
SEED = 17
TRAIN, SUITE, POLICY = "recipes/data/tiny.jsonl", "suites/tiny.jsonl", "policies/tiny.yaml"
NUM_TRAIN_LEDGERS, NUM_SUITE_LEDGERS = 400, 32

ANSWER_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"answer": {"type": "integer"}},
            "required": ["answer"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"not_in_report": {"const": True}},
            "required": ["not_in_report"],
            "additionalProperties": False,
        },
    ]
}


def make_ledgers(count: int, *, seed: int = SEED) -> list[tuple[int, dict[str, int]]]:
    """``count`` different ledgers: number (1000 to 9999, each once) and amounts (10 to 99) by account."""
    draw = random.Random(seed)
    numbers = draw.sample(range(1000, 10000), count)
    ledgers: dict[tuple[tuple[str, int], ...], int] = {}
    while len(ledgers) < count:
        accounts = draw.sample(ACCOUNTS, NUM_LINES)
        key = tuple(zip(accounts, draw.sample(range(10, 100), NUM_LINES), strict=True))
        ledgers.setdefault(key, numbers[len(ledgers)])
    return [(number, dict(key)) for key, number in ledgers.items()]


def ask(number: int, amounts: dict[str, int], account: str, system_prompt: str) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """Prompt (ledger first, question last) and expected answer."""
    ledger = "\n".join(f"{name} {amount}" for name, amount in amounts.items())
    messages = (Message("system", system_prompt), Message("user", f"Ledger {number}\n{ledger}\nQuestion: {account}?"))
    return messages, {"answer": amounts[account]} if account in amounts else {"not_in_report": True}


def build_ledger_data(system_prompt: str) -> tuple[list[Demonstration], list[dict[str, Any]]]:
    """Training conversations (every line of a ledger and two absent accounts) and suite cases (two present, one absent)."""
    draw = random.Random(SEED + 1)
    demonstrations: list[Demonstration] = []
    cases: list[dict[str, Any]] = []
    for index, (number, amounts) in enumerate(make_ledgers(NUM_TRAIN_LEDGERS + NUM_SUITE_LEDGERS)):
        held_out = index < NUM_SUITE_LEDGERS
        absent = draw.sample([name for name in ACCOUNTS if name not in amounts], 1 if held_out else 2)
        for account in [*draw.sample(list(amounts), 2 if held_out else NUM_LINES), *absent]:
            messages, expected = ask(number, amounts, account, system_prompt)
            name = f"ledger-{number}-{account}"
            if held_out:
                plain = [{"role": message.role, "content": message.content} for message in messages]
                kind = "answerable" if "answer" in expected else "not_in_report"
                cases.append({"id": name, "messages": plain, "expected": expected, "slices": [kind], "metadata": {"source": "ledger"}})
            else:
                answer = Message("assistant", dump_answer(expected))
                demonstrations.append(Demonstration((*messages, answer), id=name, source="ledger", metadata={"ledger": number}))
    return demonstrations, cases


def main() -> None:
    """Write the training rows and the suite's cases."""
    demonstrations, cases = build_ledger_data(read_system_prompt(POLICY))
    write_text(TRAIN, lines(training_rows(demonstrations)))
    write_text(SUITE, lines(cases))
    print(f"{len(demonstrations)} training rows, {len(cases)} cases")


if __name__ == "__main__":
    main()
