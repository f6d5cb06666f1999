# %% [markdown]
# # 05 · Solutions
#
# The exercises of `05_preferences.ipynb`, solved. This notebook runs on its
# own: the first cells create what the exercises use.

# %%
# Colab only: install what is missing, change no installed version.
import sys

if "google.colab" in sys.modules:
    !pip list --format=freeze | sed "s/+.*//" > /tmp/installed.txt
    !rm -rf /tmp/mathsft; git clone -q --depth 1 -b v0.1.0 \
        https://github.com/mathsft/mathsft /tmp/mathsft
    !pip install -q -c /tmp/installed.txt \
        -r /tmp/mathsft/requirements.txt /tmp/mathsft

# %%
import random

import torch
from torch.nn.functional import logsigmoid

from mathsft import DPO, exercise, pairs_from


# %% [markdown]
# **1.** IPO's loss of one pair, from the log-probabilities of the chosen and
# the rejected answer, and their numbers of tokens.

# %%
def ipo_loss(scores, reference, tokens, beta):
    gains = [
        (new - old) / n for new, old, n in zip(scores, reference, tokens)
    ]
    return (gains[0] - gains[1] - 1 / (2 * beta)) ** 2


print(ipo_loss([-4.0, -9.0], [-6.0, -8.0], [4, 2], beta=0.5))

# %% tags=["exercise", "nbval-check-output"]
with exercise(1):
    from types import SimpleNamespace as Side

    draw = random.Random(1)
    for _ in range(20):
        new, old = ([-draw.uniform(1, 9) for _ in "cj"] for _ in "no")
        tokens = [draw.randint(2, 30) for _ in "cj"]
        beta = draw.uniform(0.05, 1)
        sides = [
            Side(mean=n / k, sum=n, reference=Side(mean=o / k, sum=o))
            for n, o, k in zip(new, old, tokens)
        ]
        right = DPO(beta=beta, loss_type="ipo").pair_loss(*sides)
        mine = float(ipo_loss(new, old, tokens, beta))
        told = f"{new}, {old}, {tokens}, β = {beta:.2f}: {right:.4f}"
        assert abs(mine - right) < 1e-6 * (1 + right), f"{told}, not {mine}"


# %% [markdown]
# DPO always asks for a larger margin. IPO has an aim, 1/(2β) nats per token,
# and pulls back a pair that is beyond it.
#
# **2.** Pairs, answers that pass if each pair passes alone, and answers in
# one tree.

# %%
def counts(right, wrong):
    return right * wrong, 2 * right * wrong, right + wrong


print(counts(3, 5))

# %% tags=["exercise", "nbval-check-output"]
with exercise(2):
    draw = random.Random(2)
    for _ in range(10):
        right, wrong = draw.randint(1, 6), draw.randint(1, 6)
        texts = [f"try {n}" for n in range(right + wrong)]
        made = pairs_from(texts, [1.0] * right + [0.0] * wrong)
        sides = [p[side] for p in made for side in ("chosen", "rejected")]
        told = f"{right} right and {wrong} wrong attempts: not so many"
        mine = pairs_n, alone, tree = counts(right, wrong)
        assert pairs_n == len(made), f"{told} pairs as {pairs_n}"
        assert alone == len(sides), f"{told} answers alone as {alone}"
        assert tree == len(set(sides)), f"{told} answers in a tree: {tree}"

# %% [markdown]
# k right and m wrong attempts are k × m pairs, for the cost of k + m answers
# and one prompt.
#
# **3.** How strongly does a pair pull, if it is won or lost by z nats?

# %%
from math import exp


def pull(z, beta):
    return beta / (1 + exp(beta * z))


print([round(pull(z, 0.1), 3) for z in (-20, 0, 20)])

# %% tags=["exercise", "nbval-check-output"]
with exercise(3):
    draw = random.Random(3)
    for _ in range(20):
        at, beta = draw.uniform(-30, 30), draw.uniform(0.02, 1)
        z = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        (-logsigmoid(beta * z)).backward()
        mine = float(pull(at, beta))
        told = f"z = {at:.1f}, β = {beta:.2f}: {abs(z.grad):.4f}"
        assert abs(mine - abs(z.grad)) < 1e-6, f"{told}, not {mine:.4f}"

# %% [markdown]
# The derivative is −β σ(−βz): a lost pair pulls with up to β, a pair that is
# won by far hardly at all.
#
# **4. Change.** The lesson's model, pairs and functions are needed here. To
# be quick, this notebook takes the base model, and pairs made by rule: a
# right solution, and the same one with a wrong number at its end. Only six
# problems are watched.

# %%
from mathsft import (
    add_adapter,
    known_completions,
    load_model,
    load_problems,
    make_trainer,
    run_dir,
    sft_prompt,
)

tiny = {"name": "tiny", "quantize": False}
tokenizer = load_model(**tiny)[1]
made = []
for row in load_problems("tiny-gsm", split="train", limit=30):
    known = known_completions(row)
    pair = {"chosen": known["right"], "rejected": known["wrong number"]}
    made.append({"prompt": sft_prompt(row["question"]), **pair})
some, watched, small = made[:24], made[24:], {}


# %%
def from_start():
    return add_adapter(load_model(**tiny)[0], seed=0)


def train_pairs(model, pairs, objective, name, **changes):
    trainer = make_trainer(
        model, tokenizer, pairs, objective, seed=0,
        output_dir=run_dir("05_solutions") / name, learning_rate=1e-3,
        per_device_train_batch_size=6, warmup_steps=2, **changes,
        num_train_epochs=2,
    )  # fmt: skip
    trainer.train()
    return trainer


# %%
def log_prob(model, prompt, answer):
    begun = len(tokenizer(prompt).input_ids)
    ids = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    logprobs = logits.log_softmax(-1)
    return sum(logprobs[i - 1, ids[i]] for i in range(begun, len(ids)))


def scores_of(model):
    return torch.tensor([
        [log_prob(model, p["prompt"], p[s]) for s in ("chosen", "rejected")]
        for p in watched
    ])  # fmt: skip


before = scores_of(from_start())


# %%
def moved(model):
    return scores_of(model) - before


usual = from_start()
train_pairs(usual, some, DPO(beta=0.1), "usual", **small)
gains = {"DPO": moved(usual)}

# %%
my_guess = "less"
my_beta = 0.5
my_model = from_start()
train_pairs(my_model, some, DPO(beta=my_beta), "mine", **small)
for beta, both in {0.1: gains["DPO"], my_beta: moved(my_model)}.items():
    print(f"β = {beta}: moved by {both.abs().mean():.1f} nats on average")

# %% tags=["exercise", "nbval-check-output"]
with exercise(4):
    size = moved(my_model).abs().mean().item()
    assert size > 0, "my_model is as it was at the start: train it"
    assert my_beta >= 0.3, "choose a β of at least three times 0.1"
    usual = gains["DPO"].abs().mean().item()
    told = f"with β = {my_beta} {size:.2f} nats, with 0.1 {usual:.2f}"
    assert abs(size - usual) > 1e-4, f"{told}: was it trained with my_beta?"
    really = "more" if size > usual else "less"
    assert my_guess == really, f"{told}: not {my_guess!r}"

# %% [markdown]
# With a large β, the pull of a pair falls to almost nothing once its margin
# is a few nats: the figure of the lesson shows it. What β does depends on the
# rate and the number of steps as well. This is one run.
