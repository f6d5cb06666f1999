"""The multiple-choice loss as it is usually written, and as it is written well.

Both take rows of `MultipleChoice`, leave the gradients of the mean loss in the model,
and return how many positions, padding included, passed through the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from mathsft.models.forest import IGNORE

Questions = Sequence[Mapping[str, Any]]
QUESTIONS_AT_ONCE = 4  # the loop's micro-batch; it keeps the full logits of all five passes


def loop(model: Any, questions: Questions) -> int:
    """One padded pass for each choice number, full logits, log-probabilities picked one by one.

    Gradients are accumulated over micro-batches of `QUESTIONS_AT_ONCE` questions. The
    log-probabilities of a sequence are taken out of the batch before its tokens are picked:
    to pick from the batch directly would cost a gradient of the batch's size for each token.
    """
    passed = 0
    for first in range(0, len(questions), QUESTIONS_AT_ONCE):
        part = questions[first : first + QUESTIONS_AT_ONCE]
        scores: list[list[torch.Tensor]] = [[] for _ in part]
        for choice in range(max(len(question["input_ids"]) for question in part)):
            asked = [n for n, q in enumerate(part) if choice < len(q["input_ids"])]
            ids = [torch.tensor(part[n]["input_ids"][choice]) for n in asked]
            input_ids = pad_sequence(ids, batch_first=True)
            attention_mask = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
            passed += input_ids.numel()
            logits = model(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).logits
            logprobs = logits.log_softmax(dim=-1)
            for row, n in enumerate(asked):
                of_sequence = logprobs[row]
                score = torch.zeros(())
                for place, token in enumerate(part[n]["labels"][choice]):
                    if token != IGNORE:
                        score = score + of_sequence[place - 1, token]
                scores[n].append(score)
        loss = sum(
            functional.cross_entropy(torch.stack(of_question), torch.tensor(question["label"]))
            for of_question, question in zip(scores, part, strict=True)
        )
        (loss / len(questions)).backward()
    return passed


def vectorised(model: Any, questions: Questions) -> int:
    """All choices of all questions in one padded batch; only scored positions are projected.

    A sequence's last token is only predicted, so it is left out. Padding is on the right, so
    causal attention hides it from every real token: no mask is made, and attention runs
    its causal kernel.
    """
    device = model.device
    sequences = [
        (ids, labels)
        for question in questions
        for ids, labels in zip(question["input_ids"], question["labels"], strict=True)
    ]
    input_ids = pad_sequence([torch.tensor(ids[:-1]) for ids, _ in sequences], batch_first=True)
    scored = [
        (row, row * input_ids.shape[1] + place, token)
        for row, (_, labels) in enumerate(sequences)
        for place, token in enumerate(labels[1:])
        if token != IGNORE
    ]
    rows, predictors, tokens = torch.tensor(scored, device=device).unbind(1)
    choices = [len(question["input_ids"]) for question in questions]
    labels = torch.tensor([question["label"] for question in questions], device=device)

    base = model.get_base_model()
    hidden = base.model(
        input_ids=input_ids.to(device), attention_mask={"full_attention": None}, use_cache=False
    ).last_hidden_state
    logits = base.lm_head(hidden.flatten(0, 1).index_select(0, predictors))
    logprobs = logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
    sums = logprobs.new_zeros(len(sequences)).index_add(0, rows, logprobs)
    scores = pad_sequence(sums.split(choices), batch_first=True, padding_value=-torch.inf)
    functional.cross_entropy(scores, labels).backward()
    return input_ids.numel()
