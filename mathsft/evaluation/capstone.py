"""The capstone: beat lesson 03's mixture with as many optimiser steps, on questions held out.

The rules are few, so that two entries differ only in what somebody chose: the embedded model, 400
optimiser steps of 8 rows, no question of the test in the training rows. Data, objective, learning
rate, adapter and all other settings are free.
"""

from copy import deepcopy
from functools import cache
from typing import Any

from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows

TASK = "mathqa_capstone"
MODEL = "tiny"
STEPS = 400  # lesson 03: 240 for the common start, and 160 on the mixture
ROWS = 8  # of a step
QUESTIONS = 1000
# The lessons ask rows of the test split from its beginning: the first thousand.
_ASKED = 1000

_RECIPE: dict[str, dict[str, Any]] = {
    "model": {"name": MODEL, "quantize": False, "lora": {"lora_dropout": 0.0}},
    "mix": {
        "parts": {"tiny-mathqa": 640, "tiny-gsm": 640},
        "datasets": {"tiny-mathqa": {"reading": "clean"}, "tiny-gsm": {"limit": 2000}},
    },
    "add_choices": {"seed": 0},
    "multiple_choice": {
        "max_length": 256,
        "per_device_train_batch_size": ROWS,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "temperature": 4.0,
        "dataloader_drop_last": True,
        "logging_steps": 50,
    },
}


def capstone_recipe() -> dict[str, dict[str, Any]]:
    """The capstone's baseline as a recipe: lesson 03's mixture, and its settings.

    Train it with ``train_by_recipe(recipe, "multiple_choice")``, or change it first. ``submit``
    takes any run with this model and as many steps of as many rows. A call gives a new copy.
    """
    return deepcopy(_RECIPE)


def capstone_questions() -> list[dict[str, str]]:
    """The 1,000 questions of the capstone, in MathQA's published schema.

    They are rows 1,000 to 1,999 of the test split of ``tiny-mathqa``. Lessons and recipes ask only
    the first thousand, and no training split can contain a question of the test split.
    """
    return [dict(row) for row in _questions()]


@cache  # making them takes seconds
def _questions() -> list[dict[str, str]]:
    return tiny_mathqa_rows("test", _ASKED + QUESTIONS)[_ASKED:]
