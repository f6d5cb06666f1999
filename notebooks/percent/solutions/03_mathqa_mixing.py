# %% [markdown]
# # 03 · Solutions
#
# The exercises of `03_mathqa_mixing.ipynb`, solved. This notebook runs on its own: the
# first cells create what the exercises use.

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
from fractions import Fraction

from mathsft import exercise, quiet

quiet()
public = {  # rows, passes, batch size
    "MathQA": (1500, 3, 4),
    "MathQA + GSM8K": (3000, 1, 2),
}


# %% [markdown]
# **1.** Were the two runs of the public experiment equal? Write
# `budget(rows, passes, batch)`, which returns the number of optimiser steps and
# the number of rows seen. A pass leaves out the rows at its end that do not fill
# a batch. Then use it on `public`.

# %%
def budget(rows, passes, batch):
    steps = passes * (rows // batch)
    return steps, steps * batch


for name, plan in public.items():
    print(f"{name:15} steps, rows seen: {budget(*plan)}")

# %% tags=["exercise", "nbval-check-output"]
with exercise(1):
    import random

    from torch.utils.data import DataLoader

    draw = random.Random(3)
    for _ in range(20):
        rows, batch = draw.randint(20, 200), draw.randint(2, 9)
        passes = draw.randint(1, 4)
        loader = DataLoader(range(rows), batch_size=batch, drop_last=True)
        batches = [len(b) for _ in range(passes) for b in loader]
        steps, seen = budget(rows, passes, batch)
        case = f"{rows} rows, {passes} passes, batches of {batch}"
        assert steps == len(batches), f"{case}: {steps} steps is wrong"
        assert seen == sum(batches), f"{case}: {seen} rows seen is wrong"


# %% [markdown]
# 1,125 steps against 1,500, and 4,500 rows seen against 3,000: the runs differ
# in both, and in the batch size. So a difference between their results cannot
# be attributed to the data.

# %% [markdown]
# **2.** Use weights instead of counts: 10 rows in shares of `[0.5, 0.25, 0.25]` are 5, 2.5
# and 2.5. Write `shares(weights, total)`, which returns whole numbers that add up to
# `total`, each less than one row from its exact share. Round down, then give the missing rows to the
# largest remainders. If remainders are equal, the first ones come first. (The weights add
# up to 1.)

# %%
def shares(weights, total):
    exact = [total * Fraction(str(w)) for w in weights]
    whole = [int(x) for x in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: total - sum(whole)]:
        whole[i] += 1
    return whole


shares([0.29, 0.71], 100)

# %% tags=["exercise", "nbval-check-output"]
with exercise(2):
    import numpy as np

    draw = np.random.default_rng(4)
    for _ in range(50):
        weights = (draw.multinomial(60, [1 / 4] * 4) + 1) / 64
        total = int(draw.integers(5, 500))
        found = np.array(shares(weights.tolist(), total))
        case = f"weights {weights.tolist()}, total {total}: {found}"
        assert found.sum() == total, f"{case}: the sum is {found.sum()}"
        rest = total * weights - np.floor(total * weights)
        up = found - np.floor(total * weights)
        assert set(up) <= {0, 1}, f"{case}: a row or more too far"
        low, high = rest[up == 1], rest[up == 0]
        fair = not len(low) or not len(high) or low.min() >= high.max()
        assert fair, f"{case}: not the largest remainders"
        tied = [up[rest == r] for r in set(rest)]
        assert all((np.diff(t) <= 0).all() for t in tied), f"{case}: ties"

# %% [markdown]
# This is the method of largest remainders. The fractions are exact because in floating
# point 0.29 * 100 is 28.999…, and rounding that down gives 28. `mix_datasets` does the
# same.

# %% [markdown]
# **3.** Is a template enough? `two boxes hold # and # pens` and
# `two boxes hold # and # balls` are two templates, but hardly two questions. Write
# `contained(question, others, n)`: the share of the question's runs of `n` words that
# occur in one of `others`. A run is made of neighbouring words of one question. Each run
# counts once, however often it occurs. A question with no run has 0.0.

# %%
import random


def word_runs(question, n):
    words = question.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def contained(question, others, n=3):
    mine = word_runs(question, n)
    theirs = set().union(*(word_runs(other, n) for other in others))
    return len(mine & theirs) / len(mine) if mine else 0.0


contained("two boxes hold eggs", ["two boxes hold pens"])

# %% tags=["exercise", "nbval-check-output"]
with exercise(3):
    draw = random.Random(5)
    words = [f"w{i}" for i in range(100)]
    for _ in range(50):
        mine, n = draw.sample(words, 12), draw.randint(2, 4)
        begin, length = draw.randint(0, 5), draw.randint(0, 7)
        copied = mine[begin : begin + length]
        other = " ".join(["x", *copied, "y"])
        share = max(0, length - n + 1) / (12 - n + 1)
        found = contained(" ".join(mine), ["a b c", other], n)
        case = f"{length} of 12 words copied, n = {n}: {found:.3f}"
        assert abs(found - share) < 1e-9, f"{case}, not {share:.3f}"
    assert contained("a b", ["a b"], n=3) == 0.0, "no run of 3 words"
    split = contained("p q r", ["p q", "r s"], n=3)
    assert split == 0.0, "that run crosses from one question to the next"
    again = contained("a b a b x", ["a b"], n=2)
    assert 0.3 < again < 0.4, "a run counts once, however often it occurs"

# %% [markdown]
# `overlap` computes this for every test question at once: it indexes the *test's* runs,
# then reads the training rows once. (A question of fewer than `n` words has no run. Then
# `overlap` looks for the whole question.)

# %% [markdown]
# **4. Change the mixture.** Choose other counts that add up to the mixture's
# `2 * ROWS`, for example three quarters MathQA, and train again from the same
# start, for as many steps. Does it beat the lesson's mixture by a p below 0.05?
# In the lesson, a cell trains in well under 20 seconds on a free CPU. It also computes
# the *loss*: the mean of −log p(right choice), where p is the softmax over the
# choices. That says more than right or wrong when there are few questions.

# %% [markdown]
# This notebook has no start from lesson 03, so it trains the untrained adapter
# for a few steps. First what the exercise uses:

# %%
import numpy as np
import torch

from mathsft import (
    add_adapter,
    add_choices,
    choice_logprobs,
    load_model,
    load_problems,
    mix_datasets,
    multiple_choice_trainer,
    run_dir,
)

# %%
ROWS, SEEDS = 120, [0]
sets = {
    "mathqa": load_problems("tiny-mathqa", split="train", limit=400),
    "grade school": add_choices(load_problems("tiny-gsm", limit=400)),
}
test = load_problems("tiny-mathqa", split="test", limit=100)
runs = {"MathQA + grade school": {"mathqa": ROWS, "grade school": ROWS}}
model, tokenizer = load_model("tiny", quantize=False)
model = add_adapter(model, lora_dropout=0.0)
weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
start_weights = {name: p.detach().clone() for name, p in weights.items()}


# %%
def loss(problems):
    scores = choice_logprobs(model, tokenizer, problems)
    return float(np.mean([
        torch.tensor(s).logsumexp(0) - s[label]
        for s, label in zip(scores, problems["label"])
    ]))  # fmt: skip


def train_mine(parts):
    runs["mine"] = parts
    rows = mix_datasets(parts, datasets=sets, test=test, seed=SEEDS[0])
    multiple_choice_trainer(
        model, tokenizer, rows, output_dir=run_dir("03_solutions"),
        max_steps=2 * ROWS // 8, per_device_train_batch_size=8,
        learning_rate=1e-3, temperature=4.0, max_length=256, seed=SEEDS[0],
        logging_strategy="no", save_strategy="no",
    ).train()  # fmt: skip


# %% tags=["change"]
my_parts = {"mathqa": 180, "grade school": 60}  # three quarters MathQA
train_mine(my_parts)

# %% tags=["exercise", "nbval-check-output"]
with exercise(4):
    assert my_parts, "choose your counts in the cell above, and run it"
    usual = runs["MathQA + grade school"]
    total = sum(my_parts.values())
    assert total == 2 * ROWS, f"{total} rows instead of {2 * ROWS}"
    assert my_parts != usual, "this is the lesson's mixture: change it"
    assert runs.get("mine") == my_parts, "train this mixture first"
    after = loss(test.select(range(min(200, len(test)))))
    with torch.no_grad():
        now = {key: value.clone() for key, value in weights.items()}
        for key, value in start_weights.items():
            weights[key].copy_(value)
        before = loss(test.select(range(min(200, len(test)))))
        for key, value in now.items():
            weights[key].copy_(value)
    found = f"loss before {before:.3f}, after {after:.3f}"
    assert after < before, f"{found}: not learned from your mixture"

# %% [markdown]
# Lower loss than before: the model has learned from this mixture. Whether it
# beats the lesson's mixture is another question, and needs the lesson's paired
# comparison: if its p is above 0.05, no difference shows.
