"""A served model in lm-evaluation-harness: a server scores and writes in place of the model.

Prompts have the tokens that the model itself would get, and a request says all that a server could
fill from the checkpoint's generation config. Nothing is cut, left out or replaced without a line
or an error.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TextIO, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mathsft.bars import progress
from mathsft.generation.served import answers_of, as_text
from mathsft.generation.server_forms import Ask, ServerError
from mathsft.generation.server_scores import Score, continuation_score
from mathsft.models.encoding import encode_prompts, stop_tokens
from mathsft.processes import say

Kind = Literal["vllm", "sglang", "transformers", "chat"]
T = TypeVar("T")

_SAMPLING = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


class ServedLM(TemplateLM):
    """The harness's model whose log-likelihoods and answers come from a server.

    `mathsft.evaluation.served.served_lm` makes it, after checks.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        name: str,
        kind: Kind,
        tokenizer: Any,
        max_length: int | None,
        seed: int,
        concurrency: int,
        progress_to: TextIO | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.kind, self.max_length = tokenizer, kind, max_length
        self._ask, self._name, self._seed = ask, name, seed
        self._concurrency, self._progress_to = concurrency, progress_to

    @property
    def eot_token_id(self) -> Any:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> Any:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", ""))

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """As our own models encode a prompt (`mathsft.models.encoding.encode_prompts`)."""
        if add_special_tokens is False:
            ids: list[int] = self.tokenizer(string, add_special_tokens=False).input_ids
            return ids
        return encode_prompts(self.tokenizer, [string])[0]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as a prompt; for a server of chats, as JSON."""
        if self.kind == "chat":
            return json.dumps(chat_history)
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's; a server of chats has its own."""
        return "" if self.kind == "chat" else super().chat_template(chat_template)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[Score]:
        # The server writes one token after the text, and that has to fit too.
        longest = None if self.max_length is None else self.max_length - 1
        if longest is not None and (cut := sum(len(c) + len(r) > longest for _, c, r in requests)):
            say(f"{cut} requests exceed the server's {longest:,} tokens: cut from the left")

        def score(request: Any) -> Score:
            _, context, continuation = request
            if longest is not None:
                continuation = continuation[-(longest - 1) :]
                context = context[-(longest - len(continuation)) :]
            return continuation_score(self._ask, self.kind, context, continuation, model=self._name)

        return self._each(score, requests, "log-likelihoods", disable=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """As in the harness's own models: a text in windows, each token scored once."""
        found = []
        for (text,) in (request.args for request in requests):
            ids = self.tok_encode(text)
            windows = get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=(self.max_length or len(ids) + 3) - 2,
                context_len=1,
            )
            asked = [(None, *make_disjoint_window(window)) for window in windows]
            found.append(sum(score for score, _ in self._loglikelihood_tokens(asked, True)))
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As our own models: greedy unless the task says otherwise, to the task's own ``until``."""
        eos = self.tokenizer.decode([self.eot_token_id]) if self.tokenizer else None
        jobs = []
        for number, (context, gen_kwargs) in enumerate(request.args for request in requests):
            how = dict(normalize_gen_kwargs(gen_kwargs, 256))
            if other := sorted(how.keys() - _SAMPLING):
                raise ValueError(f"{', '.join(other)}: not sent to a server: leave it out")
            until = handle_stop_sequences(how["until"], eos)
            jobs.append((self._prompt(context, how["max_gen_toks"]), how, until, number))
        if cut := sum(job[0][1] for job in jobs):
            say(
                f"{cut} prompts exceed what leaves room for an answer (max_length="
                f"{self.max_length}): cut from the left"
            )
        return self._each(self._written, jobs, "answers", disable=disable_tqdm)

    def _prompt(self, context: str, new: int) -> tuple[Any, bool]:
        """What the server gets, and whether it was cut."""
        if self.kind == "chat":
            try:
                return json.loads(context), False
            except ValueError:
                raise ValueError(
                    "a server of chats gets conversations: apply_chat_template=True"
                ) from None
        ids = self.tok_encode(context)
        room = len(ids) if self.max_length is None else self.max_length - new
        if room <= 0:
            raise ValueError(
                f"the task asks for answers of up to {new:,} tokens, but prompt and answer have "
                f"{self.max_length:,} together: gen_kwargs={{'max_gen_toks': …}} asks for fewer"
            )
        kept = ids[-room:]
        if self.kind == "transformers":
            return as_text(kept, self.tokenizer, where=repr(context[-60:])), len(kept) < len(ids)
        return kept, len(kept) < len(ids)

    def _written(self, job: Any) -> str:
        (prompt, _), how, until, number = job
        sampling = {
            "temperature": how.get("temperature", 0.0),
            "top_p": how.get("top_p", 1.0),
            "stop": [text for text in until if text],
            "stop_token_ids": stop_tokens(None, self.tokenizer) if self.tokenizer else [],
        }
        if self.kind == "transformers" and sampling["temperature"]:
            raise ServerError("transformers serve answers greedily here: leave temperature out")
        (answer,) = answers_of(
            self.kind, self._ask, prompt, self._seed + number, model=self._name, n=1,
            max_new_tokens=how["max_gen_toks"], sampling=sampling,
        )  # fmt: skip
        if answer["finish"] not in ("stop", "length"):
            raise ServerError(f"the server broke off an answer ({answer['finish']!r})")
        if not isinstance(answer["text"], str):
            raise ServerError(
                "the server's answer has no text (a model that thinks may have used up its tokens: "
                "give more, by gen_kwargs={'max_gen_toks': …})"
            )
        cut: str = postprocess_generated_text(answer["text"], stop=until, think_end_token=None)
        return cut

    def _each(
        self, work: Callable[[Any], T], jobs: Sequence[Any], what: str, *, disable: bool
    ) -> list[T]:
        """What the server gives for each, in order; after an error, no further one is asked."""
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            done = pool.map(work, jobs)
            return list(
                progress(
                    done, total=len(jobs), desc=what, delay=5, to=self._progress_to, disable=disable
                )
            )  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)
