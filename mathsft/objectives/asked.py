"""What a row asks a model, as tokens to continue: for samples, and for learning from attempts."""

from collections.abc import Mapping
from typing import Any

from mathsft.data.given import check_row, given_row
from mathsft.data.rows import CHAT, KINDS, kind_of
from mathsft.models.chat_template import Closing, Conversation
from mathsft.models.encoding import encode_prompts
from mathsft.objectives.left_out import with_fitting_arguments


def asked(
    row: Mapping[str, Any], tokenizer: Any, *, where: str, unanswered: bool = False
) -> dict[str, Any]:
    """A row's prompt, with its question and the expected answer.

    A problem is asked by its training prompt, a conversation up to its last trained assistant
    turn, a prompt unchanged. The keys are ``input_ids``, the prompt's tokens; ``prompt``, the same
    as text or messages; ``question`` and ``wanted``, texts. ``where`` names the row in errors.
    ``unanswered`` takes prompts without an answer too, and conversations that end with the user;
    then ``wanted`` is "".

    Raises UnusableRowError for a row that is well formed but cannot be used, such as one that the
    chat template refuses; ValueError for any other.
    """
    complete = _with_answer(row, where=where) if unanswered else row
    alone = complete is not row
    row = given_row(complete, where=where, counted=set(), kinds=list(KINDS))
    kind = kind_of(row)
    example = kind.example(row)
    if example.get("messages") is None:
        question, wanted = kind.asks(row)[-1], example["completion"]
        (ids,) = encode_prompts(tokenizer, [example["prompt"]])
        prompt: Any = example["prompt"]
        wanted = "" if alone else wanted
        return {"input_ids": list(ids), "prompt": prompt, "question": question, "wanted": wanted}
    conversation = with_fitting_arguments(Conversation.of(example, tokenizer), tokenizer)
    last = max(index for index, trained in enumerate(conversation.trained) if trained)
    text = conversation.rendered(tokenizer, last)
    wanted = conversation.messages[last].get("content", "")
    if conversation.messages[last].keys() - {"role", "content"}:  # reasoning, tool calls
        whole = conversation.rendered(tokenizer, last + 1, reply=False)
        wanted = whole.removeprefix(text).removesuffix(Closing.of(tokenizer).text)
    wanted = "" if alone else wanted
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = conversation.messages[:last]
    question = CHAT.asks({"messages": prompt})[-1]
    return {"input_ids": list(ids), "prompt": prompt, "question": question, "wanted": wanted}


def _with_answer(row: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
    """The row; if nothing in it answers its prompt, with an answer that stands for any."""
    check_row(row, where=where)
    turns = row.get("messages")
    if isinstance(turns, list) and turns and turns[-1].get("role") == "user":
        return {**row, "messages": [*turns, {"role": "assistant", "content": "?"}]}
    if isinstance(row.get("question"), str) and "solution" not in row:
        return {"answer": "", **row, "solution": ""}
    answers = ("completion", "completions", "chosen", "question", "messages")
    if "prompt" not in row or any(row.get(name) is not None for name in answers):
        return row
    talk = not isinstance(row["prompt"], str)
    return {**row, "completion": [{"role": "assistant", "content": "?"}] if talk else "?"}
