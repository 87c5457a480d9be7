"""A small OpenAI-compatible server over a LocalGenerator, on loopback, for the tests of the endpoint generator."""

import asyncio
import socket
import threading
import time

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from posttrain.data import conversations
from posttrain.records import GenerationRequest, SamplingSettings


class TestServer:
    """``faults``: responses (status, headers) or seconds of silence given, in order, before the server begins to answer."""

    __test__ = False

    def __init__(self, generator):
        self.generator = generator
        self.faults: list = []
        self.requests: list[dict] = []
        self.most_together = self._together = 0
        self.delay_seconds = 0.0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self._complete)
        self._busy = threading.Lock()

    async def _complete(self, request: Request):
        body = await request.json()
        self.requests.append({**body, "authorization": request.headers.get("authorization")})
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, float):
                await asyncio.sleep(fault)
            elif isinstance(fault, str):
                return JSONResponse({"hello": fault})
            else:
                status, headers = fault
                return JSONResponse({"error": {"message": f"fault {status}"}}, status_code=status, headers=headers)
        self._together += 1
        self.most_together = max(self.most_together, self._together)
        await asyncio.sleep(self.delay_seconds)
        answer = await asyncio.to_thread(self._answer, body)
        self._together -= 1
        return answer

    def _answer(self, body):
        sampling = SamplingSettings(
            max_new_tokens=body.get("max_tokens") or 16,
            temperature=body.get("temperature", 1.0),
            top_p=body.get("top_p", 1.0),
            top_k=body.get("top_k", 0),
            stop=tuple(body.get("stop") or ()),
            seed=body.get("seed") or 0,
            logprobs=bool(body.get("logprobs")),
        )
        with self._busy:
            [answer] = self.generator.generate([GenerationRequest(conversations.messages(body["messages"], "messages"), sampling=sampling)])
        choice = {"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": answer.finish_reason}
        if answer.logprobs:
            choice["logprobs"] = {
                "content": [{"token": str(t), "logprob": p} for t, p in zip(answer.token_ids, answer.logprobs, strict=True)]
            }
        usage = {"prompt_tokens": answer.num_prompt_tokens, "completion_tokens": answer.num_completion_tokens}
        usage["total_tokens"] = sum(usage.values())
        return {"id": "c1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}

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
