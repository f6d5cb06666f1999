"""Group relative policy optimisation in one file: what `mathsft.GRPO` does, in plain PyTorch.

The model answers each problem several times. An answer that ends with the right result has the
reward 1, any other 0. Its advantage A says how much better it is than the mean of its group (Shao
et al. 2024, arXiv:2402.03300; with DR: Dr.GRPO, arXiv:2503.20783). Each of its tokens has the loss

    -min(ratio * A, clip(ratio, 1 - EPSILON, 1 + EPSILON) * A)
    ratio = p(token) / p(token) when the answer was written

First the model learns from eight solutions what an answer looks like, or else it would never be
rewarded. Losses and gradients are those of the package (tests/test_policy_losses.py).

    python minimal/grpo.py
"""

import torch
from peft import LoraConfig, get_peft_model

from mathsft import load_model, load_problems

EXAMPLES, EXAMPLE_STEPS, LEARNING_RATE = 8, 40, 5e-4
STEPS, PROBLEMS, ANSWERS, MOST_TOKENS = 24, 4, 8, 64
UPDATES, EPSILON, DR = 2, 0.2, True  # steps of the optimiser for the same answers


def encode(problem, tokenizer):
    """The tokens of the prompt, and those of the solution with the stop token."""
    prompt = f"### Question:\n{problem['question']}\n\n### Answer:\n"
    answer = f"{problem['solution']}\n#### {problem['answer']}"
    return tokenizer(prompt).input_ids, [*tokenizer(answer).input_ids, tokenizer.eos_token_id]


@torch.no_grad()
def sample(model, tokenizer, prompts, *, greedy=False):
    """One answer to each prompt: its tokens, the stop token included if it was written."""
    longest, pad, stop = max(map(len, prompts)), tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    # top_k=0: the default of 50 would not draw from the model's own distribution.
    how = {"do_sample": not greedy, "top_k": None if greedy else 0}
    how |= {"max_new_tokens": MOST_TOKENS, "pad_token_id": pad, "eos_token_id": stop}
    rows = model.generate(input_ids=ids, attention_mask=seen, **how)[:, longest:].tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


def reward(problem, answer, tokenizer):
    """1.0 if the answer ended with the right result."""
    result = tokenizer.decode(answer, skip_special_tokens=True).split("#### ")[-1]
    return float(answer[-1] == tokenizer.eos_token_id and result == problem["answer"])


def advantages(rewards, *, dr=DR):
    """From (problems, answers): how much better each answer is than the mean of its group."""
    above = rewards - rewards.mean(1, keepdim=True)
    return above if dr else above / (rewards.std(1, keepdim=True) + 1e-4)


def answer_logprobs(model, prompts, answers):
    """log p of each token in nats, (N, T), and whether it belongs to the answer, (N, T)."""
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, whole))
    # Padding is on the right. No real token looks to its right, so none sees the padding.
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in whole])
    logprobs = model(ids).logits[:, :-1].float().log_softmax(-1)
    place = torch.arange(1, longest)  # the logits at position i predict token i + 1
    first, last = torch.tensor([*map(len, prompts)]), torch.tensor([*map(len, whole)])
    mask = (first[:, None] <= place) & (place < last[:, None])
    return logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1), mask


def policy_loss(logprobs, old, mask, advantages, *, dr=DR, most_tokens=MOST_TOKENS):
    """The mean over the answers: of the mean of their tokens, or (Dr.GRPO) of sum / most_tokens."""
    ratio = (logprobs - old).exp()
    weight = advantages.flatten()[:, None]
    losses = -torch.minimum(ratio * weight, ratio.clamp(1 - EPSILON, 1 + EPSILON) * weight) * mask
    return (losses.sum(1) / (most_tokens if dr else mask.sum(1))).mean()


def main():
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", device="cpu")
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    problems = load_problems("tiny-gsm", split="train", limit=EXAMPLES + STEPS * PROBLEMS).to_list()
    tests = load_problems("tiny-gsm", split="test", limit=100).to_list()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def step(loss):
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def attempts(problems, **how):
        prompts = [encode(problem, tokenizer)[0] for problem in problems]
        answers = sample(model, tokenizer, prompts, **how)
        pairs = zip(problems, answers, strict=True)
        return prompts, answers, torch.tensor([reward(*pair, tokenizer) for pair in pairs])

    def measure():
        print(f"held out     accuracy {attempts(tests, greedy=True)[2].mean():.2f}")

    asked, solved = zip(*(encode(p, tokenizer) for p in problems[:EXAMPLES]), strict=True)
    for _ in range(EXAMPLE_STEPS):  # supervised fine-tuning
        logprobs, mask = answer_logprobs(model, asked, solved)
        step(-(logprobs * mask).sum() / mask.sum())
    measure()
    for number in range(STEPS):
        batch = problems[EXAMPLES + number * PROBLEMS :][:PROBLEMS]
        prompts, answers, rewards = attempts([p for p in batch for _ in range(ANSWERS)])
        better = advantages(rewards.view(PROBLEMS, ANSWERS))
        old = None
        for _ in range(UPDATES):
            logprobs, mask = answer_logprobs(model, prompts, answers)
            old = logprobs.detach() if old is None else old
            step(policy_loss(logprobs, old, mask, better))
        print(f"step {number:3d}   reward {rewards.mean():.2f}", flush=True)
    measure()


if __name__ == "__main__":
    main()
