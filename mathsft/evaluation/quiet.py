"""lm-evaluation-harness without its noise."""

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from typing import TextIO
from unittest.mock import patch

import lm_eval.evaluator
import lm_eval.utils
import numpy as np
import torch


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


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The harness seeds Python's, NumPy's and PyTorch's global generators: give them back after.

    Otherwise what is trained after an evaluation would depend on whether there was one.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
