"""Direct preference optimisation (DPO) in one file: what `mathsft.DPO` does, in plain PyTorch.

Each row has a prompt, a better answer (chosen) and a worse one (rejected). The model should find
the better one more likely than it did before training, compared with the worse one. The formula is
equation 7 of Rafailov et al. 2023 (arXiv:2305.18290):

    loss = -log sigmoid(beta * (r(chosen) - r(rejected)))
    r(answer) = log p(answer | prompt) - log p_reference(answer | prompt)

The reference is the model before training. With LoRA it is the same model with its adapter off.

    python minimal/dpo.py

The package passes the prompt through the model once for both answers. Its losses and gradients are
those of this file (tests/test_minimal.py).
"""

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import logsigmoid

from mathsft import load_model, load_problems

STEPS, BATCH, LEARNING_RATE, BETA = 60, 8, 5e-4, 0.1


def pair_of(problem):
    """A pair for practice: the worked solution, and the same one with a wrong final answer.

    Real pairs come from people, or from answers of the model that were checked.
    """
    wrong = int(problem["answer"]) + 1
    return {
        "prompt": f"### Question:\n{problem['question']}\n\n### Answer:\n",
        "chosen": f"{problem['solution']}\n#### {problem['answer']}",
        "rejected": f"{problem['solution']}\n#### {wrong}",
    }


def answer_logprobs(model, tokenizer, prompts, answers):
    """log p(answer | prompt), in nats: one value per pair, the stop token included."""
    starts = [len(tokenizer(prompt).input_ids) for prompt in prompts]
    encoded = [
        [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    longest = max(map(len, encoded))
    # Padding is on the right. No real token looks to its right, so none sees the padding.
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in encoded])
    logprobs = model(ids).logits[:, :-1].float().log_softmax(-1)
    # The logits at position i predict token i + 1.
    of_tokens = logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    place = torch.arange(1, longest)
    first, last = torch.tensor(starts)[:, None], torch.tensor([*map(len, encoded)])[:, None]
    return (of_tokens * ((first <= place) & (place < last))).sum(-1)


def batch_loss(model, tokenizer, pairs):
    """The loss of a batch, the mean over its pairs (ln 2 = 0.69 is chance), and the margins."""
    prompts = [pair["prompt"] for pair in pairs]
    ratios = []
    for side in ("chosen", "rejected"):
        answers = [pair[side] for pair in pairs]
        ours = answer_logprobs(model, tokenizer, prompts, answers)
        with torch.no_grad(), model.disable_adapter():
            reference = answer_logprobs(model, tokenizer, prompts, answers)
        ratios.append(ours - reference)
    margins = BETA * (ratios[0] - ratios[1])
    return -logsigmoid(margins).mean(), margins.detach()


def train(model, tokenizer, pairs):
    """One step of AdamW for each batch of pairs, in random order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    order = torch.randperm(len(pairs)).tolist()
    for step in range(STEPS):
        batch = [pairs[place] for place in order[step * BATCH : (step + 1) * BATCH]]
        loss, margins = batch_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == STEPS - 1:
            right = (margins > 0).float().mean()
            print(f"step {step:3d}   loss {loss.item():.3f}   chosen preferred {right:.2f}")


def main():
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny", device="cpu")
    # LoRA: the model's own weights stay as they are. Beside each linear layer two small matrices
    # are trained, and their product is added to what the layer computes.
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    problems = load_problems("tiny-gsm", split="train", limit=STEPS * BATCH)
    held_out = load_problems("tiny-gsm", split="test", limit=100)
    pairs, tests = ([pair_of(problem) for problem in part] for part in (problems, held_out))

    def measure():
        with torch.no_grad():
            loss, margins = batch_loss(model, tokenizer, tests)
        return f"loss {loss.item():.3f}   chosen preferred {(margins > 0).float().mean():.2f}"

    print(f"held out     {measure()}")
    train(model, tokenizer, pairs)
    print(f"held out     {measure()}")


if __name__ == "__main__":
    main()
