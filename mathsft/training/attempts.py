"""A model's attempts at prompts: judged, described in numbers, and made into rows to learn from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mathsft.files import read_json
from mathsft.generation.rollouts import Completion
from mathsft.models.forest import IGNORE
from mathsft.objectives.advantages import has_signal


@dataclass(frozen=True)
class Attempts:
    """The answers to one prompt, with one reward each."""

    row: int
    prompt_ids: list[int]
    completions: list[Completion]
    rewards: list[float]

    @property
    def has_signal(self) -> bool:
        return has_signal(self.rewards)

    def as_row(self, advantages: Sequence[float] = ()) -> dict[str, Any]:
        """The row that an objective learns from. The tokens are those that were sampled."""
        prompt = self.prompt_ids
        return {
            "input_ids": [[*prompt, *one.input_ids] for one in self.completions],
            "labels": [[*[IGNORE] * len(prompt), *one.input_ids] for one in self.completions],
            "old": [one.logprobs for one in self.completions],
            "ended": [one.ended for one in self.completions],
            "advantages": list(advantages),
        }


def described(groups: Sequence[Attempts], *, judged: bool = True) -> dict[str, float]:
    """What is logged about a step's attempts, by TRL's names where it has them.

    ``reward`` and ``reward_std``: the mean, and the mean of the groups' standard deviations;
    ``frac_reward_zero_std``: the share of groups without signal; ``entropy``: the mean of
    -log p of the sampled tokens, in nats, an unbiased estimate of the entropy per token;
    ``completions/mean_length`` in tokens; ``completions/ended``: the share that stopped by itself.
    Without a reward (``judged``) the first three are left out.
    """
    answers = [one for group in groups for one in group.completions]
    tokens = [value for one in answers for value in one.logprobs]
    spreads = [stdev(group.rewards) for group in groups if len(group.rewards) > 1]
    of_rewards = {
        "reward": fmean(reward for group in groups for reward in group.rewards),
        "reward_std": fmean(spreads) if spreads else 0.0,
        "frac_reward_zero_std": fmean(not group.has_signal for group in groups),
    }
    return {
        **(of_rewards if judged else {}),
        "entropy": -fmean(tokens) if tokens else 0.0,
        "completions/mean_length": fmean(len(one.input_ids) for one in answers),
        "completions/ended": fmean(one.ended for one in answers),
    }


_ENDED = 0.2  # of a step's answers, so that a few that end by chance do not count


@dataclass
class CollapseWatch:
    """Notices that nothing is learned any more: no answer is rewarded, or none ends as before.

    ``patience``: how many steps in a row that must be so.
    """

    patience: int = 3
    quiet: int = 0
    best_reward: float = 0.0
    best_ended: float = 0.0

    def update(self, found: dict[str, float]) -> str:
        """Take a step's numbers (`described`); return why training should stop, or ""."""
        reward, ended = found["reward"], found["completions/ended"]
        self.best_reward = max(self.best_reward, reward)
        self.best_ended = max(self.best_ended, ended)
        silent = found["frac_reward_zero_std"] == 1 and reward <= 0
        endless = ended == 0 and self.best_ended >= _ENDED
        self.quiet = self.quiet + 1 if silent or endless else 0
        return self._advice(ended) if self.quiet == self.patience else ""

    def _advice(self, ended: float) -> str:
        times = f"in the last {self.patience} steps"
        if ended == 0 and self.best_ended >= _ENDED:
            what = f"no answer ended {times}; before, up to {self.best_ended:.0%} of a step's did"
        elif self.best_reward > 0:
            what = f"no answer was rewarded {times}; before, the mean was up to "
            what += f"{self.best_reward:.2f}"
        else:
            what = f"no answer was rewarded {times}"
        if self.best_reward > 0:
            return (
                f"{what}. The model has collapsed, and there is nothing left to learn from. What "
                "usually helps: half the learning_rate, five or more warmup_steps, one update per "
                "rollout (num_iterations=1), a KL penalty (beta=0.04). Load the model again, or go "
                "back to a checkpoint from before"
            )
        return (
            f"{what}, and none before. There is nothing to learn from. Look at a few answers: a "
            "model that never succeeds needs examples first (SFT on a few solutions), easier "
            "prompts, more num_generations, or more max_new_tokens; or the reward expects another "
            "format"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)


def kept_attempts(path: Path) -> tuple[list[dict[str, Any]], CollapseWatch]:
    """The rows and the watch that a checkpoint keeps. Raises ValueError, with the file."""
    kept = read_json(path)
    try:
        return [dict(row) for row in kept["rows"]], CollapseWatch(**kept["watch"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not the attempts of a step ({error!r})") from None
