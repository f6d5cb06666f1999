"""Attempts of a model at prompts, judged by a reward; several processes divide the work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from accelerate.utils import gather_object

from mathsft.generation.reward_calls import call_reward
from mathsft.generation.rollouts import Completion, sample_groups
from mathsft.processes import processes
from mathsft.training.attempts import Attempts
from mathsft.training.prompts import Prompts

Reward = Callable[..., Sequence[float]]
Sampler = Callable[..., list[list[Completion]]]


@dataclass(frozen=True)
class Sampling:
    """How attempts are made, and how often they are used (`rollout_trainer`)."""

    num_generations: int = 8
    max_new_tokens: int = 256
    top_p: float = 1.0
    batch_size: int = 512
    num_iterations: int = 1
    resample: int = 0
    importance_sampling_cap: float = 2.0


def attempted(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Mapping[str, Any]],
    prompts: Prompts,
    reward: Reward | None,
    *,
    sampling: Sampling,
    temperature: float,
    seed: int,
    state: Any = None,
    sampler: Sampler | None = None,
) -> tuple[list[Attempts], dict[str, float]]:
    """Answer prompts and judge the answers; also return what the reward logs of its parts.

    In several processes each gives the same ``asked`` (rows of ``prompts.table``) and gets all
    answers and rewards. Each judges its share; an error in one is raised in all, because the
    others would wait for it. Without a reward, all are 0. ``state`` is the trainer's, for rewards
    that read it, as in TRL.
    """
    ids = [list(row["input_ids"]) for row in asked]
    numbers = [row["row"] for row in asked]
    write = sample_groups if sampler is None else sampler
    written = write(
        model,
        tokenizer,
        ids,
        num_generations=sampling.num_generations,
        temperature=temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        batch_size=sampling.batch_size,
        seed=seed,
        numbers=numbers,
    )
    among = processes(model.device.type)
    share = range(len(asked))[among.process_index :: among.num_processes]
    notes: dict[str, float] = {}
    given: dict[int, list[float]] = {}
    failure: Exception | None = None
    try:
        own = [numbers[place] for place in share], [written[place] for place in share]
        values = _rewards(reward or _zeros, *own, prompts, state=state, notes=notes)
        given = dict(zip(share, values, strict=True))
    except Exception as error:
        failure = error
    shares = gather_object([(given, notes, failure)])
    for *_, failed in shares:
        if failed is not None:
            raise failed
    rewards = {place: values for part, *_ in shares for place, values in part.items()}
    told: dict[str, float] = {}
    for part, noted, _ in shares:  # weighted by how many prompts each process judged
        for name, value in noted.items():
            told[name] = told.get(name, 0.0) + value * len(part) / len(asked)
    groups = [
        Attempts(number, tokens, answers, rewards[place])
        for place, (number, tokens, answers) in enumerate(zip(numbers, ids, written, strict=True))
    ]
    return groups, told


def _zeros(completions: Sequence[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _rewards(
    reward: Reward,
    numbers: Sequence[int],
    groups: Sequence[Sequence[Completion]],
    prompts: Prompts,
    *,
    state: Any,
    notes: dict[str, float],
) -> list[list[float]]:
    answers = [one for group in groups for one in group]
    if not answers:
        return []
    each = [number for number, group in zip(numbers, groups, strict=True) for _ in group]
    asked = [prompts.prompts[number] for number in each]
    texts: list[Any] = [one.text for one in answers]
    if not isinstance(asked[0], str):  # conversations: as TRL gives them
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    values = iter(
        call_reward(
            reward,
            prompts=asked,
            completions=texts,
            completion_ids=[one.input_ids for one in answers],
            ended=[one.ended for one in answers],
            trainer_state=state,
            log_metric=notes.__setitem__,
            **prompts.columns(each),  # type: ignore[arg-type]
        )
    )
    return [list(islice(values, len(group))) for group in groups]
