"""lm-evaluation-harness with log-likelihoods from the token forest.

The harness's `HFLM` passes every choice through the model with its whole context. Here the
requests of a call become forests (`mathsft.models.forest`): their common beginning, the
question or the few-shot examples before it, passes once. Everything else (tasks, prompts,
metrics, cache and logs) is the harness's own.
"""

import copy
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator
from lm_eval.api.registry import register_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.bars import progress
from mathsft.checks import check_numbers, unknown_name
from mathsft.compat import set_rank
from mathsft.evaluation.harness_text import TextLM
from mathsft.evaluation.requests import Request, check_finite, passes, sequences_of, split_shared
from mathsft.models.adapters import load_adapter
from mathsft.models.ahead import made_ahead
from mathsft.models.attention import position_limit, row_limit
from mathsft.models.encoding import pad_token
from mathsft.models.forest import TokenForest
from mathsft.models.isolation import check_isolation
from mathsft.models.likelihood import option_scores
from mathsft.models.loading import adapter_tokenizer, load_model
from mathsft.models.modes import evaluating, ties_untouched
from mathsft.models.sharding import check_not_sharded
from mathsft.processes import processes, say

Score = tuple[float, bool]  # log-likelihood in nats, and whether greedy decoding would write it

ROW_TOKENS = 2048  # in a longer row the mask costs more than a shared beginning saves
# Arguments of HFLM that have an effect on a model that is already loaded.
_HFLM = {
    "max_length", "add_bos_token", "prefix_token_id", "truncation", "logits_cache", "backend",
    "softmax_dtype", "mixed_precision_dtype", "max_batch_size", "think_end_token",
    "enable_thinking", "chat_template_args",
}  # fmt: skip
PASS_TOKENS = {"cpu": 4096, "cuda": 32_768}  # with batch_size="auto"; halved if memory runs out


@register_model("mathsft")
class ForestLM(TextLM):
    """The harness's `HFLM` for causal models; requests that share a context become a forest.

    Args:
        pretrained: "tiny", a folder or a hub name (`load_model`), or a model that is loaded.
        tokenizer: required with a loaded model. With a model's name, the adapter's or the model's
            own is used.
        peft: an adapter's folder or hub name (`load_adapter`, which raises if keys do not
            match; the harness only warns and scores the base).
        quantize: load the base's projections in 4 bits.
        dtype, device, revision, attn_implementation: as in `load_model`.
        batch_size: a pass through the model holds as many tokens as this many of the longest
            requests, and at least 2,048 (or one question). "auto": 4,096 tokens on a CPU, 32,768
            on a GPU, and half of it whenever memory runs out.
        progress_to: where the progress bar is written; default: standard error.
        arguments: further arguments of `HFLM`, such as ``max_length`` or ``add_bos_token``.

    Some requests are scored in the usual way of `HFLM`: those that share no context with another
    one (also rolling log-likelihoods and generation), those longer than the model's
    ``max_length``, and all of them if the model cannot keep the branches of a forest apart.
    Log-softmax is in float32 (the usual way: ``softmax_dtype``).

    In several processes (torchrun), each scores its share of the questions on its own device;
    process 0 gathers the scores (`mathsft.evaluation.requests`).

    Raises:
        ValueError: what `load_model` and `load_adapter` raise; ``peft`` and the like with a
            loaded model; an argument that would be ignored; a log-likelihood that is not finite.
    """

    def __init__(
        self,
        pretrained: str | Path | PreTrainedModel = "tiny",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        peft: str | Path | None = None,
        quantize: bool = False,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        batch_size: int | str | None = "auto",
        progress_to: TextIO | None = None,
        **arguments: Any,
    ) -> None:
        if isinstance(batch_size, str) and not batch_size.startswith("auto"):
            batch_size = int(batch_size)  # from the harness's command line
        check_numbers({"batch_size": batch_size, "max_length": arguments.get("max_length")})
        model: Any = pretrained
        if isinstance(pretrained, str | Path):
            several = int(os.environ.get("WORLD_SIZE", "1")) > 1
            if str(device).startswith("cuda") and (several or not torch.cuda.is_available()):
                device = None  # the harness's command line names a GPU by default
            model, tokenizer = load_model(
                pretrained,
                quantize=quantize,
                dtype=None if dtype == "auto" else dtype,
                device=device,
                revision=revision,
                attn_implementation=attn_implementation,
            )
            if peft is not None:
                model = load_adapter(model, peft)
                tokenizer = adapter_tokenizer(peft, model) or tokenizer
        elif any((peft, quantize, dtype, device, revision, attn_implementation)):
            raise ValueError(
                "peft, quantize, dtype, device, revision and attn_implementation go with a model's "
                "name; this model is already loaded: give them to load_model, and put the adapter "
                "on the model with load_adapter"
            )
        elif tokenizer is None:
            raise ValueError("a loaded model needs its tokenizer: give both")
        for key in arguments:
            if key not in _HFLM:  # HFLM accepts any, and ignores most
                raise ValueError(unknown_name("model argument", key, sorted(_HFLM)))
        batch_size = batch_size or "auto"
        self._pass_size = None if str(batch_size).startswith("auto") else int(batch_size)
        if self._pass_size is None and model.device.type == "cpu":
            batch_size = 8  # for the usual way: trying sizes takes longer here than scoring
        limit, given = position_limit(model.config), arguments.get("max_length")
        if limit is not None and given is not None and int(given) > limit:
            raise ValueError(f"max_length={given}: the model has {limit:,} positions")
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer = copy.deepcopy(tokenizer)  # so the caller's is not changed
        with ties_untouched(model):
            super().__init__(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                revision=revision or "main",
                softmax_dtype=arguments.pop("softmax_dtype", "float32"),
                **arguments,
            )
        state = processes(self.device.type)
        check_not_sharded(self.model)
        if state.num_processes > 1:  # HFLM does this only for models that it loads
            self.accelerator = Accelerator(cpu=self.device.type == "cpu")
            set_rank(self, state.process_index, state.num_processes)
        # The harness records these. It would look an object up as if it were a name.
        self.pretrained = str(getattr(model, "name_or_path", ""))
        self.peft = None if peft is None else str(peft)
        self._apart: bool | None = None
        self._progress_to = progress_to

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Score]:
        requests, longest = list(requests), self.max_length  # the harness looks it up each time
        groups, alone = split_shared(requests, longest=longest, row=row_limit(self.model.config))
        if groups and not self._keeps_apart():
            groups, alone = [], list(range(len(requests)))
        cut = sum(len(c) + len(r) - 1 > longest for _, c, r in requests)
        if cut:
            say(f"{cut} requests exceed max_length={longest}: cut from the left")
        results: dict[int, Score] = {}
        if alone:
            usual = super()._loglikelihood_tokens(
                [requests[i] for i in alone], disable_tqdm, override_bs
            )
            check_finite([requests[i] for i in alone], usual)
            results.update(zip(alone, usual, strict=True))
        bar = progress(
            total=len(requests) - len(alone),
            desc="log-likelihoods",
            delay=5,  # shorter work needs no bar
            to=self._progress_to,
            disable=disable_tqdm or self.rank != 0 or not groups,
        )
        planned = passes(requests, groups, pass_tokens=self._pass_tokens(requests))
        laid_out = ((some, self._laid_out(requests, some)) for some in planned)
        ahead = made_ahead(laid_out, device=self.device)
        with evaluating(self.model), bar, ahead as batches:
            for some, batch in batches:
                for index, score in self._scores(requests, some, batch):
                    check_finite([requests[index]], [score])  # before it gets into the cache
                    results[index] = score
                    if (key := requests[index][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", key, score)
                    bar.update()
        return [results[index] for index in range(len(requests))]

    def _keeps_apart(self) -> bool:
        """Whether the model keeps the branches of a forest apart; checked only once."""
        if self._apart is None:
            self._apart = self.backend == "causal"
            try:
                if self._apart:
                    check_isolation(self.model)
            except ValueError as reason:
                say(f"each request goes through the model on its own: {reason}")
                self._apart = False
        return self._apart

    def _pass_tokens(self, requests: Sequence[Request]) -> int:
        if self._pass_size is None:
            return PASS_TOKENS.get(self.device.type, PASS_TOKENS["cuda"])
        longest = max((len(context) + len(rest) for _, context, rest in requests), default=0)
        return max(ROW_TOKENS, self._pass_size * longest)

    def _laid_out(
        self, requests: Sequence[Request], groups: Sequence[list[int]]
    ) -> dict[str, Tensor]:
        made = [sequences_of(requests, group) for group in groups]
        row = int(min(ROW_TOKENS, row_limit(self.model.config) or math.inf))
        forest = TokenForest.from_groups(made, max_length=row, stretch=True)
        return forest.tensors(pad_token_id=pad_token(self.tokenizer))

    def _scores(
        self, requests: Sequence[Request], groups: list[list[int]], batch: dict[str, Tensor]
    ) -> Iterator[tuple[int, Score]]:
        """Each request of the groups with its score, from one pass, or more if memory runs out."""
        try:
            with torch.autocast(
                self.device.type,
                dtype=self.mixed_precision_dtype,
                enabled=self.mixed_precision_dtype is not None,
            ):
                sums, greedy = option_scores(
                    self.model, {k: v.to(self.device) for k, v in batch.items()}
                )
        except torch.OutOfMemoryError:
            if len(groups) == 1:
                raise
            half = len(groups) // 2
        else:
            scores = zip(sums.tolist(), greedy.tolist(), strict=True)
            yield from zip((i for group in groups for i in group), scores, strict=True)
            return
        for part in (groups[:half], groups[half:]):
            yield from self._scores(requests, part, self._laid_out(requests, part))
