# %% [markdown]
# # 05 · Learning from better and worse answers
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/05_preferences.ipynb)
#
# Lesson 01 needed 1,200 worked solutions. Here the model gets *eight*, and
# then writes its own: several attempts at each problem, some right and some
# wrong. Nobody writes another solution. A right attempt next to a wrong one
# is a **pair**, and pairs are enough to train on.
#
# You will learn
# - how to make pairs from a model's own attempts;
# - the loss of **DPO**, by hand, and its relatives;
# - what each of them does to the probability of the *better* and of the
#   *worse* answer, and why both may fall;
# - how a run collapses, and where you see it first;
# - to compare two models on the same problems before you believe a
#   difference.
#
# **Time.** With the embedded tiny model, and a second lesson beside it on two
# CPU cores, the lesson took between two and three minutes. On a T4 it loads Qwen2.5-0.5B-Instruct and GSM8K from the hub instead. That has
# not been timed yet.

# %% [markdown]
# **Words.** A *preference pair* is a prompt with a *chosen* and a *rejected*
# answer. The *policy* is the model that is trained. The *reference* is the
# model as it was before this training; it does not change. The
# *log-probability* of an answer is the sum over its tokens, in *nats*
# (natural logarithms): at −7 nats the model would write exactly this answer
# about once in a thousand attempts.

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
from mathsft import describe, load_recipe, load_settings, quiet, run_dir

quiet()
tokens = load_settings()  # names of your access tokens; none needed
describe()

# %% tags=["parameters"]
import os

import torch
from torch.nn.functional import logsigmoid

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
SOURCE = os.environ.get("MATHSFT_SOURCE")  # a .jsonl file of your own
SEED = 0
recipe = load_recipe(PROFILE)
if recipe["model"]["name"] == "tiny":
    recipe["model"]["quantize"] = False  # it is small enough
    recipe["worked"]["batch_size"] = 300  # one batch is the fastest
else:
    recipe["model"]["name"] += "-Instruct"
QUICK = int(os.environ.get("MATHSFT_QUESTIONS") or 512)  # a quick look
PROMPTS = min(128, QUICK // 4)
{key: recipe[key] for key in ("model", "sample", "dpo")}

# %% [markdown]
# ## Eight worked solutions
#
# The model first learns the form from eight solutions: a worked answer, a
# last line `#### 42`, and a stop. It sees them 20 times.

# %%
from mathsft import load_problems

if SOURCE:
    rows = load_problems(SOURCE)
    held_out = min(recipe["test"].get("limit", 300), len(rows) // 5)
    parts = rows.train_test_split(test_size=held_out, seed=SEED)
    train, test = parts["train"], parts["test"]
else:
    train = load_problems(**recipe["train"])
    test = load_problems(**recipe["test"])
few, pool = train.select(range(8)), train.select(range(8, len(train)))
print("in both:", len(set(train["question"]) & set(test["question"])))

# %%
from mathsft import add_adapter, load_model, save_adapter, sft_trainer

PASSES = 20
FEW = {**recipe["sft"], "num_train_epochs": PASSES, "packing": False}
FEW |= {"max_steps": -1, "lr_scheduler_type": "constant"}
model, tokenizer = load_model(**recipe["model"])
model = add_adapter(model, seed=SEED)
trainer = sft_trainer(
    model, tokenizer, few, output_dir=run_dir("05_few"), **FEW
)
trainer.train()
start = save_adapter(
    model, run_dir("05_few") / "adapter", tokenizer=tokenizer
)

# %%
from mathsft import wilson_interval, worked_answers


def solved(model, problems=test):
    """Which problems the model solves, greedily."""
    answers = worked_answers(model, tokenizer, problems, **recipe["worked"])
    return [answer["correct"] for answer in answers]


at_start = solved(model)
print("after eight solutions:", wilson_interval(at_start))

# %% [markdown]
# Greedy decoding writes one answer per problem. Sampling writes a different
# one each time, and among several attempts there is often a right one. That
# is what the pairs are made of.
#
# ## Attempts

# %%
from mathsft import extract_answer, same_answer


def reward_of(attempt, right):
    """1 if the attempt has the right answer, and stopped by itself."""
    found = extract_answer(attempt.text)
    return float(attempt.ended and same_answer(found, right))


# %%
from mathsft import sample_groups, sft_prompt


def attempts(model, problems, seed):
    """The model's attempts at each problem, and a reward for each."""
    prompts = [sft_prompt(question) for question in problems["question"]]
    groups = sample_groups(
        model, tokenizer, prompts, seed=seed, **recipe["sample"]
    )
    rewards = [
        [reward_of(attempt, right) for attempt in group]
        for group, right in zip(groups, problems["answer"])
    ]
    return prompts, groups, rewards


# %% [markdown]
# **Predict.** The model attempts each of 128 problems eight times. About a
# third of all attempts will be right. How many *problems* have at least one
# right attempt? How many have only right ones?
#
# <details>
# <summary>Answer</summary>
#
# 65.6 % have at least one, 5.5 % have only right ones. If every attempt were
# right with the same chance, p = 34.4 %, then 1 − (1 − p)⁸ = 96.6 % of the
# problems would have a right one. But problems differ: some are nearly always
# solved, and some never. Only the problems in between give pairs.
#
# </details>

# %%
def share(values):
    values = list(values)
    return f"{sum(values) / len(values):.1%}"


problems = pool.select(range(min(PROMPTS, len(pool))))
prompts, groups, rewards = attempts(model, problems, SEED)
right = [r for group in rewards for r in group]
none_right = (1 - sum(right) / len(right)) ** len(groups[0])
print("attempts that are right:", share(right))
print("attempts that stopped:  ", share(a.ended for g in groups for a in g))
print("problems, one right:    ", share(any(g) for g in rewards))
print("  if all were alike:    ", f"{1 - none_right:.1%}")
print("problems, all right:    ", share(all(g) for g in rewards))

# %%
# A problem with right and wrong attempts.
n = next(n for n, g in enumerate(rewards) if 0 < sum(g) < len(g))
print(problems["question"][n], "→", problems["answer"][n], "\n")
for attempt, reward in list(zip(groups[n], rewards[n]))[:4]:
    print(
        "right:" if reward else "wrong:", attempt.text.strip()[-150:], "\n"
    )

# %% [markdown]
# Only the final answer is checked, and that the attempt stopped. A problem
# whose attempts are all right, or all wrong, gives no pair: nothing there is
# better than something else. `pairs_from` keeps at most four pairs per
# problem, so that no problem counts much more than another.

# %%
from mathsft import pairs_from


def make_pairs(prompts, groups, rewards, keep=4):
    return [
        {"prompt": prompt, **pair}
        for prompt, group, scores in zip(prompts, groups, rewards)
        for pair in pairs_from([a.text for a in group], scores, keep=keep)
    ]


pairs = make_pairs(prompts, groups, rewards)
assert pairs, "no problem has right and wrong attempts: attempt more"
asked = list(dict.fromkeys(pair["prompt"] for pair in pairs))
last = set(asked[-max(1, len(asked) // 6) :])  # these are only watched

# %%
watched = [pair for pair in pairs if pair["prompt"] in last]
watched = watched[::2]  # every other one, to save time
pairs = [pair for pair in pairs if pair["prompt"] not in last]
print(
    f"{len(pairs)} pairs of {len(asked) - len(last)} problems to train on"
)
seen = {pair["prompt"] for pair in watched}
print(f"{len(watched)} pairs of {len(seen)} problems to watch")


# %% [markdown]
# ## The loss, by hand
#
# How much likelier is an answer under the policy than under the reference?
#
# $$r(y) = \log \pi(y \mid x) - \log \pi_{\text{ref}}(y \mid x)$$
#
# - $x$ is the prompt, $y$ an answer to it;
# - $\pi(y \mid x)$ is the probability of the whole answer under the policy,
#   and $\pi_{\text{ref}}$ that under the reference;
# - $r(y)$ is what the answer has *gained*, in nats.
#
# DPO, direct preference optimisation
# ([Rafailov et al. 2023](https://arxiv.org/abs/2305.18290)), wants the chosen
# answer $c$ to gain more than the rejected answer $j$:
#
# $$\text{loss} = -\log \sigma(\beta z), \qquad z = r(c) - r(j)$$
#
# - $z$ is the *margin*: by how much the chosen answer gained more;
# - $\sigma(u) = 1/(1 + e^{-u})$, the sigmoid, turns it into a probability
#   that $c$ is the better one;
# - $\beta$ says how much a nat of margin counts. A small $\beta$ asks for a
#   large margin.

# %% [markdown]
# **Predict.** Before training, policy and reference are the same model. What
# is the loss?
#
# <details>
# <summary>Answer</summary>
#
# Nothing has gained anything, so z = 0 and the loss is −log σ(0) = ln 2 =
# 0.6931: without a difference, the sigmoid says one half.
#
# </details>

# %%
def log_prob(model, prompt, answer):
    """log p(answer and stop | prompt): a plain pass, no padding."""
    begun = len(tokenizer(prompt).input_ids)
    ids = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
    logits = model(torch.tensor([ids], device=model.device)).logits[0]
    logprobs = logits.float().log_softmax(-1)
    places = range(begun, len(ids))
    return sum(logprobs[i - 1, ids[i]] for i in places)


# %%
def pair_scores(model, pair):
    model.eval()
    with torch.no_grad():
        return [
            log_prob(model, pair["prompt"], pair[side])
            for side in ("chosen", "rejected")
        ]


def dpo_loss(scores, reference, beta):
    gains = [new - old for new, old in zip(scores, reference)]
    return -logsigmoid(beta * (gains[0] - gains[1]))


reference = [pair_scores(model, pair) for pair in watched]
print(f"chosen {reference[0][0]:.1f}, rejected {reference[0][1]:.1f} nats")

# %% tags=["nbval-check-output"]
first = dpo_loss(reference[0], reference[0], beta=0.1)
print(f"loss before training: {first:.4f}")

# %% [markdown]
# **Predict.** Which pairs change the model most: those whose chosen answer is
# far ahead already (z = 40), or those where it is far behind (z = −40)?
#
# <details>
# <summary>Answer</summary>
#
# Those where it is behind. The slope of the loss is the weight of a pair in
# the gradient. With β = 0.1 it is nearly 0.1 at z = −40, and nearly 0 at z =
# 40. So a few pairs that the model gets wrong can decide where a run goes.
#
# </details>

# %%
import matplotlib.pyplot as plt

from mathsft import show_figure

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.8))
z = torch.linspace(-40, 40, 161, requires_grad=True)
for beta, style in ((0.02, ":"), (0.1, "-"), (0.2, "--")):
    loss = -logsigmoid(beta * z)
    slope = torch.autograd.grad(loss.sum(), z)[0]
    left.plot(z.detach(), loss.detach(), style, label=f"β = {beta}")
    right.plot(z.detach(), slope.abs(), style)
left.set(title="DPO's loss of one pair", xlabel="margin z, nats")
right.set(title="its weight in the gradient", xlabel="margin z, nats")
left.legend(frameon=False)
figure.tight_layout()
show_figure(
    "Left: a pair's loss; right: its weight. Both fall as the margin grows"
)

# %% [markdown]
# ## Training
#
# `make_trainer` takes the pairs and an objective. Two lines of its output
# matter. The pairs of one problem share a **tree**: the problem passes
# through the model once, not twice per pair, and an answer that is in two
# pairs passes once too. And the reference is not "the adapter switched off":
# that would be the model before the eight solutions. Its log-probabilities
# are computed once, before the first step, and kept with the pairs.

# %%
from mathsft import DPO, make_trainer


def train_pairs(model, pairs, objective, name, watch=None, **changes):
    trainer = make_trainer(
        model, tokenizer, pairs, objective, eval_rows=watch,
        output_dir=run_dir("05_pairs") / name, seed=SEED,
        **{**recipe["dpo"], **changes},
    )  # fmt: skip
    trainer.train()
    return trainer


trainer = train_pairs(model, pairs, DPO(beta=0.1), "dpo", watched)

# %%
log = [entry for entry in trainer.state.log_history if "loss" in entry]
figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.8))
steps = [entry["step"] for entry in log]
left.plot(steps, [entry["loss"] for entry in log])
left.set(title="loss per pair", xlabel="step")
for side, style in (("chosen", "-"), ("rejected", "--")):
    values = [entry[f"rewards/{side}"] / 0.1 for entry in log]
    right.plot(steps, values, style, label=side)
right.axhline(0, color="black", linewidth=0.5)
right.set(title="r(y), nats gained", xlabel="step")
right.legend(frameon=False)
figure.tight_layout()
show_figure(
    "Left: the loss per pair at each step. Right: what the chosen and the "
    "rejected answers of each step's pairs have gained since the start."
)

# %% [markdown]
# The right picture shows r(y), what an answer has gained since the start. The
# trainer logs it as `rewards/chosen` and `rewards/rejected`, times β, with
# TRL's names. Now the same number by hand, on the pairs that were only
# watched:

# %%
tuned = [pair_scores(model, pair) for pair in watched]
by_hand = torch.stack([
    dpo_loss(new, old, beta=0.1) for new, old in zip(tuned, reference)
])  # fmt: skip
found = trainer.evaluate()
print(
    f"loss by hand {by_hand.mean():.5f}, trainer {found['eval_loss']:.5f}"
)
close = 1e-3 if model.dtype == torch.float32 else 0.05
assert abs(by_hand.mean() - found["eval_loss"]) < close

# %% [markdown]
# To read the method in one file of plain PyTorch, open
# [minimal/dpo.py](https://github.com/mathsft/mathsft/blob/main/minimal/dpo.py):
# its loss and its gradients are the same.
#
# Did it help? Both models solved the same problems, so compare problem by
# problem, as in lesson 04: problems that only one of the two solves decide.
# If the models were equally good, each of those would be the toss of a coin.

# %%
from scipy.stats import binomtest


def versus(old, new):
    up = sum(n and not o for o, n in zip(old, new))
    down = sum(o and not n for o, n in zip(old, new))
    p = binomtest(up, up + down).pvalue if up + down else 1.0
    points = 100 * (up - down) / len(old)
    return f"{points:+.1f} points: {up} up, {down} down, p = {p:.2g}"


one_round = solved(model)
print("start:    ", wilson_interval(at_start))
print("one round:", wilson_interval(one_round))
print(versus(at_start, one_round))

# %% [markdown]
# One round took the model from 51.3 % of the test problems to 59.7 %: 60
# gained, 35 lost (p = 0.013, 300 problems). This is one run.

# %% [markdown]
# ## The same run in TRL
#
# TRL's names are the field's. Its `DPOTrainer` takes the same rows; the
# adapter as it is now becomes the reference. It pads every answer to the
# longest of its batch, and passes each prompt again for every answer. The
# numbers are the same: here are one step on 16 pairs, and then the loss on
# the watched pairs. `group_by_prompt=False` makes a row of each pair, as in
# TRL.

# %%
from mathsft import load_adapter


def from_start():
    base, _ = load_model(**recipe["model"])
    return load_adapter(base, start, is_trainable=True)


rate = recipe["dpo"]["learning_rate"]
ours = train_pairs(
    from_start(), pairs[:16], DPO(group_by_prompt=False), "as-trl",
    watched, max_steps=1, warmup_steps=0, per_device_train_batch_size=16,
    adam_beta2=0.999,
)  # fmt: skip
our_loss = ours.evaluate()["eval_loss"]

# %%
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

config = DPOConfig(
    str(run_dir("05_pairs") / "trl"), beta=0.1, learning_rate=rate,
    max_steps=1, per_device_train_batch_size=16, max_length=None,
    bf16=False, gradient_checkpointing=False, report_to="none",
    use_cpu=not torch.cuda.is_available(),
)  # fmt: skip
theirs = DPOTrainer(
    from_start(), args=config, processing_class=tokenizer,
    train_dataset=Dataset.from_list(pairs[:16]),
    eval_dataset=Dataset.from_list(watched),
)  # fmt: skip
theirs.train()
trl_loss = theirs.evaluate()["eval_loss"]
print(f"TRL {trl_loss:.5f}, ours {our_loss:.5f}")
assert abs(trl_loss - our_loss) < close

# %% [markdown]
# ## The family
#
# DPO has many relatives. With $m(y) = \log \pi(y \mid x) / |y|$, the mean
# log-probability per token ($|y|$ is the number of the answer's tokens, with
# the stop token):
#
# - **DPO + SFT** adds $-\alpha\, m(c)$, the usual loss on the chosen answer,
#   with a weight $\alpha$.
# - **IPO** ([Azar et al. 2023](https://arxiv.org/abs/2310.12036)) has an aim,
#   $1/(2\beta)$, for the margin per token:
#
# $$\Bigl(\tfrac{r(c)}{|c|} - \tfrac{r(j)}{|j|} - \tfrac{1}{2\beta}\Bigr)^2$$
#
# - **SimPO** ([Meng et al. 2024](https://arxiv.org/abs/2405.14734)) has no
#   reference and compares means, so that length alone changes nothing;
#   $\gamma$ is a margin that is asked for:
#
# $$-\log \sigma\bigl(\beta\,(m(c) - m(j)) - \gamma\bigr)$$
#
# - **ORPO** ([Hong et al. 2024](https://arxiv.org/abs/2403.07691)) has no
#   reference either. It is SFT on the chosen answer, plus a term that
#   compares the odds $o(y) = e^{m(y)} / (1 - e^{m(y)})$, with a weight
#   $\lambda$:
#
# $$-m(c) - \lambda \log \sigma\bigl(\log o(c) - \log o(j)\bigr)$$
#
# [KTO](https://arxiv.org/abs/2402.01306) needs no pairs: one answer and
# whether it is good is a row (`KTO`). It is not trained here.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.8))
z = torch.linspace(-4, 10, 141, requires_grad=True)
margin_losses = {
    "IPO, β = 0.1": (z - 5) ** 2 / 10,  # a tenth, to fit the picture
    "SimPO, β = 2, γ = 0.5": -logsigmoid(2 * z - 0.5),
}
for (name, loss), style in zip(margin_losses.items(), "-:"):
    slope = torch.autograd.grad(loss.sum(), z)[0]
    left.plot(z.detach(), loss.detach(), style, label=name)
    right.plot(z.detach(), -slope, style)
left.set(title="loss (IPO: a tenth)", xlabel="margin per token")
right.set(title="how it pushes the margin", xlabel="margin per token")
right.axhline(0, color="black", linewidth=0.5)
left.legend(frameon=False, fontsize=9)
figure.tight_layout()
show_figure(
    "IPO has its aim at 5: beyond it, it pushes back. SimPO never does."
)

# %% [markdown]
# ## What each method does to the two answers
#
# Each method trains from the same start, on the same quarter of the pairs,
# for eight steps. The table shows what the answers to the watched problems gained
# (first a mean for each problem, then over the problems), with Wilcoxon's
# paired test over the problems: *p c* for the chosen answers, *p m* for the
# margin.
#
# **Predict.** Which methods make the chosen answer *less* likely?
#
# <details>
# <summary>Answer</summary>
#
# By their losses, DPO, IPO and SimPO have no reason to keep the chosen answer
# likely: they only compare. DPO + SFT and ORPO have a term of SFT.
#
# In the means, all but ORPO made it less likely, by 0.2 nats (SimPO) to 0.9
# (DPO, IPO). But no p of the chosen answers is below 0.05; the smallest is
# 0.266. With 12 problems, this run shows no change of the chosen answers.
#
# </details>

# %%
import io
from contextlib import redirect_stdout

from scipy.stats import wilcoxon


def moved(model):
    """What the answers to each watched problem gained, in nats: (N, 2)."""
    gains = {}
    for pair, old in zip(watched, reference):
        new = torch.tensor(pair_scores(model, pair))
        gains.setdefault(pair["prompt"], []).append(new - torch.tensor(old))
    return torch.stack([torch.stack(g).mean(0) for g in gains.values()])


def p_of(values):
    return wilcoxon(values.tolist()).pvalue


# %%
from mathsft import ORPO, SimPO

METHODS = {
    "DPO": DPO(),
    "DPO + SFT": DPO(sft_weight=0.2),
    "IPO": DPO(loss_type="ipo"),
    "SimPO": SimPO(),
    "ORPO": ORPO(),
}
some = pairs[: len(pairs) // 4]  # to save time
small = {"per_device_train_batch_size": 2}
gains = {}
for name, objective in METHODS.items():
    other = from_start()
    with redirect_stdout(io.StringIO()):  # the same lines each time
        train_pairs(other, some, objective, name, **small)
    gains[name] = moved(other)


# %%
def table(gains):
    print(f"{'':10}chosen   p c  rejected margin   p m")
    for name, both in gains.items():
        c, j = both.mean(0).tolist()
        p_c, p_m = p_of(both[:, 0]), p_of(both[:, 0] - both[:, 1])
        told = f"{c:+6.1f} {p_c:5.3f} {j:+9.1f} {c - j:+6.1f} {p_m:5.3f}"
        print(f"{name:10}{told}")


table(gains)
print("watched problems:", len(gains["DPO"]))

# %%
figure, axes = plt.subplots(figsize=(6, 2.8))
places = torch.arange(len(gains))
for side, (name, shift) in enumerate((("chosen", -0.2), ("rejected", 0.2))):
    means = [both[:, side].mean().item() for both in gains.values()]
    axes.barh(places + shift, means, height=0.36, label=name)
axes.set_yticks(places, list(gains))
axes.invert_yaxis()
axes.axvline(0, color="black", linewidth=0.5)
axes.set(title="what the two answers gained", xlabel="nats")
axes.legend(frameon=False, fontsize=9)
figure.tight_layout()
show_figure(
    "For each method, two bars: the mean change of the log-probability of "
    "the chosen and of the rejected answers to the watched problems."
)

# %% [markdown]
# *Margin* is what the losses are about. In the mean it grew with every
# method, by 0.4 to 0.8 nats. The smallest p is ORPO's (0.009); the others
# have 0.301 or more. The table makes ten tests, so one small p among them is
# weak evidence. *Chosen* is what DPO, IPO and SimPO are *not* about: a
# margin may grow while both answers fall. A run in which that surely happened
# follows below.
#
# These are 12 problems and one run of each method. They do not rank the
# methods.

# %% [markdown]
# ## β
#
# β says how far the model may move.
#
# **Predict.** With β = 0.02 instead of 0.1, do the watched answers move more,
# or less?
#
# <details>
# <summary>Answer</summary>
#
# More. On average their log-probabilities changed by 1.95 nats instead of
# 1.68 (p = 0.003, 12 problems). The first picture says why that can be: with
# a small β, a pair that is far ahead still pulls.
#
# </details>

# %%
other = from_start()
with redirect_stdout(io.StringIO()):
    train_pairs(other, some, DPO(beta=0.02), "beta", **small)
by_beta = {"β = 0.1": gains["DPO"], "β = 0.02": moved(other)}
table(by_beta)
first, second = (both.abs().mean(1) for both in by_beta.values())
print(f"mean size {first.mean():.2f} and {second.mean():.2f} nats")
print(f"p = {p_of(second - first):.3f}")

# %% [markdown]
# With β = 0.02 the answers moved further (p = 0.003). The margin did not
# become larger for that: 0.6 nats in both runs.
#
# ## A run that collapses
#
# The loss only compares. It is content if the rejected answer falls faster
# than the chosen one. The probability then goes to texts that nobody looked
# at: answers that never stop, for example. Here is the run `DPO` of the table
# again, with one change: 16 times the learning rate.

# %%
other = from_start()
hot = train_pairs(
    other, some, DPO(), "collapse", learning_rate=16 * rate, **small
)
print("step  loss  r(chosen)  r(rejected)  won")
curve = [entry for entry in hot.state.log_history if "loss" in entry]
for entry in curve:
    c, j = (entry[f"rewards/{s}"] / 0.1 for s in ("chosen", "rejected"))
    won = entry["rewards/accuracies"]
    print(
        f"{entry['step']:4} {entry['loss']:5.2f} {c:10.1f} {j:12.1f} "
        f"{won:4.0%}"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.8))
steps = [entry["step"] for entry in curve]
left.plot(steps, [entry["loss"] for entry in curve], "o-")
left.axhline(0.6931, color="black", linewidth=0.5)
left.set(title="loss (line: ln 2)", xlabel="step")
for side, style in (("chosen", "o-"), ("rejected", "s--")):
    values = [entry[f"rewards/{side}"] / 0.1 for entry in curve]
    right.plot(steps, values, style, label=side)
right.set(title="r(y), nats gained", xlabel="step")
right.legend(frameon=False)
figure.tight_layout()
show_figure(
    "Left: the loss of the collapsing run around the line at ln 2. Right: "
    "chosen and rejected answers both lose many nats."
)

# %%
watch = problems.select(range(min(16, len(problems))))
_, again, new_rewards = attempts(other, watch, SEED)


def by_problem(name, old, new):
    """The mean of each problem's attempts, before and after."""
    old, new = (torch.tensor(v).float().mean(1) for v in (old, new))
    p = p_of(new - old) if (new != old).any() else 1.0
    print(f"{name}: {old.mean():.1%} → {new.mean():.1%}, p = {p:.1g}")


def stops(groups):
    return [[a.ended for a in group] for group in groups]


print(f"{len(watch)} problems, 8 attempts each, before and after")
by_problem("stop ", stops(groups[: len(watch)]), stops(again))
by_problem("right", rewards[: len(watch)], new_rewards)

# %% [markdown]
# Before, 100.0 % of these attempts stopped and 39.8 % were right. Now 7.8 %
# stop (p = 0.0003, 16 problems), and 2.3 % are right (p = 0.003). The rate is
# the only difference from the run `DPO` of the table.
#
# Where do you see it first? At step 4 the loss is 0.66, below the 0.69 of the
# start: by the loss, all is well. The chosen answers of that step have lost
# 5.6 nats. And at the last step the loss is the lowest of all, 0.16, while
# the chosen answers have lost 29.1 nats. So watch r(chosen), and let the model write a few attempts during training. Whether a longer
# warm-up or a term of SFT would have saved this run was not tried: try it.
#
# ## Rounds
#
# One round uses the attempts of the start. The tuned model makes other
# mistakes, so let it attempt *new* problems, and train on those. The second
# round takes the model after the first as its reference. A small term of SFT
# (`sft_weight`) is added to keep the chosen answers likely. To save time, each
# problem now gives at most two pairs.

# %%
rows = [n % len(pool) for n in range(len(problems), 2 * len(problems))]
prompts, tried, new_rewards = attempts(model, pool.select(rows), 2)
print("attempts that are right:", share(r for g in new_rewards for r in g))
new_pairs = make_pairs(prompts, tried, new_rewards, keep=2)
train_pairs(model, new_pairs, DPO(sft_weight=0.2), "round-2")
two_rounds = solved(model)

# %%
figure, axes = plt.subplots(figsize=(5, 2.8))
results = {"start": at_start, "one": one_round, "two": two_rounds}
for place, (name, flags) in enumerate(results.items()):
    right = wilson_interval(flags)
    axes.plot(place, right.accuracy, "o", color="C0")
    axes.vlines(place, right.low, right.high, color="C0")
    print(f"{name:5} {right}")
axes.set_xticks(range(len(results)), list(results))
axes.set(title="test problems solved", xlabel="rounds", ylim=(0, 1))
print("start → two:", versus(at_start, two_rounds))
print("one → two:  ", versus(one_round, two_rounds))
show_figure(
    "The share of test problems solved at the start, after one round and "
    "after two, each with its 95 % interval."
)


# %% [markdown]
# From eight worked solutions and the model's own attempts, two rounds went
# from 51.3 % to 68.7 % of the test problems: 55 gained, 3 lost (p = 2.3e-13).
# The second round alone gained 9.0 points (p = 0.004). No person wrote
# another solution; a program checked the final answers.
#
# This is one run with one seed. It says that these models differ on these 300
# problems, not that each round of each run gains as much. The settings were
# chosen on other problems.
#
# ## Length
#
# DPO compares *sums* over tokens, and a longer answer has more of them. If
# the better answers of the pairs are also the shorter ones, a model can win
# by writing less. So look at the lengths: of both sides of the pairs, and of
# what the model writes before and after the first round.

# %%
def mean_tokens(texts):
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    return f"{sum(lengths) / len(lengths):.1f} tokens"


for side in ("chosen", "rejected"):
    print(f"{side:13}", mean_tokens(pair[side] for pair in pairs))
for number, written in enumerate((groups, tried)):
    texts = [attempt.text for group in written for attempt in group]
    print(f"after {number} rounds", mean_tokens(texts))

# %% [markdown]
# The chosen answers are the longer ones here: 36.1 tokens against 22.2. The
# attempts became longer, too: 34.7 tokens after the first round (of other
# problems) against 29.1 before. So length alone could explain a part of the
# margin, but not that more test problems are solved. If you see lengths run
# away, `SimPO` and `DPO(loss_type="ipo")` compare means per token.

# %% [markdown]
# ## Keep the adapter

# %%
folder = save_adapter(
    model, run_dir("05_pairs") / "adapter", tokenizer=tokenizer
)
base, _ = load_model(**recipe["model"])
again = load_adapter(base, folder)
old, new = (pair_scores(one, watched[0]) for one in (model, again))
torch.testing.assert_close(old, new, rtol=1e-2, atol=1e-2)
print("the loaded adapter gives the same scores as the trained one")

# %% [markdown]
# ## On a T4
#
# The same cells, with the profile `t4`, load Qwen2.5-0.5B-Instruct and GSM8K.
# In Colab, choose *Runtime → Change runtime type → T4 GPU* before the first
# cell.
#
# | on a T4 | |
# |---|---|
# | time | not yet measured |
# | peak memory | not yet measured |
# | scores | not yet measured |
#
# If you see "out of memory", change one thing at a time, in this order, and
# restart the runtime: halve `per_device_train_batch_size` in `recipe["dpo"]`
# and set `gradient_accumulation_steps` to 2; set `gradient_checkpointing` to
# `True` there; halve `batch_size` in `recipe["sample"]`; lower
# `max_new_tokens` there. A row holds all pairs of a problem, so `keep=2` in
# `make_pairs` makes rows shorter, too.
#
# Try next: a problem file of your own (`SOURCE`); `DPO(sft_weight=1.0)` at
# the rate of the collapse; a third round.

# %% [markdown]
# ## Exercises
#
# Each check says "not solved yet" until you solve it. Solutions are in
# `notebooks/solutions/05_preferences.ipynb`.
#
# **1.** Write IPO's loss of one pair. The lists hold two entries, for the
# chosen and for the rejected answer: its summed log-probability under the
# policy and under the reference, and its number of tokens.

# %%
import random

from mathsft import exercise


def ipo_loss(scores, reference, tokens, beta):
    return 0.0


# %% tags=["exercise"]
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
# **2.** A problem has some right and some wrong attempts, all different, and
# every right one makes a pair with every wrong one. How many pairs are there?
# How many answers pass through the model if each pair passes alone, and how
# many if all share one tree?

# %%
def counts(right, wrong):
    """(pairs, answers if each pair passes alone, answers in one tree)"""
    return 0, 0, 0


# %% tags=["exercise"]
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
# **3.** The picture above drew the weight of a pair by automatic
# differentiation. Write it as a formula: `pull(z, beta)` is the size of the
# derivative of DPO's loss by z.

# %%
def pull(z, beta):
    return 0.0


# %% tags=["exercise"]
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
# **4. Change.** Train once more, with a β that is *larger* than 0.1: at least
# three times as large. Before you run it, write down whether the watched
# answers will move `"more"` or `"less"` than with 0.1. It takes a few
# seconds.

# %% tags=["change"]
my_guess = None  # "more" or "less"
my_beta = 0.1
my_model = from_start()
# Here, train my_model on `some` with DPO(beta=my_beta) and **small.

# %% tags=["exercise"]
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
# ## What next
#
# A pair says which of two answers is better, and nothing more. Lesson 06 asks
# who judges, and lesson 07 lets the model learn from its attempts while it
# makes them.
