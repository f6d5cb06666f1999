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
# # 07 · Solutions
#
# The exercises of `07_reinforcement.ipynb`, solved. This notebook runs on its own: the first
# cells create what the exercises use.

# %%
import torch

from mathsft import exercise


# %% [markdown]
# **1.** RLOO compares an answer with the mean of the *other* answers of its group.

# %%
def rloo_advantages(rewards):
    others = len(rewards) - 1
    return [r - (sum(rewards) - r) / others for r in rewards]


print(rloo_advantages([1, 0, 0, 0]))

# %% tags=["exercise", "nbval-check-output"]
with exercise(1):
    from mathsft import RLOO

    draw = torch.Generator().manual_seed(7)
    for size in (2, 3, 8):
        rewards = torch.randn(size, generator=draw).tolist()
        mine = rloo_advantages(rewards)
        assert len(mine) == size, "one advantage for each reward"
        assert any(mine), "is an answer as good as the others?"
        for a, b in zip(mine, RLOO().advantages([rewards])[0]):
            assert abs(a - b) < 1e-6, f"of {size} answers: leave one out"


# %% [markdown]
# It is the advantage of the whole group times G / (G − 1): the same direction, and a little
# longer.
#
# **2.** The gradient of a clipped token with respect to its log-probability.

# %%
def clipped_slope(ratio, advantage, epsilon=0.2):
    too_high = ratio > 1 + epsilon and advantage > 0
    too_low = ratio < 1 - epsilon and advantage < 0
    return 0.0 if too_high or too_low else -ratio * advantage


print([clipped_slope(r, 1.0) for r in (0.5, 1.0, 1.5)])

# %% tags=["exercise", "nbval-check-output"]
with exercise(2):
    draw = torch.Generator().manual_seed(8)
    for value in (torch.rand(40, generator=draw) + 0.5).tolist():
        for advantage in (-1.5, 0.7):
            lp = torch.tensor(value).log().requires_grad_()
            ratio = lp.exp()
            clipped = ratio.clamp(0.7, 1.3) * advantage
            (-torch.minimum(ratio * advantage, clipped)).backward()
            mine = float(clipped_slope(value, advantage, epsilon=0.3))
            told = f"ratio {value:.2f}, advantage {advantage}"
            assert abs(mine - lp.grad.item()) < 1e-5, told


# %% [markdown]
# A token that is already much likelier is not pushed further up, and one that is already much
# less likely is not pushed further down. It may always come back.
#
# **3.** Eight attempts, each right with chance p: how likely is a group with signal?

# %%
def chance_of_signal(p, attempts=8):
    return 1 - p**attempts - (1 - p) ** attempts


best_p = 0.5
print([round(chance_of_signal(p), 2) for p in (0.01, 0.5, 0.99)])

# %% tags=["exercise", "nbval-check-output"]
with exercise(3):
    draw = torch.Generator().manual_seed(9)
    for size in (2, 4, 8):
        for p in torch.rand(3, generator=draw).tolist():
            right = (torch.rand(40_000, size, generator=draw) < p).sum(1)
            share = ((right > 0) & (right < size)).float().mean().item()
            told = f"{size} attempts, p = {p:.2f}"
            assert abs(chance_of_signal(p, size) - share) < 0.02, told
    grid = [n / 100 for n in range(1, 100)]
    assert best_p in grid, "best_p is a chance between 0 and 1"
    highest = max(map(chance_of_signal, grid))
    assert chance_of_signal(best_p) > highest - 1e-9, "not the best p"

# %% [markdown]
# Nothing is learned from problems that are nearly always or nearly never solved. This is why
# the reward of a run and its share of groups without signal belong together.
#
# **4.** The same run with the recipe's own rate and warm-up. First the lesson's start: eight
# worked solutions, and its helpers.

# %%
from mathsft import (
    DrGRPO,
    FinalAnswer,
    add_adapter,
    load_adapter,
    load_model,
    load_problems,
    load_recipe,
    quiet,
    rollout_trainer,
    run_dir,
    save_adapter,
    sft_prompt,
    sft_trainer,
)

# %%
from mathsft import wilson_interval, worked_answers

quiet()
recipe = load_recipe("tiny")
recipe["model"]["quantize"] = False
train = load_problems(**{**recipe["train"], "limit": 4000})
test = load_problems(**recipe["test"])
few, pool = train.select(range(8)), train.select(range(8, len(train)))
FEW = {**recipe["sft"], "num_train_epochs": 20, "packing": False}
FEW |= {"max_steps": -1, "lr_scheduler_type": "constant"}

# %%
model, tokenizer = load_model(**recipe["model"])
model = add_adapter(model, seed=0)
sft_trainer(
    model, tokenizer, few, output_dir=run_dir("07_few"), **FEW
).train()
start = save_adapter(
    model, run_dir("07_few") / "adapter", tokenizer=tokenizer
)


def from_start():
    base, _ = load_model(**recipe["model"])
    return load_adapter(base, start, is_trainable=True)


# %%
def solved(model, problems):
    answers = worked_answers(model, tokenizer, problems, **recipe["worked"])
    return [answer["correct"] for answer in answers]


def logprobs(model, prompt, answer):
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    every = model(ids).logits[0].float().log_softmax(-1)
    places = range(len(prompt), ids.shape[1])
    return torch.stack([every[i - 1, ids[0, i]] for i in places])


# %%
RATE = recipe["dr_grpo"]["learning_rate"]
CHANGES = {"learning_rate": RATE, "warmup_steps": 5}
settings = {**recipe["dr_grpo"], **recipe["rollout"], **CHANGES}
settings |= {"max_steps": 6, "per_device_train_batch_size": 8}
saved = from_start()
trainer = rollout_trainer(
    saved, tokenizer, pool, DrGRPO(), FinalAnswer(),
    output_dir=run_dir("07_rl") / "saved", seed=0, **settings,
)  # fmt: skip
trainer.train()
for e in trainer.state.log_history:
    if "reward" in e:
        print(f"step {e['step']}: reward {e['reward']:.2f}", end=", ")
        print(f"ended {e['completions/ended']:.0%}")
print(wilson_interval(solved(saved, test.select(range(100)))))

# %% tags=["exercise", "nbval-check-output"]
with exercise(4):
    ids = tokenizer(sft_prompt(test[0]["question"])).input_ids
    answer = tokenizer(" 12 + 7 = 19.").input_ids
    with torch.no_grad():
        new, old = (
            logprobs(m.eval(), ids, answer) for m in (saved, from_start())
        )
    moved = (new - old).abs().max().item()
    assert moved > 0.01, "these are the weights of the start: train"
    hidden = pool.select(range(3000, 3040))
    share = sum(solved(saved, hidden)) / len(hidden)
    assert share > 0.2, f"it solves {share:.0%} of 40 other problems"

# %% [markdown]
# The run no longer collapses. With six short steps, it does not get far either: compare the
# interval with that of the start in the lesson before you call it better. This is a single
# run with half of the lesson's problems in a step. Try the two changes one by one, and
# watch the reward of the first steps.
