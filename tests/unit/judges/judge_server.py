"""A server that plays a judge, and comparisons for it to judge."""

import hashlib
import random
import re
import socket
import threading
import time

import uvicorn
from fastapi import FastAPI, Request

from posttrain.judges import Constitution, Floor
from posttrain.records import Comparison, Judgement, Message


class JudgeServer:
    """An OpenAI-compatible server that plays a judge of known faults; every answer holds its quality as ``quality=3``.

    What it believes about two answers does not depend on their order. ``accuracy``: how often it believes the truth; then, for a share
    ``place`` of the pairs it takes the first answer instead, for ``length`` the longer one, for ``mumble`` it says nothing readable.
    """

    def __init__(self):
        self.accuracy, self.place, self.length, self.mumble = 1.0, 0.0, 0.0, 0.0
        self.asked = 0
        self.finish = "stop"
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self._complete)

    async def _complete(self, request: Request):
        self.asked += 1
        body = await request.json()
        message = {"role": "assistant", "content": self._verdict(body["messages"][-1]["content"])}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}

    def _verdict(self, prompt):
        first, second = (re.search(rf"<answer_{n}>\n(.*?)\n</answer_{n}>", prompt, re.DOTALL).group(1) for n in (1, 2))
        pair = sorted([first, second])
        rng = random.Random(hashlib.sha256("\0".join(pair).encode()).hexdigest())
        believes, place, length, mumbles = (rng.random() for _ in range(4))
        quality = {text: int(re.search(r"quality=(\d+)", text).group(1)) for text in pair}
        best = max(pair, key=quality.get) if believes < self.accuracy else min(pair, key=quality.get)
        if length < self.length:
            best = max(pair, key=len)
        if place < self.place:
            best = first
        if mumbles < self.mumble:
            return "Both answers have merits, but 1 is mine."
        return "tie" if quality[first] == quality[second] else "1" if best == first else "2"

    def __enter__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *exception):
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


def constitution(**changes):
    floor = Floor(**{"kappa": 0.4, "coverage": 0.5, "comparisons": 50, **changes.pop("floor", {})})
    return Constitution(name="trial", version="1", rubric="assistant-1", principles=("Prefer what is true.",), floor=floor, **changes)


def judged_by_people(count, *, start=0):
    """Comparisons whose better side (higher quality) one person named; lengths have nothing to do with quality."""
    made = []
    for number in range(start, start + count):
        rng = random.Random(number)
        better, longer = rng.choice("ab"), rng.choice("ab")
        texts = {side: f"answer {side} {number} quality={2 if side == better else 1}" + " more" * (9 * (side == longer)) for side in "ab"}
        sides = [(Message("assistant", texts[side]),) for side in "ab"]
        judgement = Judgement("ann", better, "assistant-1")
        made.append(Comparison((Message("user", f"question {number}"),), *sides, (judgement,), id=f"c{number}", source="s"))
    return made
