"""A generator behind any OpenAI-compatible chat completions endpoint."""

import asyncio
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import httpx

from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.generation.protocol import ENGINE_VERSION, OnDone, OnText, SessionStatistics, Ticket, finish_all
from posttrain.generation.sampling import check_sampling
from posttrain.generation.wire import SENT_CONSTRAINTS, request_body, response_to_generation
from posttrain.records import Generation, GenerationRequest

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0


class EndpointGenerator:
    """Asks ``base_url``/chat/completions, several requests at a time, again after a wait where the server is busy or gone.

    Finished answers reach ``on_done`` at once, so nothing is lost when a later request fails for good. ``seconds`` of an answer are those
    of the attempt that succeeded, waiting excluded. Token ids are not known; log-probabilities are the server's.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int = 4,
        timeout_seconds: float = 120.0,
        max_attempts: int = 6,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """``base_url`` ends before ``/chat/completions``. ``extra_body``: fields this server wants besides the standard ones."""
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint '{base_url}' is no URL", hint="for example http://localhost:8000/v1")
        for name, value in (("concurrency", concurrency), ("max_attempts", max_attempts)):
            if value < 1:
                raise ConfigError(f"{name} is {value}", hint="accepted: 1 or more")
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._model, self.concurrency, self._max_attempts = model, concurrency, max_attempts
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(10.0, timeout_seconds))
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._extra = dict(extra_body or {})
        self.identity: dict[str, Any] = {
            "engine": f"endpoint-{ENGINE_VERSION}",
            "url": self._url,
            "model": model,
            "extra_body": self._extra,
        }

    def generate(self, requests: Sequence[GenerationRequest], *, on_done: OnDone | None = None) -> list[Generation]:
        """One answer a request, in the order given.

        Raises InfrastructureError when a request still fails after its attempts, DataError when the server calls a request wrong; requests
        under way are finished first.
        """
        names = [f"request {index}" + (f" ('{request.id}')" if request.id else "") for index, request in enumerate(requests)]
        for name, request in zip(names, requests, strict=True):
            self.check(request, name)
        with EndpointSession(self, is_one_job=True) as session:
            tickets = [session.submit_named(request, name) for request, name in zip(requests, names, strict=True)]
            return finish_all(session, tickets, on_done)

    def open(self) -> "EndpointSession":
        """A session; its connections live in a thread of their own until it is closed."""
        return EndpointSession(self)

    def connect(self) -> httpx.AsyncClient:
        """A client for as many requests at a time as are allowed."""
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.AsyncClient(timeout=self._timeout, headers=self._headers, limits=limits)

    def check(self, request: GenerationRequest, name: str) -> None:
        """Raise ConfigError, with ``name``, for what cannot be sent."""
        check_sampling(request.sampling, name)
        if request.prompt_ids:
            raise ConfigError(f"{name}: prompt_ids cannot be sent to an endpoint", hint="give messages, or use a local model")
        if request.constraint is not None and request.constraint.kind not in SENT_CONSTRAINTS:
            raise ConfigError(
                f"{name}: a constraint of kind '{request.constraint.kind}' cannot be sent to an endpoint",
                hint="accepted: " + ", ".join(SENT_CONSTRAINTS),
            )

    async def ask(self, client: httpx.AsyncClient, name: str, request: GenerationRequest) -> Generation:
        """The answer to one request, called ``name`` in errors."""
        body = {**request_body(request, self._model), **self._extra}
        reason = ""
        for attempt in range(self._max_attempts):
            started = time.perf_counter()
            wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = await client.post(self._url, json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.is_success:
                    return response_to_generation(response, request, time.perf_counter() - started, f"{self._url}, {name}")
                reason = f"status {response.status_code}: {response.text[:300]}"
                if response.status_code not in RETRIED_STATUS:
                    raise self._refusal(name, response.status_code, reason)
                wait = max(wait, min(LONGEST_WAIT_SECONDS, _retry_after(response)))
            if attempt + 1 < self._max_attempts:
                await asyncio.sleep(wait)
        raise InfrastructureError(
            f"{self._url}: {name} failed {self._max_attempts} times; the last time: {reason}",
            hint="answers that arrived were kept; check the server and run the same command again",
        )

    def _refusal(self, name: str, status: int, reason: str) -> Exception:
        if status in (401, 403):
            return ConfigError(f"{self._url}: access refused, {reason}", hint="check the API key")
        if status == 404:
            return ConfigError(
                f"{self._url}: not found, {reason}", hint=f"check the URL (it should end in /v1) and the model name '{self._model}'"
            )
        return DataError(f"{self._url}: {name} was refused, {reason}", hint="fix or leave out the request named")


class EndpointSession:
    """A :class:`~posttrain.generation.protocol.Session` over an endpoint: as many requests under way as the generator's concurrency.

    ``on_text`` gets the whole text at once. ``is_one_job``: after a failure, nothing that waits is sent any more.
    """

    def __init__(self, generator: EndpointGenerator, *, is_one_job: bool = False) -> None:
        self.statistics = SessionStatistics()
        self._generator = generator
        self._open: dict[Ticket, _Journey] = {}
        self._finished: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self._done: deque[Ticket] = deque()
        self._texts: deque[tuple[OnText, str]] = deque()
        self._is_closed = self._has_failed = False
        self._is_one_job = is_one_job
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="posttrain-endpoint", daemon=True)
        self._thread.start()
        self._client = generator.connect()
        self._num_under_way = 0
        self._places = asyncio.Semaphore(generator.concurrency)

    @property
    def num_open(self) -> int:
        """Requests submitted and not yet returned by :meth:`advance`."""
        return len(self._open) + len(self._done)

    def submit(self, request: GenerationRequest, *, on_text: OnText | None = None) -> Ticket:
        """Queue a request. ConfigError for what cannot be sent."""
        self._generator.check(request, "the request")
        return self.submit_named(request, "the request" + (f" '{request.id}'" if request.id else ""), on_text)

    def submit_named(self, request: GenerationRequest, name: str, on_text: OnText | None = None) -> Ticket:
        """Queue a request that was checked, called ``name`` in errors."""
        if self._is_closed:
            raise InfrastructureError("the session is closed", hint="open another one")
        ticket = Ticket(request)
        self._open[ticket] = journey = _Journey(on_text)
        journey.task = asyncio.run_coroutine_threadsafe(self._travel(ticket, journey, name), self._loop)
        journey.task.add_done_callback(lambda task: self._arrive(ticket, task))
        return ticket

    def advance(self, timeout_seconds: float = 0.05) -> list[Ticket]:
        """Wait at most ``timeout_seconds`` for a request to be done; all that are done by then."""
        try:
            if not self._done:
                self._take(self._finished.get(timeout=timeout_seconds))
            while True:
                self._take(self._finished.get_nowait())
        except queue.Empty:
            pass
        while self._texts:  # a callback may raise: what is done is returned by the next call
            on_text, text = self._texts.popleft()
            on_text(text)
        return [self._done.popleft() for _ in range(len(self._done))]

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up; its connection is closed."""
        journey = self._open.get(ticket)
        if journey is not None and journey.task is not None:
            journey.task.cancel()

    def cancel_waiting(self) -> None:
        """Cancel what has not been sent yet."""
        for ticket, journey in list(self._open.items()):
            if not journey.started:
                self.cancel(ticket)

    def close(self) -> None:
        """Cancel everything open and close the connections."""
        if self._is_closed:
            return
        self._is_closed = True
        for ticket in list(self._open):
            self.cancel(ticket)
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "EndpointSession":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _travel(self, ticket: Ticket, journey: "_Journey", name: str) -> None:
        async with self._places:
            if self._is_one_job and self._has_failed:
                raise asyncio.CancelledError
            journey.started = time.perf_counter()
            self._num_under_way += 1
            self.statistics.peak_rows = max(self.statistics.peak_rows, self._num_under_way)
            try:
                ticket.generation = await self._generator.ask(self._client, name, ticket.request)
            except Exception as error:
                ticket.error, self._has_failed = error, True
            finally:
                self._num_under_way -= 1

    def _arrive(self, ticket: Ticket, task: "Future[None]") -> None:
        ticket.cancelled = task.cancelled()
        self._finished.put(ticket)

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()

    def _take(self, ticket: Ticket) -> None:
        """A request has come back."""
        self._done.append(ticket)
        journey, statistics = self._open.pop(ticket), self.statistics
        waited = journey.started - journey.submitted if journey.started else 0.0
        statistics.wait_seconds += waited
        statistics.longest_wait_seconds = max(statistics.longest_wait_seconds, waited)
        if ticket.cancelled:
            statistics.num_cancelled += 1
        if ticket.generation is not None:
            statistics.num_done += 1
            statistics.prompt_tokens += ticket.generation.num_prompt_tokens
            statistics.generated_tokens += ticket.generation.num_completion_tokens
            if journey.on_text:
                self._texts.append((journey.on_text, ticket.generation.text))


@dataclass(eq=False, slots=True)
class _Journey:
    """What the session knows of an open request; ``started`` is 0 while it waits for its turn."""

    on_text: OnText | None
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    task: "Future[None] | None" = None


def _retry_after(response: httpx.Response) -> float:
    """Seconds the server asks to wait (RFC 9110, section 10.2.3: a number or a date); 0 when it does not say."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
