"""A reward for following instructions that can be checked, such as "use no comma" (IFEval).

Zhou et al. 2023, arXiv:2311.07911. The checkers are those of lm-evaluation-harness, so that the
reward judges as the evaluation does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mathsft.checks import unknown_name
from mathsft.data.messages import content_text
from mathsft.generation.reward_calls import Reward, Row


@dataclass(frozen=True)
class InstructionFollowing(Reward):
    """Whether a completion follows the instructions of its row, by the harness's IFEval checkers.

    The columns are those of the data set ``google/IFEval``: ``instruction_id_list``, and
    ``kwargs`` with a mapping of settings for each instruction. An empty completion gets 0.

    Args:
        score: "all": 1 if all instructions are followed, otherwise 0; "share": the share that is
            followed, which says more about a completion that follows some.
        strict: False: the completion may also follow them without its first or last line, or
            without asterisks, as in IFEval's loose accuracy. Train with True: what the loose check
            takes away, a reader still sees.

    It needs ``pip install langdetect immutabledict nltk``, and nltk's data ``punkt_tab``. Neither
    is fetched here. Calling it raises RewardError, with the row, if one of them is missing, for an
    unknown instruction, and for a setting that is missing or 0: the harness would draw it at
    random.
    """

    name = "instruction_following"

    score: Literal["all", "share"] = "all"
    strict: bool = True

    def __post_init__(self) -> None:
        if self.score not in ("all", "share"):
            raise ValueError(unknown_name("score", self.score, ("all", "share")))

    def value(self, text: str, row: Row) -> float:
        followed = followed_instructions(
            text,
            row["instruction_id_list"],
            row["kwargs"],
            prompt=row.get("prompts", ""),
            strict=self.strict,
        )
        return float(all(followed)) if self.score == "all" else sum(followed) / len(followed)


def followed_instructions(
    text: str,
    instructions: list[str],
    settings: list[Mapping[str, Any]],
    *,
    prompt: Any = "",
    strict: bool = True,
) -> list[bool]:
    """Say of each instruction whether a text follows it.

    The same text gets the same verdict each time: langdetect, which draws at random, gets a seed.

    Args:
        text: the completion.
        instructions: names of IFEval's instructions, such as "punctuation:no_comma".
        settings: as many mappings; a setting of None counts as not given.
        prompt: the prompt, a text or messages.
        strict: see `InstructionFollowing`.

    Raises ValueError if a package or its data are missing, for an unknown instruction, for another
    number of settings than instructions, and for a setting that is missing or 0.
    """
    utils, known = _harness()
    if not instructions or len(instructions) != len(settings):
        raise ValueError(
            f"instruction_id_list has {len(instructions)} names and kwargs {len(settings)} "
            "mappings; give at least one instruction, and a mapping for each"
        )
    for name, given in zip(instructions, settings, strict=True):
        if name not in known:
            raise ValueError(unknown_name("instruction", name, known, shown=8))
        needed = known[name](name).get_instruction_args_keys()
        if missing := [key for key in needed if not (given or {}).get(key)]:
            raise ValueError(
                f"the instruction {name!r} needs {', '.join(missing)} in kwargs; without a value "
                "the harness would draw one at random"
            )
    if not isinstance(prompt, str):
        prompt = content_text(prompt[-1]["content"]) if prompt else ""
    row = utils.InputExample(
        key=0,
        instruction_id_list=list(instructions),
        prompt=prompt,
        kwargs=[dict(given or {}) for given in settings],
    )
    check = utils.test_instruction_following_strict
    if not strict:
        check = utils.test_instruction_following_loose
    return list(_seeded(check, row, text).follow_instruction_list)


def _seeded(check: Any, row: Any, text: str) -> Any:
    from langdetect import DetectorFactory

    before, DetectorFactory.seed = DetectorFactory.seed, 0
    try:
        return check(row, text)
    finally:
        DetectorFactory.seed = before


def _harness() -> tuple[Any, Mapping[str, Any]]:
    """The harness's module and its checkers. Its import would fetch data: look for them first."""
    try:
        import immutabledict  # noqa: F401
        import langdetect  # noqa: F401
        import nltk
    except ImportError as error:
        raise ValueError(
            f"the package {error.name!r} is missing, which the checkers of instructions need: "
            'pip install "lm_eval[ifeval]"'
        ) from error
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise ValueError(
            "nltk's data 'punkt_tab' are missing, which the checkers of instructions need: run "
            "python -m nltk.downloader punkt_tab once, with network"
        ) from None
    from lm_eval.tasks.ifeval import utils
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    return utils, INSTRUCTION_DICT
