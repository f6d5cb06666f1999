"""Numbers that others published, to be shown beside ours and marked as not ours."""

from typing import NamedTuple

SOURCE = (
    "the public notebooks this course grew from (Qwen2.5, 0-shot mathqa of lm-evaluation-harness, "
    "2,985 test questions)"
)
QUESTIONS = 2985


class Reference(NamedTuple):
    """A published accuracy, 0 to 1, to four places as it was published."""

    name: str
    accuracy: float
    note: str = ""


PUBLIC_EXPERIMENT = (
    Reference("0.5B base", 0.2874, "published standard error 0.0083"),
    Reference("0.5B SFT", 0.2884),
    Reference("0.5B Instruct", 0.2901, "the vendor's own tuning"),
    Reference(
        "0.5B multiple choice",
        0.2874,
        "equals the base to the last digit: the adapter was never in the model",
    ),
    Reference("0.5B multiple choice, MathQA", 0.3558, "3 epochs, batches of 4"),
    Reference("0.5B multiple choice, MathQA + GSM8K", 0.3363, "1 epoch, batches of 2"),
    Reference("1.5B base", 0.3461),
    Reference("1.5B SFT", 0.2978),
    Reference("1.5B Instruct", 0.3374, "the vendor's own tuning"),
)
