"""A generator behind any OpenAI-compatible chat completions endpoint."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.generation.protocol import ENGINE_VERSION, OnDone
from posttrain.generation.sampling import check_sampling
from posttrain.generation.wire import request_body, response_to_generation
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
        self._model, self._concurrency, self._max_attempts = model, concurrency, max_attempts
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
        """One answer a request, in the order given. To be called from synchronous code.

        Raises InfrastructureError when a request still fails after its attempts, DataError when the server calls a request wrong; requests
        under way are finished first.
        """
        for index, request in enumerate(requests):
            check_sampling(request.sampling, _name(index, request))
        return asyncio.run(self._generate(requests, on_done))

    async def _generate(self, requests: Sequence[GenerationRequest], on_done: OnDone | None) -> list[Generation]:
        answers: dict[int, Generation] = {}
        failures: list[Exception] = []
        numbers = iter(range(len(requests)))

        async def work(client: httpx.AsyncClient) -> None:
            for index in numbers:
                if failures:
                    return
                try:
                    answers[index] = await self._ask(client, index, requests[index])
                    if on_done:
                        on_done(index, answers[index])
                except Exception as error:
                    failures.append(error)

        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(timeout=self._timeout, headers=self._headers, limits=limits) as client:
            await asyncio.gather(*(work(client) for _ in range(min(self._concurrency, len(requests)))))
        if failures:
            raise failures[0]
        return [answers[index] for index in range(len(requests))]

    async def _ask(self, client: httpx.AsyncClient, index: int, request: GenerationRequest) -> Generation:
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
                    return response_to_generation(response, request, time.perf_counter() - started, f"{self._url}, {_name(index, request)}")
                reason = f"status {response.status_code}: {response.text[:300]}"
                if response.status_code not in RETRIED_STATUS:
                    raise self._refusal(index, request, response.status_code, reason)
                wait = max(wait, min(LONGEST_WAIT_SECONDS, _retry_after(response)))
            if attempt + 1 < self._max_attempts:
                await asyncio.sleep(wait)
        raise InfrastructureError(
            f"{self._url}: {_name(index, request)} failed {self._max_attempts} times; the last time: {reason}",
            hint="answers that arrived were kept; check the server and run the same command again",
        )

    def _refusal(self, index: int, request: GenerationRequest, status: int, reason: str) -> Exception:
        if status in (401, 403):
            return ConfigError(f"{self._url}: access refused, {reason}", hint="check the API key")
        if status == 404:
            return ConfigError(
                f"{self._url}: not found, {reason}", hint=f"check the URL (it should end in /v1) and the model name '{self._model}'"
            )
        return DataError(f"{self._url}: {_name(index, request)} was refused, {reason}", hint="fix or leave out the request named")


def _name(index: int, request: GenerationRequest) -> str:
    return f"request {index}" + (f" ('{request.id}')" if request.id else "")


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
