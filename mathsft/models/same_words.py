"""Whether a token id means the same to two models, so that their distributions can be compared."""

from typing import Any

from mathsft.models.model_files import vocabulary
from mathsft.processes import say


def check_same_words(student: Any, tokenizer: Any, teacher: Any, other: Any) -> None:
    """Raise ValueError unless a token id means the same to both models.

    Args:
        student: the model that is trained.
        tokenizer: its tokenizer.
        teacher: the model that it is compared with.
        other: the teacher's tokenizer; None: only the sizes are compared.

    Heads may differ in rows behind the last word, as in Qwen2.5's checkpoints: a line says so.
    """
    if other is not None:
        check_same_tokens(tokenizer, other)
    rows, wanted = vocabulary(teacher.config), vocabulary(student.config)
    if rows == wanted:
        return
    if other is None or min(rows, wanted) < len(tokenizer):
        raise ValueError(
            f"teacher: its head has {rows:,} rows, that of the student {wanted:,}: their words are "
            "not the same. If they are, give the teacher with its tokenizer: "
            "teacher=load_model(...)"
        )
    say(
        f"teacher: its head has {rows:,} rows, that of the student {wanted:,}; the first "
        f"{min(rows, wanted):,} are compared, which hold all {len(tokenizer):,} words"
    )


def check_same_tokens(tokenizer: Any, other: Any) -> None:
    """Raise ValueError unless a student's and a teacher's tokenizer have the same words and ids."""
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    if ours != theirs:
        differ = sorted(w for w in ours.keys() | theirs.keys() if ours.get(w) != theirs.get(w))
        first = differ[0]
        raise ValueError(
            f"teacher: its vocabulary is another one: {len(theirs):,} words, the student has "
            f"{len(ours):,}, and {len(differ):,} differ, such as {first!r} (token "
            f"{theirs.get(first)} of the teacher, {ours.get(first)} of the student). "
            "Distillation compares probabilities of the same words: take a teacher of the "
            "student's family, or train on the teacher's texts with SFT"
        )
