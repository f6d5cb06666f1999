# %%
# Colab only: install what is missing, change no installed version.
import sys

if "google.colab" in sys.modules:
    !pip list --format=freeze | sed "s/+.*//" > /tmp/installed.txt
    !rm -rf /tmp/mathsft; git clone -q --depth 1 -b v0.1.0 \
        https://github.com/mathsft/mathsft /tmp/mathsft
    !pip install -q -c /tmp/installed.txt \
        -r /tmp/mathsft/requirements.txt /tmp/mathsft

# %% [markdown]
# # 06 · Solutions
#
# The exercises of `06_rewards.ipynb`, solved. This notebook runs on its own:
# the first cells create what the exercises use.

# %%
import random

import torch
from torch.nn.functional import logsigmoid

from mathsft import check_judge, exercise, known_completions, load_problems

# %% [markdown]
# **1.** pass@k: all k are wrong in C(n − c, k) of the C(n, k) possible draws.

# %%
from math import comb


def pass_at(k, n, c):
    return 1 - comb(n - c, k) / comb(n, k)


print(pass_at(8, 16, 1))

# %% tags=["exercise", "nbval-check-output"]
with exercise(1):
    from itertools import combinations

    draw = random.Random(1)
    for _ in range(15):
        n = draw.randint(4, 9)
        k, c = draw.randint(2, n), draw.randint(0, n)
        attempts_n = [1] * c + [0] * (n - c)
        drawn = [any(some) for some in combinations(attempts_n, k)]
        share, mine = sum(drawn) / len(drawn), pass_at(k, n, c)
        told = f"k = {k}, n = {n}, c = {c}: {share:.3f} of all draws"
        assert abs(mine - share) < 1e-9, f"{told}, not {mine:.3f}"


# %% [markdown]
# 1 − (1 − c/n)^k draws *with* replacement. It is too small: the same wrong
# attempt may be drawn twice.
#
# **2.** A rule that no trick of `known_completions` fools.

# %%
def my_reward(completions, answer, **columns):
    rewards = []
    for text, right in zip(completions, answer):
        _, mark, given = text.partition("####")
        rewards.append(float(bool(mark) and given.strip() == right))
    return rewards


others = load_problems("tiny-gsm", split="test", limit=100)
print(my_reward(["1 + 1 = 2\n#### 2", "#### 2\n#### 2"], ["2", "2"]))

# %% tags=["exercise", "nbval-check-output"]
with exercise(2):
    tricked = check_judge(my_reward, others, allowed=1)
    assert not any(tricked.values()), f"fooled, as a share: {tricked}"
    texts = [known_completions(row)["right"] for row in others]
    given = my_reward(completions=texts, answer=others["answer"])
    assert set(given) == {1.0}, "every right answer earns 1"
    swapped = others["answer"][1:] + others["answer"][:1]
    given = my_reward(completions=texts, answer=swapped)
    same = [a == b for a, b in zip(others["answer"], swapped)]
    assert given == [float(s) for s in same], "answers to other problems"


# %% [markdown]
# After the first mark nothing may stand but the number, so a second mark
# spoils it.
#
# **3.** Bradley and Terry's chances come from differences of values.

# %%
def chain(p, q):
    odds = p / (1 - p) * q / (1 - q)
    return odds / (1 + odds)


print(round(chain(0.8, 0.8), 3))

# %% tags=["exercise", "nbval-check-output"]
with exercise(3):
    draw = random.Random(3)
    for _ in range(15):
        values = [draw.uniform(-3, 3) for _ in "abc"]
        a, b, c = torch.tensor(values, dtype=torch.float64)
        p, q = torch.sigmoid(a - b).item(), torch.sigmoid(b - c).item()
        mine, right_one = chain(p, q), torch.sigmoid(a - c).item()
        told = f"p = {p:.3f}, q = {q:.3f}: {right_one:.3f}"
        assert abs(mine - right_one) < 1e-6, f"{told}, not {mine:.3f}"

# %% [markdown]
# Margins add, so odds multiply. With 80 % twice, A beats C with 94 %.
#
# **4. Change.** The lesson's pairs and functions are needed here. To be
# quick, this notebook makes its pairs by rule: a right solution, and the same
# one without its last line. They are much easier than the lesson's.

# %%
from mathsft import (
    RewardModel,
    load_model,
    load_reward_model,
    make_trainer,
    run_dir,
    sft_prompt,
)

# %%
SEED = 0
recipe = {"model": {"name": "tiny", "quantize": False}}
tokenizer = load_model(**recipe["model"])[1]
found = load_problems("tiny-gsm", split="train", limit=28)
made = []
for row in found:
    text = known_completions(row)["right"]
    pair = {"chosen": text, "rejected": text.rpartition("\n")[0]}
    made.append({"prompt": sft_prompt(row["question"]), **pair})
pairs, held_out = made[:16], made[16:]


# %%
def train_judge(name, rows=pairs):
    judge, _ = load_reward_model(**recipe["model"], lora=True, seed=SEED)
    trainer = make_trainer(
        judge, tokenizer, rows, RewardModel(), seed=SEED,
        output_dir=run_dir("06_solutions") / name, learning_rate=3e-3,
        num_train_epochs=8, per_device_train_batch_size=4,
    )  # fmt: skip
    trainer.train()
    return trainer


# %%
def value(judge, prompt, answer):
    ids = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
    ids = torch.tensor([ids])
    hidden = judge(ids, output_hidden_states=True).hidden_states[-1]
    return judge.score(hidden[0, -1])


def margin(judge, pair):
    judge.eval()
    with torch.no_grad():
        c = value(judge, pair["prompt"], pair["chosen"])
        return (c - value(judge, pair["prompt"], pair["rejected"])).item()


judge = train_judge("all").model

# %%
my_guess = "higher"
my_rows = pairs[: len(pairs) // 4]
my_judge = train_judge("mine", rows=my_rows).model

# %% tags=["exercise", "nbval-check-output"]
with exercise(4):
    loss, size = {}, {}
    for name, one in {"all": judge, "mine": my_judge}.items():
        found = torch.tensor([margin(one, p) for p in held_out[:40]])
        loss[name] = -logsigmoid(found).mean().item()
        size[name] = found.abs().mean().item()
    told = ", ".join(f"{name} {value:.3f}" for name, value in loss.items())
    assert size["mine"] > 0.1, "its margins are near 0: train my_judge"
    assert loss["mine"] != loss["all"], f"{told}: that is the judge above"
    assert len(my_rows) <= len(pairs) / 3, "a quarter of the pairs"
    really = "higher" if loss["mine"] > loss["all"] else "lower"
    assert my_guess == really, f"{told}: not {my_guess!r}"

# %% [markdown]
# A quarter of the pairs is a quarter of the steps, too: two changes at once.
# And this is one run. For a claim, train for as many steps on both, repeat it
# with other quarters, and compare the judges pair by pair.
