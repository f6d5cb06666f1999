"""A small server with the forms of vLLM, SGLang and `transformers serve`; a real model writes.

It stands in for the protocol's other end; the answers are those of `generate`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from mathsft.data.prompts import sft_prompt
from mathsft.generation.generate import generate
from mathsft.generation.mismatch import answer_logprobs
from mathsft.generation.rollouts import Completion
from mathsft.models.encoding import encode_prompts

PROMPTS = ["2 + 3 =", sft_prompt("Tom has 3 pens and buys 2. How many has he?"), "Ann has 12 cats"]
HOW: Any = {"model": "tiny", "num_generations": 3, "max_new_tokens": 8}


class Server(ThreadingHTTPServer):
    """Answers like a server of this ``kind``; ``spoil`` may change an answer before it is sent."""

    daemon_threads = True

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "tiny", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name = name
        self.model, self.tokenizer = model, tokenizer
        self.texts = {tuple(encode_prompts(tokenizer, [text])[0]): text for text in PROMPTS}
        self.lock = threading.Lock()
        self.renew("vllm")

    def renew(self, kind: str) -> "Server":
        self.kind, self.spoil, self.bodies, self.keys = kind, None, [], []  # type: ignore[var-annotated]
        self.raw = False  # log-probabilities at temperature 1, vLLM's default
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def write(self, ids: list[int], n: int, seed: int, how: Any, tokens: int) -> list[Completion]:
        text = self.texts.get(tuple(ids), ids)
        with self.lock:
            (group,) = generate(
                self.model, self.tokenizer, [text], num_generations=n, seed=seed,
                temperature=how["temperature"], top_p=how["top_p"], max_new_tokens=tokens,
            )  # fmt: skip
            if self.raw:
                (values,) = answer_logprobs(self.model, self.tokenizer, [text], [group])
                pairs = zip(group, values, strict=True)
                group = [Completion(g.input_ids, g.text, g.ended, v) for g, v in pairs]
        return group

    def told(self, ids: list[int]) -> list[tuple[float, int, float, int]]:
        """After each token: the next one's log-probability and id, and those of the likeliest."""
        with self.lock, torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, :-1]
        values = logits.float().log_softmax(-1)
        best, at = values.max(-1)
        own = values.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return list(zip(own.tolist(), ids[1:], best.tolist(), at.tolist(), strict=True))

    def vllm(self, body: Any) -> Any:
        if body.get("echo"):
            told = self.told(body["prompt"])
            logprobs = {  # the last entry is that of the one token that is written
                "token_logprobs": [None, *(own for own, *_ in told), -0.5],
                "top_logprobs": [
                    None,
                    *({str(i): v, str(j): best} for v, i, best, j in told),
                    {"x": -0.5},
                ],
            }
            choice = {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": "length"}
            return {"object": "text_completion", "choices": [choice]}
        group = self.write(body["prompt"], body["n"], body["seed"], body, body["max_tokens"])
        choices = [
            {
                "index": index, "text": cut(answer.text, body), "token_ids": answer.input_ids,
                "logprobs": {"token_logprobs": answer.logprobs},
                "finish_reason": "stop" if answer.ended else "length", "stop_reason": None,
            }
            for index, answer in enumerate(group)
        ]  # fmt: skip
        return {"object": "text_completion", "choices": choices[::-1]}

    def sglang(self, body: Any) -> Any:
        found = []
        if "logprob_start_len" in body:
            for ids in body["input_ids"]:
                told = self.told(ids)
                about = {
                    "input_token_logprobs": [
                        [None, ids[0], None],
                        *([v, i, None] for v, i, *_ in told),
                    ],
                    "input_top_logprobs": [None, *([[best, j, None]] for *_, best, j in told)],
                }
                found.append({"text": "", "meta_info": about})
            return found
        for ids, how in zip(body["input_ids"], body["sampling_params"], strict=True):
            (answer,) = self.write(ids, 1, how["sampling_seed"], how, how["max_new_tokens"])
            pairs = zip(answer.logprobs, answer.input_ids, strict=True)
            about = {
                "output_token_logprobs": [[value, token, None] for value, token in pairs],
                "finish_reason": {"type": "stop" if answer.ended else "length"},
            }
            found.append({"text": cut(answer.text, how), "meta_info": about})
        return found

    def transformers(self, body: Any) -> Any:
        # As in transformers 5.23: fields that it does not know are refused, ids not returned.
        assert body.keys() <= {"model", "prompt", "temperature", "generation_config", "stop"}
        config = json.loads(body["generation_config"])
        assert (config["do_sample"], body["temperature"]) == (False, 0.0)
        ids = self.tokenizer(body["prompt"]).input_ids
        how = {"temperature": 0.0, "top_p": 1.0}
        (answer,) = self.write(ids, 1, 0, how, config["max_new_tokens"])
        finish = "stop" if answer.ended else "length"
        text = cut(answer.text, body, kept=True)
        return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}

    def chat(self, body: Any) -> Any:
        ids = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_dict=False
        )
        (answer,) = self.write(ids, 1, body["seed"], body, body["max_tokens"])
        message = {"role": "assistant", "content": cut(answer.text, body)}
        finish = "stop" if answer.ended else "length"
        return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}

    def tokenize(self, body: Any) -> Any:
        special = body["add_special_tokens"]
        return {"tokens": self.tokenizer(body["prompt"], add_special_tokens=special).input_ids}


def cut(text: str, how: Any, *, kept: bool = False) -> str:
    """An answer up to the first text to stop at; transformers leaves that text in it."""
    for stop in how.get("stop") or ():
        before, found, _ = text.partition(stop)
        text = before + found if kept else before
    return text


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.reply({"status": "ok"})
        cards = [{"id": self.server.name, "owned_by": self.server.kind, "max_model_len": 512}]
        self.reply({"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        texts = self.server.transformers if self.server.kind == "transformers" else self.server.vllm
        paths = {
            "/v1/completions": texts,
            "/v1/chat/completions": self.server.chat,
            "/generate": self.server.sglang,
            "/tokenize": self.server.tokenize,
        }
        self.reply(paths[self.path](body))

    def reply(self, found: Any) -> None:
        status = 200
        if self.server.spoil and self.command == "POST":
            status, found = self.server.spoil(found)
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(model: Any, tokenizer: Any) -> Iterator[Server]:
    server = Server(model, tokenizer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":  # a server of its own: MODEL PORT
    import sys

    from mathsft.models.loading import load_model

    Server(*load_model(sys.argv[1]), name=sys.argv[1], port=int(sys.argv[2])).serve_forever()
