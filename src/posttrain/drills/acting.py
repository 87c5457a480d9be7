"""Drills of acting: an expert, or somebody who errs, acts in the financial-operations world through the real tool loop.

The behaviour is played, not learned: what is drilled are the instruments (tools, episodes, scorers, gate, diagnosis), all of them real.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from posttrain.config import content_hash
from posttrain.drills.harness import Found
from posttrain.drills.yes_no import read_run
from posttrain.evaluation import EvaluationResult, evaluate, load_suite
from posttrain.generation.protocol import OnDone, OnText, SessionStatistics, Ticket, finish_all
from posttrain.records import CallRecord, Generation, GenerationRequest, Message
from posttrain.worlds import WorldTask, worlds, write_tasks

Script = Callable[[WorldTask], Sequence[Message]]
"""The turns somebody takes at a task; of these the assistant's are played, and the world gives the results."""
SEED = 5
SUITE = """
name: acting
version: "1"
cases: cases.jsonl
episode: {max_steps: 5}
scorers:
  - tool_calls: {name: calls}
  - world: {}
  - grounding: {}
"""


def tasks(*only: str, count: int = 40) -> list[WorldTask]:
    """The first ``count`` tasks of these kinds or families, in companies of the test split."""
    return worlds.get("finops").tasks("test", seed=SEED, count=count, only=only)


def expert(task: WorldTask) -> Sequence[Message]:
    """What the task's own demonstration does."""
    return task.demonstration


def erring(*kinds: str) -> Script:
    """What the task's first counterexample of one of ``kinds`` does; the expert's turns where there is none."""

    def turns(task: WorldTask) -> Sequence[Message]:
        wrong = worlds.get("finops").counterexamples(task)
        return next((one.turns for one in wrong if one.kind in kinds), task.demonstration)

    return turns


class Actor:
    """A generator that plays written turns: a turn at each request, by the turns already taken. Implements ``Generator``."""

    def __init__(self, name: str, scripts: Mapping[str, Sequence[Message]]) -> None:
        """``scripts``: turns by case id; what is not the assistant's is passed over."""
        self._turns = {case: [turn for turn in turns if turn.role == "assistant"] for case, turns in scripts.items()}
        self.identity: dict[str, Any] = {"model": name, "script": content_hash({case: repr(turns) for case, turns in self._turns.items()})}

    def generate(self, requests: Sequence[GenerationRequest], *, on_done: OnDone | None = None) -> list[Generation]:
        """The next turn of each request."""
        with self.open() as session:
            return finish_all(session, [session.submit(request) for request in requests], on_done)

    def open(self) -> "ActorSession":
        """A session; turns are ready at once."""
        return ActorSession(self)

    def turn(self, request: GenerationRequest) -> Generation:
        """The turn that follows those of the assistant in the request, its lengths counted in words."""
        taken = sum(message.role == "assistant" for message in request.messages)
        turn = self._turns[request.id.rpartition("#")[0]][taken]
        calls = tuple(CallRecord(call.name, call.arguments, "ok", "", False, taken, id=call.id) for call in turn.tool_calls)
        read = sum(len(message.content.split()) for message in request.messages)
        return Generation(turn.content, "stop", read, len(turn.content.split()) + len(calls), 0.0, id=request.id, calls=calls)


class ActorSession:
    """Implements ``Session`` for an :class:`Actor`."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._tickets: list[Ticket] = []
        self.statistics = SessionStatistics()

    @property
    def num_open(self) -> int:
        """Requests not yet returned."""
        return len(self._tickets)

    def submit(self, request: GenerationRequest, *, on_text: OnText | None = None) -> Ticket:
        """Queue a request."""
        ticket = Ticket(request)
        self._tickets.append(ticket)
        return ticket

    def advance(self, timeout_seconds: float = 0.05) -> list[Ticket]:
        """Every open request, answered."""
        done, self._tickets = self._tickets, []
        for ticket in done:
            if not ticket.cancelled:
                ticket.generation = self._actor.turn(ticket.request)
        return done

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up."""
        ticket.cancelled = ticket in self._tickets

    def cancel_waiting(self) -> None:
        """Give all open requests up: none has started."""
        for ticket in self._tickets:
            ticket.cancelled = True

    def close(self) -> None:
        """Give all open requests up."""
        self.cancel_waiting()

    def __enter__(self) -> "ActorSession":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def write_suite(folder: Path, cases: Sequence[WorldTask]) -> Path:
    """A suite over the tasks, with the scorers of acting."""
    write_tasks(cases, folder / "cases.jsonl", "cases")
    suite = folder / "suite.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    return suite


def perform(folder: Path, cases: Sequence[WorldTask], script: Script, name: str = "candidate") -> EvaluationResult:
    """Somebody acts in every task of ``folder``'s suite; the results lie in ``folder/run/<name>``."""
    actor = Actor(name, {task.id: script(task) for task in cases})
    return evaluate(load_suite(folder / "suite.yaml"), actor, out_dir=folder / "run" / name, name=name)


def diagnosed(folder: Path, result: EvaluationResult, *names: str) -> Found:
    """What ``posttrain diagnose`` says of the run, and the named scores of an evaluation."""
    scores = {name: result.summary["scores"][name]["overall"]["value"] for name in names}
    return Found(read_run(folder).diagnosis, scores)
