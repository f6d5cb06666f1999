"""Group the harness's requests for forests, divide them among processes, and run it quietly."""

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import cache
from io import StringIO
from typing import Any, TextIO, TypeAlias

import lm_eval.evaluator
import lm_eval.utils
from jinja2 import Environment, Template
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.task import Task

from mathsft.compat import keep_requests, replaced
from mathsft.models.forest import IGNORE, TokenSequence
from mathsft.models.paths import common_start
from mathsft.models.template_bounds import bounded, check_template
from mathsft.models.template_sizes import TemplateBoundError
from mathsft.told import advice

# (context, continuation) as text, or None in rolling requests; then the token ids of each.
Request: TypeAlias = tuple[tuple[str, str] | None, list[int], list[int]]


def split_shared(
    requests: Sequence[Request], *, longest: int, row: int | None = None
) -> tuple[list[list[int]], list[int]]:
    """Group the requests that have the same context; return the groups and the others, as indices.

    The others are requests with a context of their own, with more than ``longest`` tokens, without
    a continuation, without a text (the windows of a rolling log-likelihood), or in a group with
    more tokens than a ``row`` may have.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, (text, context, continuation) in enumerate(requests):
        fits = len(continuation) > 0 and 0 < len(context) + len(continuation) - 1 <= longest
        if fits and context and text is not None:
            by_context.setdefault(tuple(context), []).append(index)
    groups = [
        group
        for group in by_context.values()
        if len(group) > 1 and (row is None or _size(requests, group) <= row)
    ]
    shared = {index for group in groups for index in group}
    return groups, [index for index in range(len(requests)) if index not in shared]


def sequences_of(requests: Sequence[Request], group: Sequence[int]) -> list[TokenSequence]:
    """The group's requests for a `TokenForest`; only the continuation is scored."""
    return [
        {
            "input_ids": requests[i][1] + requests[i][2],
            "labels": [IGNORE] * len(requests[i][1]) + requests[i][2],
        }
        for i in group
    ]


def passes(
    requests: Sequence[Request], groups: Sequence[list[int]], *, pass_tokens: int
) -> Iterator[list[list[int]]]:
    """Yield the groups of each pass through the model: about ``pass_tokens`` tokens, or one group.

    Contexts with at least the first half in common (the same few-shot examples, or those of one
    subject) get passes of their own if that saves enough: their rows then hold the common
    beginning once. All others are ordered by length, since rows of equal length need no padding.
    The longest come first, so a lack of memory shows at once.
    """
    kin: list[list[list[int]]] = []
    before: list[int] = []
    for group in sorted(groups, key=lambda group: requests[group[0]][1]):
        context = requests[group[0]][1]
        if kin and 2 * common_start(before, context) >= min(len(before), len(context)):
            kin[-1].append(group)
        else:
            kin.append([group])
        before = context
    apart, others = [], []
    for family in kin:
        # In sorted order, all contexts begin with what the first and the last have in common.
        trunk = common_start(requests[family[0][0]][1], requests[family[-1][0]][1])
        if trunk * (len(family) - 1) >= pass_tokens // 8:
            apart.append((trunk, family))
        else:
            others += family
    for trunk, family in [*apart, (0, others)]:
        sized = [(_size(requests, group) - trunk, group) for group in family]
        some: list[list[int]] = []
        total = trunk
        for size, group in sorted(sized, key=lambda pair: -pair[0]):
            if some and total + size > pass_tokens:
                yield some
                some, total = [], trunk
            some.append(group)
            total += size
        if some:
            yield some


def _size(requests: Sequence[Request], group: Sequence[int]) -> int:
    """Tokens of a group: its context once, and its continuations as if they shared no tokens."""
    return len(requests[group[0]][1]) + sum(len(requests[i][2]) - 1 for i in group)


def check_finite(requests: Sequence[Request], scores: Sequence[tuple[float, bool]]) -> None:
    """Raise ValueError, with the request's text, if a log-likelihood is not finite."""
    for (text, _, _), (score, _) in zip(requests, scores, strict=True):
        if not math.isfinite(score):
            asked = "" if text is None else f" of {text[1]!r} after {text[0][-80:]!r}"
            raise ValueError(
                f"the log-likelihood{asked} is {score}. Either the model's weights are not "
                "finite, or half precision overflows: " + in_full_precision()
            )


def in_full_precision() -> str:
    """What to do about logits that are not finite."""
    return advice(
        python="load the model with dtype='float32', or with attn_implementation='eager'",
        line="CUDA_VISIBLE_DEVICES= before the command computes on the CPU, in float32",
    )


@contextmanager
def shared_out() -> Iterator[None]:
    """Make the harness give each of n processes every n-th question, with its usual prompt.

    On its own, the harness lets each process draw few-shot examples for its own questions only,
    so the prompts depend on the number of processes. Here each process makes all prompts, which
    takes little time, and keeps its own.

    Raises ValueError if there are fewer questions than processes, since the others would wait for
    a process without a question; and for ``cache_requests``, which unpickles.
    """
    build = Task.build_all_requests

    def build_own(task: Any, *, rank: int = 0, world_size: int = 1, **arguments: Any) -> None:
        if arguments.get("cache_requests"):
            raise ValueError(
                "cache_requests: the harness would unpickle a file, which can run code, and all "
                "processes would write it at once. Leave it out: making the requests takes little "
                "time"
            )
        build(task, rank=0, world_size=1, **arguments)
        asked = {instance.doc_id for instance in task.instances}
        if len(asked) < world_size:
            raise ValueError(
                f"{task.config.task}: {len(asked)} questions for {world_size} processes: start "
                "fewer processes, or give a higher limit"
            )
        keep_requests(task, [i for i in task.instances if i.doc_id % world_size == rank])

    with replaced(Task, build_all_requests=build_own):
        yield


class _BoundedTemplate(Template):
    """A template whose steps and memory are bounded (`mathsft.models.template_bounds`)."""

    counted = True

    def render(self, *args: Any, **values: Any) -> str:
        with bounded() if self.counted else nullcontext():
            return super().render(*args, **values)


class _Sandbox(SandboxedEnvironment):
    template_class = _BoundedTemplate

    def from_string(self, source: Any, *args: Any, **how: Any) -> Template:
        try:
            counted = check_template(source)
            with bounded():  # what it names, Jinja may calculate at once
                made = super().from_string(source, *args, **how)
        except TemplateBoundError as error:
            about = f"the task's template {source!r:.80}"
            raise ValueError(f"{about} cannot be used: {error}") from None
        vars(made)["counted"] = counted
        return made


@contextmanager
def boxed_templates() -> Iterator[Environment]:
    """Let the harness render templates in jinja's sandbox, with its own settings and filters.

    Its own environment lets a template call anything in Python, also a template in a task file
    from elsewhere. One that does not end, or fills the memory, raises TemplateBoundError, or
    ValueError when it is read.
    """
    theirs = lm_eval.utils.env
    sandbox = _Sandbox(
        loader=theirs.loader,
        undefined=theirs.undefined,
        keep_trailing_newline=theirs.keep_trailing_newline,
    )
    sandbox.filters.update(theirs.filters)
    with replaced(lm_eval.utils, env=sandbox):
        yield sandbox


@contextmanager
def quiet_harness() -> Iterator[TextIO]:
    """Run the harness without its many notices and progress bars, and without needless work.

    Its errors still show. Templates are compiled once instead of several times per question,
    which for short questions takes longer than scoring them on a GPU; their output is the same.
    They are rendered in a sandbox (`boxed_templates`).
    The harness does not look for details of the machine (a second each time) or of git (an error
    message if there is no repository), since they are not used here. Yields the original standard
    error, so that a progress bar can still be shown.
    """
    evaluator = lm_eval.evaluator
    logger = logging.getLogger("lm_eval")
    level, stderr = logger.level, sys.stderr
    logger.setLevel(logging.ERROR)
    try:
        with (
            boxed_templates() as templates,
            replaced(templates, from_string=cache(templates.from_string)),
            replaced(evaluator, get_git_commit_hash=str, add_env_info=dict),
            redirect_stderr(StringIO()),
        ):
            yield stderr
    finally:
        logger.setLevel(level)
