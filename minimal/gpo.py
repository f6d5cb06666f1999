"""Group policy optimisation (GPO) in one file: what `mathsft.GPO` does, in plain PyTorch.

Each row has a prompt, several answers and a number for each, their rewards. The advantage A of an
answer says how much better it is than the mean of its group, in standard deviations. With p the
model's probability of a token, the loss of a group of G answers is

    1/G * sum over answers of the mean over tokens of -p * A

so a token is pushed up or down in proportion to its own probability: -A p is the gradient with
respect to log p. Nothing is sampled, and no second model is needed. The loss is from
effective_llm_alignment (github.com/VikhrModels/effective_llm_alignment), which has no paper.

    python minimal/gpo.py

The package passes the prompt through the model once for all answers. Its losses and gradients are
those of this file (tests/test_minimal.py).
"""

import torch
from peft import LoraConfig, get_peft_model

from mathsft import load_model, load_problems

STEPS, BATCH, LEARNING_RATE = 60, 8, 2e-3


def group_of(problem):
    """A group for practice: the worked solution, and three answers that are worse.

    Real groups are answers of a model that were judged.
    """
    right, solution = int(problem["answer"]), problem["solution"]
    answers = [f"{solution}\n#### {value}" for value in (right, right + 1, right + 10)]
    return {
        "prompt": f"### Question:\n{problem['question']}\n\n### Answer:\n",
        "completions": [*answers, f"#### {right}"],
        "rewards": [1.0, 0.1, 0.0, 0.5],
    }


def token_logprobs(model, tokenizer, prompt, answers):
    """log p of each token in nats, (G, T), and whether it is the answer's or its stop, (G, T)."""
    start = len(tokenizer(prompt).input_ids)
    encoded = [[*tokenizer(prompt + text).input_ids, tokenizer.eos_token_id] for text in answers]
    longest = max(map(len, encoded))
    # Padding is on the right. No real token looks to its right, so none sees the padding.
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in encoded])
    logprobs = model(ids).logits[:, :-1].float().log_softmax(-1)
    place = torch.arange(1, longest)  # the logits at position i predict token i + 1
    mask = (start <= place) & (place < torch.tensor([*map(len, encoded)])[:, None])
    return logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1), mask


def group_loss(model, tokenizer, group):
    """The loss of one group."""
    rewards = torch.tensor(group["rewards"])
    spread = rewards.std(correction=0)  # G in the denominator, not G - 1
    advantages = (rewards - rewards.mean()) / (spread + 1e-4)
    logprobs, mask = token_logprobs(model, tokenizer, group["prompt"], group["completions"])
    losses = -logprobs.exp() * advantages[:, None] * mask
    return (losses.sum(1) / mask.sum(1)).mean()


def batch_loss(model, tokenizer, groups):
    """The mean over the groups."""
    return torch.stack([group_loss(model, tokenizer, group) for group in groups]).mean()


def train(model, tokenizer, groups):
    """One step of AdamW for each batch of groups, in random order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    order = torch.randperm(len(groups)).tolist()
    for step in range(STEPS):
        batch = [groups[place] for place in order[step * BATCH : (step + 1) * BATCH]]
        loss = batch_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == STEPS - 1:
            print(f"step {step:3d}   loss {loss.item():.3f}")


def main():
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", device="cpu")
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    problems = load_problems("tiny-gsm", split="train", limit=STEPS * BATCH)
    held_out = load_problems("tiny-gsm", split="test", limit=50)
    groups, tests = ([group_of(problem) for problem in part] for part in (problems, held_out))

    def measure():
        with torch.no_grad():
            return f"loss {batch_loss(model, tokenizer, tests):.3f}"

    print(f"held out     {measure()}")
    train(model, tokenizer, groups)
    print(f"held out     {measure()}")


if __name__ == "__main__":
    main()
