"""The course's prompt formats, in one place.

Training and evaluation must agree on every character, so all prompts are built here.
The pre-training text of the tiny model contains none of these formats.
"""


def sft_prompt(question: str) -> str:
    """The prompt with ``question`` before a worked solution, as in grade-school notebooks."""
    return f"### Question:\n{question}\n\n### Answer:\n"


def sft_completion(solution: str, answer: str) -> str:
    """The text that the model learns to write: the worked solution and GSM8K's final line.

    The line ``#### answer`` makes the final answer unambiguous for every grader
    (lm-evaluation-harness' ``gsm8k`` reads the same line). It is left out if the
    answer is unknown (``""``).
    """
    return f"{solution}\n#### {answer}" if answer else solution


def choice_context(question: str) -> str:
    """``question`` as the context of the harness's ``mathqa`` task, character for character."""
    return f"Question: {question}\nAnswer:"


def choice_continuation(choice: str) -> str:
    """A choice as the harness scores it: its ``target_delimiter`` (one space), then the text."""
    return f" {choice}"
