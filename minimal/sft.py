"""Supervised fine-tuning in one file: what `mathsft.SFT` does, in plain PyTorch.

A model reads a question together with its worked solution. Before each token of the solution it
gives every token of its vocabulary a probability. The loss is minus the logarithm of the
probability of the token that really follows. The question and the padding carry no loss.

    python minimal/sft.py

The package packs several problems into one row, trains on many GPUs and resumes after a crash. Its
losses and gradients are those of this file (tests/test_minimal.py). Lesson:
notebooks/01_sft.ipynb
"""

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, pad

from mathsft import load_model, load_problems

STEPS, BATCH, LEARNING_RATE = 60, 8, 2e-3
IGNORE = -100  # a label that cross_entropy ignores


def encode(problem, tokenizer):
    """The tokens of one problem, and for each token its label: itself, or IGNORE."""
    prompt = f"### Question:\n{problem['question']}\n\n### Answer:\n"
    completion = f"{problem['solution']}\n#### {problem['answer']}"
    asked = len(tokenizer(prompt).input_ids)
    ids = tokenizer(prompt + completion).input_ids
    ids.append(tokenizer.eos_token_id)  # a model that never learned to stop keeps writing
    return torch.tensor(ids), torch.tensor([IGNORE] * asked + ids[asked:])


def batch_loss(model, tokenizer, problems):
    """Minus log p(token | all tokens before it), in nats: the mean over all trained tokens."""
    encoded = [encode(problem, tokenizer) for problem in problems]
    longest = max(len(ids) for ids, _ in encoded)
    # Padding is on the right. No real token looks to its right, so none sees the padding.
    ids = torch.stack([pad(ids, (0, longest - len(ids)), value=0) for ids, _ in encoded])
    labels = torch.stack([pad(ls, (0, longest - len(ls)), value=IGNORE) for _, ls in encoded])
    logits = model(ids).logits
    # The logits at position i predict token i + 1.
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


def answer(model, tokenizer, question, *, max_new_tokens=80):
    """Greedy decoding: always the most likely next token, until the stop token."""
    prompt = tokenizer(f"### Question:\n{question}\n\n### Answer:\n").input_ids
    ids = torch.tensor([prompt])
    for _ in range(max_new_tokens):
        following = model(ids).logits[0, -1].argmax()
        if following == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following.view(1, 1)], dim=1)
    return tokenizer.decode(ids[0, len(prompt) :])


def train(model, tokenizer, problems):
    """One step of AdamW for each batch of problems, in random order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    order = torch.randperm(len(problems)).tolist()
    for step in range(STEPS):
        batch = [problems[place] for place in order[step * BATCH : (step + 1) * BATCH]]
        loss = batch_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == STEPS - 1:
            print(f"step {step:3d}   loss {loss.item():.3f}")


def main():
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", device="cpu")
    # LoRA: the model's own weights stay as they are. Beside each linear layer two small matrices
    # are trained, and their product is added to what the layer computes.
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    problems = load_problems("tiny-gsm", split="train", limit=STEPS * BATCH)
    held_out = load_problems("tiny-gsm", split="test", limit=100)

    def measure():
        with torch.no_grad():
            return batch_loss(model, tokenizer, held_out).item()

    print(f"held out     loss {measure():.3f}")
    train(model, tokenizer, problems)
    print(f"held out     loss {measure():.3f}")
    with torch.no_grad():
        print(f"\n{held_out[0]['question']}\n{answer(model, tokenizer, held_out[0]['question'])}")
    print(f"(right is {held_out[0]['answer']})")


if __name__ == "__main__":
    main()
