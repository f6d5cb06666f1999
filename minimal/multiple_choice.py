"""Train what a multiple-choice test measures, in one file and in plain PyTorch.

The test adds up the log-probabilities of a choice's tokens after the question. The choice with the
highest sum is the model's answer. Here these sums go through a softmax over the choices, and the
loss is the cross-entropy with the right one.

    python minimal/multiple_choice.py

The package passes a question through the model once for all of its choices; here each choice has
its own row. The losses and gradients are the same (tests/test_minimal.py). Lesson:
notebooks/02_multiple_choice.ipynb
"""

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from mathsft import load_model, load_problems

STEPS, BATCH, LEARNING_RATE = 160, 8, 1e-3
# Scores are divided by this number. With 1 the model guesses for a long time before it learns
# (lesson 02).
TEMPERATURE = 4.0


def encode(question, choice, tokenizer):
    """The tokens of a question with one choice, and how many of them are the question's.

    The text is the one that the evaluation harness uses in its task `mathqa`.
    """
    context = f"Question: {question}\nAnswer:"
    return tokenizer(f"{context} {choice}").input_ids, len(tokenizer(context).input_ids)


def choice_scores(model, tokenizer, problems):
    """log p(choice | question) in nats: a row for each question, a column for each choice."""
    encoded = [
        encode(problem["question"], choice, tokenizer)
        for problem in problems
        for choice in problem["choices"]
    ]
    longest = max(len(ids) for ids, _ in encoded)
    # Padding is on the right. No real token looks to its right, so none sees the padding.
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in encoded])
    logprobs = model(ids).logits[:, :-1].float().log_softmax(-1)
    # The logits at position i predict token i + 1.
    of_tokens = logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    place = torch.arange(1, longest)
    first = torch.tensor([asked for _, asked in encoded])[:, None]
    end = torch.tensor([len(ids) for ids, _ in encoded])[:, None]
    sums = (of_tokens * ((first <= place) & (place < end))).sum(-1)
    return sums.view(len(problems), -1)  # all of these questions have five choices


def batch_loss(model, tokenizer, problems):
    """Cross-entropy of the right choice: the mean over the questions. ln 5 = 1.61 is chance."""
    right = torch.tensor([problem["label"] for problem in problems])
    return cross_entropy(choice_scores(model, tokenizer, problems) / TEMPERATURE, right)


def accuracy(model, tokenizer, problems):
    """The share of questions whose likeliest choice is the right one."""
    right = torch.tensor([problem["label"] for problem in problems])
    return (choice_scores(model, tokenizer, problems).argmax(-1) == right).float().mean().item()


def train(model, tokenizer, problems):
    """One step of AdamW for each batch of questions, in random order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    order = torch.randperm(len(problems)).tolist()
    for step in range(STEPS):
        batch = [problems[place] for place in order[step * BATCH : (step + 1) * BATCH]]
        loss = batch_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0 or step == STEPS - 1:
            print(f"step {step:3d}   loss {loss.item():.3f}")


def main():
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", device="cpu")
    # LoRA: the model's own weights stay as they are. Beside each linear layer two small matrices
    # are trained, and their product is added to what the layer computes.
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    problems = load_problems("tiny-mathqa", split="train", limit=STEPS * BATCH)
    held_out = load_problems("tiny-mathqa", split="test", limit=100)

    def measure():
        with torch.no_grad():
            return accuracy(model, tokenizer, held_out)

    print(f"held out     accuracy {measure():.2f} (chance is 0.20)")
    train(model, tokenizer, problems)
    print(f"held out     accuracy {measure():.2f}")


if __name__ == "__main__":
    main()
