"""A served model that writes in place of the model itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mathsft.checks import ABOVE_0, check_number
from mathsft.generation.rollouts import Completion
from mathsft.generation.served import groups_from_server
from mathsft.processes import in_first


@dataclass(frozen=True)
class Server:
    """Writes in place of the model itself.

    It writes attempts for `rollout_trainer` (``sampler``), and answers for `generate` and
    `worked_answers` (``server``).

    For training, the server must have the weights of the trained model. So give it the new ones
    between steps (in vLLM: save the adapter, then ``POST /v1/load_lora_adapter``). If its
    log-probabilities are further from ours than ``limit``, training stops with an error; smaller
    differences are corrected (`mathsft.generation.mismatch`).

    Args:
        base_url: as of `served_groups`.
        name: the model's name on the server.
        server: what answers there; default: as it says itself. ``transformers`` (``transformers
            serve``) can only answer greedily: it returns no token ids and log-probabilities.
        concurrency: prompts that are asked at the same time.
        timeout: seconds to wait for the answers to one prompt.
        limit: nats per token, the mean of absolute differences.
    """

    base_url: str
    name: str
    server: Literal["vllm", "sglang", "transformers"] | None = None
    concurrency: int = 8
    timeout: float = 600.0
    limit: float = 0.02

    def __post_init__(self) -> None:
        check_number("limit", self.limit, ABOVE_0)

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[Any],
        *,
        batch_size: int,
        **sampling: Any,
    ) -> list[list[Completion]]:
        """As `sample_groups`, and greedy at temperature 0. In several processes, the first asks for
        all. ``model`` says on which device the processes talk; None: on the CPU.
        """
        return in_first(
            lambda: groups_from_server(
                self.base_url,
                tokenizer,
                prompts,
                model=self.name,
                server=self.server,
                concurrency=self.concurrency,
                timeout=self.timeout,
                **sampling,
            ),
            device="cpu" if model is None else model.device.type,
        )
