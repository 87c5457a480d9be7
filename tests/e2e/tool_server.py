"""A small OpenAI-compatible server that offers tools: a LocalGenerator behind HTTP, its turns read by its own contract."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from posttrain.data import conversations
from posttrain.records import GenerationRequest, SamplingSettings


class ToolServer:
    """``url`` while it is open. Requests are answered one after the other."""

    def __init__(self, generator):
        busy = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with busy:
                    payload = json.dumps(complete(generator, body)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def complete(generator, body):
    """The JSON of an answer."""
    messages = tuple(conversations.messages(body["messages"], "messages"))
    request = GenerationRequest(messages, tuple(body.get("tools") or ()), SamplingSettings(body["max_tokens"]))
    [answer] = generator.generate([request])
    turn = generator.contract.parse_turn(answer.token_ids)
    message = {"role": "assistant", "content": turn.content or None}
    if turn.calls:
        message["tool_calls"] = [
            {"id": f"call_{n}", "type": "function", "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))}}
            for n, call in enumerate(turn.calls)
        ]
    usage = {"prompt_tokens": answer.num_prompt_tokens, "completion_tokens": answer.num_completion_tokens}
    reason = "tool_calls" if turn.calls else answer.finish_reason
    return {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}
