"""Prompt search in one file: what `mathsft.generation.prompt_search` does, in plain PyTorch.

The model is frozen. One token after the question is searched: the one with which the model gives
the worked solution the highest probability. A token has no gradient, so each step draws one at
random from a softmax over the vocabulary (with Gumbel noise, Jang et al. 2017, arXiv:1611.01144).
The model reads the drawn token's embedding; backward, the gradient goes to the softmax. This is
called a straight-through step.

    python minimal/prompt_search.py

The package packs the problems into rows, searches several tokens, and can try swaps instead. Its
losses and gradients are those of this file (tests/test_prompt_search.py). Lesson:
notebooks/09_prompt_search.ipynb
"""

import math

import torch
from torch.nn.functional import cross_entropy, pad

from mathsft import load_model, load_problems

STEPS, BATCH, LEARNING_RATE, SEED = 40, 8, 0.05, 0
FIRST, LAST = 2.0, 0.3  # the temperature falls from the first to the last
IGNORE = -100  # a label that cross_entropy ignores


def encode(problem, tokenizer):
    """The tokens of a question, and those of its worked solution."""
    asked = tokenizer(problem["question"]).input_ids
    return asked, tokenizer(problem["question"] + problem["solution"]).input_ids[len(asked) :]


def draw(codes, table, forbidden, noise, temperature):
    """One token for each row of ``noise``: its id, and its embedding with the softmax's gradient.

    ``codes`` (1, H) is a vector like an embedding; ``codes @ table.T`` scores all tokens.
    """
    scores = (codes @ table.T).masked_fill(forbidden, -torch.inf) + noise
    ids = scores.argmax(-1)
    mixed = (scores / temperature).softmax(-1) @ table
    return ids, table[ids] + mixed - mixed.detach()  # forward: exactly the token's embedding


def batch_loss(model, encoded, embedded):
    """Minus log p(token of the solution | all before it), in nats: the mean over all tokens.

    ``embedded`` (rows, H) is what the model reads between each question and its solution.
    """
    embed = model.get_input_embeddings()
    rows, labels = [], []
    for (asked, solved), token in zip(encoded, embedded, strict=True):
        parts = [embed(torch.tensor(asked)), token[None], embed(torch.tensor(solved))]
        rows.append(torch.cat(parts))
        labels.append(torch.tensor([IGNORE] * (len(asked) + 1) + solved))  # one more, for the token
    # Padding is on the right. No real token looks to its right, so none sees the padding.
    longest = max(map(len, rows))
    inputs = torch.stack([pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    targets = torch.stack([pad(row, (0, longest - len(row)), value=IGNORE) for row in labels])
    logits = model(inputs_embeds=inputs).logits
    # The logits at position i predict token i + 1.
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())


def gumbel(shape, generator):
    """Noise with which the highest score is a sample of the scores' softmax."""
    uniform = torch.rand(shape, generator=generator)
    return -torch.log(-torch.log(uniform + 1e-20) + 1e-20)


def search(model, table, encoded, forbidden):
    """Draw a token for each row of a batch, and move the codes: one step of Adam for each batch."""
    generator = torch.Generator().manual_seed(SEED)
    codes = torch.zeros(1, table.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([codes], lr=LEARNING_RATE)
    for step in range(STEPS):
        temperature = LAST + (FIRST - LAST) * (1 + math.cos(math.pi * step / (STEPS - 1))) / 2
        noise = gumbel((BATCH, len(table)), generator)
        picked = torch.randint(len(encoded), (BATCH,), generator=generator).tolist()
        ids, embedded = draw(codes, table, forbidden, noise, temperature)
        loss = batch_loss(model, [encoded[n] for n in picked], embedded)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == STEPS - 1:
            print(f"step {step:3d}   loss {loss.item():.3f}   drawn {ids.tolist()}", flush=True)
    return int((codes @ table.T).masked_fill(forbidden, -torch.inf).argmax())


def main():
    model, tokenizer = load_model("tiny", device="cpu")
    model.requires_grad_(False)
    problems = load_problems("tiny-gsm", split="train", limit=300)
    tests = load_problems("tiny-gsm", split="test", limit=64)
    encoded, held_out = ([encode(row, tokenizer) for row in rows] for rows in (problems, tests))
    table = model.get_input_embeddings().weight
    texts = tokenizer.batch_decode([[token] for token in range(len(table))])
    # Nobody can type a part of a character. The stop token ends a text.
    forbidden = torch.tensor(["\ufffd" in text for text in texts])
    forbidden[tokenizer.eos_token_id] = True

    def measure(token):
        with torch.no_grad():
            loss = batch_loss(model, held_out, table[[token] * len(held_out)])
        print(f"held out     loss {loss.item():.3f} with {texts[token]!r} after the question")

    measure(tokenizer("\n").input_ids[0])
    measure(search(model, table, encoded, forbidden))


if __name__ == "__main__":
    main()
