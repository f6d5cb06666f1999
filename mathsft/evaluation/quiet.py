"""lm-evaluation-harness without its noise."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from typing import TextIO
from unittest.mock import patch

import lm_eval.evaluator
import lm_eval.utils


@contextmanager
def quiet_harness() -> Iterator[TextIO]:
    """The harness without its notices and bars, which are many, and without needless work.

    Its errors pass. Templates are compiled once instead of several times a question, which for
    short questions takes longer than a GPU takes to score them; what they give is the same.
    What it would find out about the machine (a second each time) and about git (an error
    message where there is no repository) is not kept here. Gives the stream that standard
    error was, for a progress bar that is to be seen.
    """
    templates, evaluator = lm_eval.utils.env, lm_eval.evaluator
    logger = logging.getLogger("lm_eval")
    level, stderr = logger.level, sys.stderr
    logger.setLevel(logging.ERROR)
    try:
        with (
            patch.object(templates, "from_string", cache(templates.from_string)),
            patch.object(evaluator, "get_git_commit_hash", str),
            patch.object(evaluator, "add_env_info", dict),
            redirect_stderr(StringIO()),
        ):
            yield stderr
    finally:
        logger.setLevel(level)
