"""Cases too short for runs of words: is what they ask in the training data, whatever is answered there?

The text of a case is its prompt and its expected answer, so the same prompt with an answer written otherwise (another order of keys, a word
more) is another text. Where prompts are given, a short one is looked for on its own:

1. as a whole: what a record asks, or its opening user message, says exactly the same words;
2. inside a longer user message, when it has at least ``FEW_WORDS`` words: a prefix or a template hides nothing.

A prompt of fewer words ("Continue.") says too little to be looked for inside others, and counts as a whole only. A prompt that several
cases share with other answers is not a case's own. What stands in many records is a common phrase; ``usual`` says how many are many.
"""

from collections.abc import Callable, Mapping, Sequence

from posttrain.data.words import sides, words
from posttrain.records import Demonstration, Message, Record

FEW_WORDS = 5
Words = tuple[str, ...]


class ShortPrompts:
    """The short prompts of the suites by what they say, and the records that say it too.

    ``cases``: suite, prompt and whole text by the case's number; ``shorter_than``: words from which runs are compared instead.
    """

    def __init__(self, cases: Mapping[int, tuple[str, str, str]], shorter_than: int) -> None:
        asked: dict[tuple[str, Words], dict[int, str]] = {}
        for case, (suite, prompt, text) in cases.items():
            said = tuple(words(prompt))
            if 0 < len(said) < shorter_than:
                asked.setdefault((suite, said), {})[case] = text
        self._cases: dict[Words, list[int]] = {}
        for (_, said), texts in asked.items():
            if len(set(texts.values())) == 1:
                self._cases.setdefault(said, []).extend(texts)
        self._by_start: dict[Words, list[Words]] = {}
        for said in self._cases:
            if len(said) >= FEW_WORDS:
                self._by_start.setdefault(said[:FEW_WORDS], []).append(said)
        self._whole: dict[Words, list[int]] = {}
        self._inside: dict[Words, list[int]] = {}
        self._different: dict[Words, int] = {}

    @property
    def num_whole(self) -> int:
        """Cases whose prompt is looked for as a whole."""
        return sum(len(cases) for cases in self._cases.values())

    @property
    def num_inside(self) -> int:
        """Those among them whose prompt is looked for inside longer messages too."""
        return sum(len(cases) for said, cases in self._cases.items() if len(said) >= FEW_WORDS)

    def examine(self, record: Record, number: int, *, new: bool) -> None:
        """Note which prompts record ``number`` holds; ``new``: no record before says the same in all."""
        if not self._cases:
            return
        messages = [tuple(words(message.content)) for message in _user_messages(record)]
        whole = {tuple(words(sides(record)[0])), *messages[:1]} & self._cases.keys()
        inside = {said for message in messages for said in self._held(message)} - whole
        for said in whole:
            self._whole.setdefault(said, []).append(number)
        for said in inside:
            self._inside.setdefault(said, []).append(number)
        for said in whole | inside if new else ():
            self._different[said] = self._different.get(said, 0) + 1

    def _held(self, message: Words) -> set[Words]:
        if not self._by_start:
            return set()
        starts = zip(*(message[offset:] for offset in range(FEW_WORDS)), strict=False)
        return {said for at, start in enumerate(starts) for said in self._by_start.get(start, ()) if message[at : at + len(said)] == said}

    def found(self, usual: Callable[[int], bool]) -> list[tuple[int, int]]:
        """(case, record) pairs. ``usual``: whether so many different records make a phrase a common one."""
        pairs = []
        for said, cases in self._cases.items():
            common = usual(self._different.get(said, 0))
            records = [] if common and len(said) < FEW_WORDS else list(self._whole.get(said, ()))
            records += [] if common else self._inside.get(said, ())
            pairs += [(case, record) for case in cases for record in records]
        return pairs


def _user_messages(record: Record) -> Sequence[Message]:
    messages = record.messages if isinstance(record, Demonstration) else record.prompt
    return [message for message in messages if message.role == "user"]
