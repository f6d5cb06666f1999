"""Distillation in one file: what `mathsft.Distillation` does, in plain PyTorch.

A student learns from all probabilities that a teacher gives to the next token, not only from the
token that follows. Here a prompt goes into the weights. The teacher is the model itself, frozen,
asked in its own form: the question and a new line. The student is asked in the course's format,
which the model has never seen. Both read the same answer, token by token (Hinton et al. 2015,
arXiv:1503.02531; Snell et al. 2022, arXiv:2209.15189):

    loss = sum over the words of p_teacher * (log p_teacher - log p_student)

The answers are those that the teacher writes, so no solution and no label is needed.

    python minimal/distillation.py

The package computes the logits of a few positions at a time. Its losses and gradients are those of
this file (tests/test_minimal.py).
"""

import torch
from peft import LoraConfig, get_peft_model

from mathsft import load_model, load_problems

STEPS, BATCH, LEARNING_RATE, MOST_TOKENS = 60, 8, 1e-3, 64


def row_of(problem, answer):
    """What the student reads, what the teacher reads, and the answer after both."""
    return {
        "prompt": f"### Question:\n{problem['question']}\n\n### Answer:\n",
        "teacher_prompt": f"{problem['question']}\n",
        "completion": answer,
    }


@torch.no_grad()
def answers(model, tokenizer, prompts):
    """What the model writes after each prompt, greedily, without the stop token."""
    ids = [tokenizer(prompt).input_ids for prompt in prompts]
    longest, pad = max(map(len, ids)), tokenizer.pad_token_id
    rows = torch.tensor([[pad] * (longest - len(row)) + row for row in ids])
    seen = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    how = {"do_sample": False, "max_new_tokens": MOST_TOKENS, "pad_token_id": pad}
    written = model.generate(input_ids=rows, attention_mask=seen, **how)[:, longest:]
    return tokenizer.batch_decode(written, skip_special_tokens=True)


def answer_logprobs(model, tokenizer, prompts, completions):
    """log p of every word at each token of the answers and their stop tokens: (tokens, words)."""
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        start = len(tokenizer(prompt).input_ids)
        ids = [*tokenizer(prompt + completion).input_ids, tokenizer.eos_token_id]
        # The logits at position i predict token i + 1.
        logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
        found.append(logits.float().log_softmax(-1))
    return torch.cat(found)


def batch_loss(model, tokenizer, rows):
    """Forward KL, the mean over the answers' tokens. The teacher gets no gradient."""
    completions = [row["completion"] for row in rows]
    student = answer_logprobs(model, tokenizer, [row["prompt"] for row in rows], completions)
    with torch.no_grad(), model.disable_adapter():
        prompts = [row["teacher_prompt"] for row in rows]
        teacher = answer_logprobs(model, tokenizer, prompts, completions)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def train(model, tokenizer, rows):
    """One step of AdamW for each batch of rows, in random order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(STEPS):
        batch = [rows[place] for place in torch.randperm(len(rows))[:BATCH]]
        loss = batch_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == STEPS - 1:
            print(f"step {step:3d}   loss {loss.item():.3f}")


def main():
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", device="cpu")
    problems = load_problems("tiny-gsm", split="train", limit=64).to_list()
    tests = load_problems("tiny-gsm", split="test", limit=50).to_list()

    def with_answers(problems):
        written = answers(model, tokenizer, [f"{problem['question']}\n" for problem in problems])
        return [row_of(*pair) for pair in zip(problems, written, strict=True)]

    rows, held_out = with_answers(problems), with_answers(tests)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))

    def measure():
        with torch.no_grad():
            loss = batch_loss(model, tokenizer, held_out).item()
        asked = answers(model, tokenizer, [row["prompt"] for row in held_out])
        same = sum(a == row["completion"] for a, row in zip(asked, held_out, strict=True))
        return f"loss {loss:.3f}   answers like the teacher {same / len(held_out):.2f}"

    print(f"held out     {measure()}")
    train(model, tokenizer, rows)
    print(f"held out     {measure()}")


if __name__ == "__main__":
    main()
