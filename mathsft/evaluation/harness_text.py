"""How the harness's `HFLM` treats text: prompts as in training, and greedy answers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import LogitsProcessorList

from mathsft.evaluation.requests import in_full_precision
from mathsft.models.continued import encode_continued
from mathsft.models.encoding import special_ends
from mathsft.models.greedy import FiniteLogits, own_generation, say_ignored
from mathsft.processes import say


class TextLM(HFLM):
    """Encodes and generates by the same rules as training, samples and worked answers.

    - A prompt never ends with the stop token (``add_eos_token=True``): nothing could follow it.
    - Generation uses our own configuration (`mathsft.models.greedy.own_generation`). The harness
      would keep the repetition penalties and beams of the checkpoint's generation config, even in
      tasks that ask for greedy answers. What the task itself asks for still counts.
    - It ends at `mathsft.models.encoding.stop_tokens`, and at the task's own ``until``.
    - Prompts that leave no room for an answer are cut; a printed line says how many.

    Raises ValueError if the logits of an answer are not finite.
    """

    _encoded: Mapping[str, list[int]] = {}  # what `loglikelihood` has encoded, while it runs

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """As in the harness, but texts are tokenized together, and each context only once."""
        bos = self.tokenizer.decode(self.prefix_token_id)
        continuations: dict[str, dict[str, None]] = {}
        for context, more in (request.args for request in requests):
            own = context.rstrip()
            # The harness itself encodes a text that already begins with the first token.
            if own and not (context + more).startswith(bos):
                continuations.setdefault(own, {})[context[len(own) :] + more] = None
        found = encode_continued(
            self.tokenizer,
            [(own, [*some]) for own, some in continuations.items()],
            encode=self._encode_batch,
        )
        encoded = {own: ids for own, (ids, _) in zip(continuations, found, strict=True)}
        for (own, some), (_, wholes) in zip(continuations.items(), found, strict=True):
            encoded.update(zip((own + more for more in some), wholes, strict=True))
        self._encoded = encoded
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._encoded = {}

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        special = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        encoded = self.tokenizer([*texts], **special).input_ids if texts else []
        return [self.without_ending(ids) for ids in encoded]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **arguments: Any
    ) -> list[int]:
        """As in the harness, without the stop token that some tokenizers put after a text."""
        if add_special_tokens is None and not arguments and string in self._encoded:
            return self._encoded[string]
        ids: list[int] = super().tok_encode(string, add_special_tokens, **arguments)
        return ids if add_special_tokens is False else self.without_ending(ids)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As in the harness, but says how many prompts are cut from the left."""
        ids, seen = super().tok_batch_encode(strings, padding_side, None, truncation)
        kept = len(self.without_ending(ids[0].tolist()))
        if padding_side == "left":
            ids, seen = ids[:, :kept], seen[:, :kept]
        if left_truncate_len and ids.shape[1] > left_truncate_len:
            cut = int((seen.sum(1) > left_truncate_len).sum())
            say(
                f"{cut} prompts exceed the {left_truncate_len:,} tokens that leave room for an "
                f"answer (max_length={self.max_length}): cut from the left"
            )
            ids, seen = ids[:, -left_truncate_len:], seen[:, -left_truncate_len:]
        return ids, seen

    @cached_property
    def _ends_with(self) -> list[int]:
        """The tokens that the tokenizer puts after each text."""
        return [] if self.add_bos_token is False else special_ends(self.tokenizer)[1]

    def without_ending(self, ids: list[int]) -> list[int]:
        """``ids`` without the tokens that the tokenizer added at the end."""
        last = self._ends_with
        return ids[: -len(last)] if last and ids[-len(last) :] == last else ids

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in the harness, with our own generation configuration.

        Raises ValueError for settings that make `generate` run the code of a repository.
        """
        for key in ("custom_generate", "trust_remote_code"):
            if any(key in request.args[1] for request in requests):
                raise ValueError(
                    f"{key} runs code of a repository: remove it (gen_kwargs, or the "
                    "task's generation_kwargs)"
                )
        say_ignored(self.model)
        with own_generation(self.model, self.tokenizer):
            answers: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return answers

    def _model_generate(self, context: Tensor, *arguments: Any, **generation: Any) -> Tensor:
        watch = FiniteLogits()
        generation["logits_processor"] = LogitsProcessorList([watch])
        written: Tensor = super()._model_generate(context, *arguments, **generation)
        if broken := watch.broken:
            prompt = self.tok_decode(context[broken[0]].tolist())
            raise ValueError(
                f"the logits after {prompt[-80:]!r} are not finite, so no answer counts. Either "
                "the model's weights are not finite, or half precision overflows: "
                + in_full_precision()
            )
        return written
