# %% [markdown]
# # 06 · Who judges?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/06_rewards.ipynb)
#
# In lesson 05, a few lines of code said which attempts were right. All later
# training rests on such a judge, and a model finds every gap in it. This
# lesson looks at two kinds: a **rule** that checks the final answer, and a
# **reward model** that learned from pairs what a good answer looks like.
#
# You will learn
# - to test a judge on answers that are known to be right, wrong, or a trick;
# - to train a reward model on the model's own attempts, with its loss by
#   hand;
# - where a reward model is wrong: its calibration, length, tricks;
# - **best of n**: why a judge can rank most pairs well and still choose
#   badly.
#
# **Time.** With the embedded tiny model, and a second lesson beside it on two
# CPU cores, the lesson took between two and three minutes. On a T4 it loads Qwen2.5-0.5B-Instruct and GSM8K from the hub instead.
# That has not been timed yet.

# %% [markdown]
# **Words.** A *judge* or *reward* gives a number to an answer; more is
# better. A reward is *verifiable* if a program can check it. A *reward model*
# is a language model with a head that writes one number instead of the next
# token. The *margin* of a pair is the reward of the better answer minus that
# of the worse. *Best of n*: write n answers, keep the one that the judge
# prefers.

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
SEED = 0
recipe = load_recipe(PROFILE)
if recipe["model"]["name"] == "tiny":
    recipe["model"]["quantize"] = False  # it is small enough
else:
    recipe["model"]["name"] += "-Instruct"
QUICK = int(os.environ.get("MATHSFT_QUESTIONS") or 512)  # a quick look
LEARN, JUDGED = min(200, QUICK // 2), min(150, QUICK // 3)  # problems
PASSES = 20
FEW = {**recipe["sft"], "num_train_epochs": PASSES, "packing": False}
FEW |= {"max_steps": -1, "lr_scheduler_type": "constant"}
{key: recipe[key] for key in ("model", "sample")}

# %% [markdown]
# ## The start, and its attempts
#
# As in lesson 05, the model sees eight worked solutions, 20 times each.

# %%
from mathsft import load_problems

train = load_problems(**recipe["train"])
test = load_problems(**recipe["test"])
few, pool = train.select(range(8)), train.select(range(8, len(train)))
print("in both:", len(set(train["question"]) & set(test["question"])))

# %%
from mathsft import add_adapter, load_model, sft_trainer

model, tokenizer = load_model(**recipe["model"])
model = add_adapter(model, seed=SEED)
trainer = sft_trainer(
    model, tokenizer, few, output_dir=run_dir("06_few"), **FEW
)
loss = trainer.train().training_loss
print(f"mean loss over the steps: {loss:.2f}")

# %% [markdown]
# It now attempts two sets of problems. From the first, the reward model will
# learn. The second is only for judging the judges: other problems, and 16
# attempts each.

# %%
from mathsft import FinalAnswer, sample_groups, sft_prompt

final = FinalAnswer()


# %%
def attempts(problems, number, seed):
    """A model's attempts at each problem, and which of them are right."""
    prompts = [sft_prompt(question) for question in problems["question"]]
    settings = {**recipe["sample"], "num_generations": number}
    groups = sample_groups(model, tokenizer, prompts, seed=seed, **settings)
    right = []
    for group, answer in zip(groups, problems["answer"]):
        texts = [one.text for one in group]
        ended = [one.ended for one in group]
        every = [answer] * number
        right.append(final(completions=texts, answer=every, ended=ended))
    return prompts, groups, right


# %%
learn = attempts(pool.select(range(LEARN)), 8, seed=1)
judged = attempts(test.select(range(JUDGED)), 16, seed=2)
for name, (_, groups, right) in {"learn": learn, "judged": judged}.items():
    every = [r for group in right for r in group]
    print(f"{name}: {len(groups)} problems, {len(every)} attempts")
    print(f"  right: {sum(every) / len(every):.1%}", end=", ")
    print(f"problems, one right: {sum(map(max, right)) / len(right):.1%}")

# %% [markdown]
# ## A judge that checks
#
# `FinalAnswer` gives 1 if the answer is right, marked, and given once.
# `AnswerFormat` looks only at the form: one `####` on the last line. Here are
# a right answer to one problem, and four with which models have fooled
# judges.

# %%
from mathsft import known_completions

row = pool[0]
for kind, text in known_completions(row).items():
    print(f"{kind}:", repr(text[-24:]))

# %% [markdown]
# **Predict.** A simpler judge asks only whether the right number is
# *somewhere in the text*. Which of the four tricks fool it?
#
# <details>
# <summary>Answer</summary>
#
# All but the empty one. Even "wrong number" does: its worked solution
# contains the right number, and only the last line is wrong.
#
# </details>
#
# A judge is fooled by a wrong answer if it gives it at least as much as the
# right one. `check_judge` counts how often. It raises an error if that
# happens at all; with `allowed=1` it only counts.

# %% tags=["nbval-check-output"]
import re

from mathsft import AnswerFormat, Length, check_judge


def somewhere(completions, answer, **columns):
    found = [re.findall(r"\d+", text) for text in completions]
    return [float(right in n) for n, right in zip(found, answer)]


known = pool.select(range(50))
short, fooled = Length(target=20, max_length=80), {}
for judge in (somewhere, AnswerFormat(), short, final):
    name = judge.__name__
    fooled[name] = check_judge(judge, known, allowed=1, tokenizer=tokenizer)
    print(f"{name} is fooled by")
    print("  ", ", ".join(f"{k} {s:.0%}" for k, s in fooled[name].items()))

# %%
import matplotlib.pyplot as plt

from mathsft import show_figure


def draw_fooled():
    tricks = list(next(iter(fooled.values())))
    shares = [[one[trick] for trick in tricks] for one in fooled.values()]
    axes = plt.subplots(figsize=(6, 0.5 * len(fooled) + 0.8))[1]
    axes.imshow(shares, cmap="Reds", vmin=0, vmax=1.8, aspect="auto")
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            axes.text(column, row, f"{share:.0%}", ha="center", va="center")
    named = [trick.replace(" ", "\n") for trick in tricks]
    axes.set_xticks(range(len(tricks)), named)
    axes.set_yticks(range(len(fooled)), list(fooled))
    axes.set(title="how often a trick fools a judge")


# %%
draw_fooled()
show_figure(
    "A table of four judges and four tricks, darker if the trick fools the "
    "judge more often. Only the row of final_answer has no dark cell."
)

# %% [markdown]
# Every judge but the last is fooled by something. The form says nothing about
# the number. A judge that likes short answers likes the empty one best. Only
# `FinalAnswer` may train a model alone; the others can be *added* to it with
# a small weight (`Weighted`).
#
# Its price: it needs the right answer. For many tasks there is none. Then
# people, or a program that is too slow to ask every time, compare some
# answers, and a model learns to predict what they would say.
#
# ## A judge that learned
#
# Suppose we know only which of two attempts is better. Bradley and Terry
# ([1952](https://doi.org/10.1093/biomet/39.3-4.324)) give each answer a
# value, and say how likely one answer beats another:
#
# $$P(c \text{ beats } j) = \sigma\bigl(v(c) - v(j)\bigr), \qquad
# \text{loss} = -\log \sigma\bigl(v(c) - v(j)\bigr)$$
#
# - $c$ is the chosen (better) answer of a pair, $j$ the rejected one;
# - $v(y)$ is the value of an answer $y$, its *reward*: one number;
# - $v(c) - v(j)$ is the margin, and $\sigma(u) = 1/(1 + e^{-u})$ the sigmoid;
# - the loss says how surprised the judge is by what really won.
#
# Only differences count: adding the same number to all values changes
# nothing.
#
# As $v$, language models take the output of a new head at the last token, the
# stop token, which has seen the whole answer ([Ouyang et al.
# 2022](https://arxiv.org/abs/2203.02155)). Such judges of worked solutions
# were called *verifiers* first ([Cobbe et al.
# 2021](https://arxiv.org/abs/2110.14168), with GSM8K).

# %%
figure, (left, right_side) = plt.subplots(1, 2, figsize=(6.4, 2.8))
u = torch.linspace(-6, 6, 121)
left.plot(u, torch.sigmoid(u))
left.set(title="chance that c wins", xlabel="margin v(c) − v(j)")
right_side.plot(u, -logsigmoid(u))
right_side.set(title="loss if c won", xlabel="margin v(c) − v(j)")
for axes in (left, right_side):
    axes.axvline(0, color="black", linewidth=0.5)
figure.tight_layout()
show_figure(
    "Left: the chance that the chosen answer wins rises with the margin, "
    "one half at 0. Right: the loss is large if the margin is negative."
)

# %%
from mathsft import pairs_from


def pairs_of(prompts, groups, right, keep=4):
    """Pairs of a right and a wrong attempt; those that were cut are out."""
    found = []
    for prompt, group, scores in zip(prompts, groups, right):
        whole = [(a.text, s) for a, s in zip(group, scores) if a.ended]
        if whole:
            for pair in pairs_from(*zip(*whole), keep=keep):
                found.append({"prompt": prompt, **pair})
    return [pair for pair in found if pair["rejected"].strip()]


pairs, held_out = pairs_of(*learn), pairs_of(*judged, keep=1)
print(f"{len(pairs)} pairs to learn from, {len(held_out)} held out")

# %% [markdown]
# The held-out pairs are of other problems, one for each problem: four pairs
# of one problem are not four independent questions.

# %%
from mathsft import RewardModel, load_reward_model, make_trainer

RATE = 1.5 * recipe["sft"]["learning_rate"]


# %%
def train_judge(name, rows=pairs, rate=RATE, **changes):
    judge, _ = load_reward_model(**recipe["model"], lora=True, seed=SEED)
    settings = {"num_train_epochs": 2, "logging_steps": 1, **changes}
    trainer = make_trainer(
        judge, tokenizer, rows, RewardModel(), eval_rows=held_out,
        output_dir=run_dir("06_judge") / name, learning_rate=rate,
        adam_beta2=0.99, seed=SEED, **settings,
    )  # fmt: skip
    trainer.train()
    return trainer


trainer = train_judge("judge")
judge = trainer.model


# %%
def value(judge, prompt, answer):
    """The head's output at the stop token: a plain pass, no padding."""
    ids = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
    ids = torch.tensor([ids], device=judge.device)
    hidden = judge(ids, output_hidden_states=True).hidden_states[-1]
    return judge.score(hidden[0, -1])


def margin(judge, pair):
    judge.eval()
    with torch.no_grad():
        c = value(judge, pair["prompt"], pair["chosen"])
        return (c - value(judge, pair["prompt"], pair["rejected"])).item()


margins = torch.tensor([margin(judge, pair) for pair in held_out])
print(f"pair 0: margin {margins[0]:.2f}", end=", ")
print(f"loss {-logsigmoid(margins[0]):.4f}")

# %% [markdown]
# The same loss three ways: by hand, by our trainer, which puts the answers of
# a problem into one tree, and by TRL's `RewardTrainer`, whose names are the
# field's. TRL searches for the last token that is not padding. In our
# tokenizer the stop token is also the padding token, so TRL needs another
# one, or it reads one token early.

# %%
import copy

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

rows = Dataset.from_list(held_out)
padded = copy.deepcopy(tokenizer)
padded.pad_token = padded.convert_ids_to_tokens(1)
config = RewardConfig(
    str(run_dir("06_judge") / "trl"), max_length=None, bf16=False,
    gradient_checkpointing=False, report_to="none",
    use_cpu=not torch.cuda.is_available(),
)  # fmt: skip
theirs = RewardTrainer(
    judge, args=config, train_dataset=rows, eval_dataset=rows,
    processing_class=padded,
)  # fmt: skip
trl_loss = theirs.evaluate()["eval_loss"]

# %%
our_loss = trainer.evaluate()["eval_loss"]
by_hand = -logsigmoid(margins).mean().item()
print(f"TRL {trl_loss:.5f}, ours {our_loss:.5f}, by hand {by_hand:.5f}")
close = 1e-3 if judge.dtype == torch.float32 else 0.05
assert max(abs(our_loss - trl_loss), abs(our_loss - by_hand)) < close

# %% [markdown]
# **Predict.** The judge saw only which of two attempts is better, never a
# right answer. What share of the held-out pairs does it rank correctly?
# Chance is one half.
#
# <details>
# <summary>Answer</summary>
#
# 86.3 %, with an interval from 78.3 to 91.6 %: 102 pairs, one for each
# problem.
#
# </details>

# %%
from mathsft import wilson_interval

print("held-out pairs won:", wilson_interval((margins > 0).tolist()))

# %% [markdown]
# This is one run; its rate was chosen on other problems.
#
# ## Where it is wrong
#
# `score` writes the reward of every attempt. Only differences of rewards were
# trained, but let us read a reward above 0 as "right" and one below as
# "wrong", and count how often that is so.

# %%
from mathsft import score


def values_of(judge, prompts, texts):
    """The head's number for each text; -100 for an empty one."""
    rows = [
        {"prompt": prompt, "completion": text if text.strip() else "?"}
        for prompt, text in zip(prompts, texts)
    ]
    found = score(judge, tokenizer, rows, batch_size=128).rewards
    return [
        v[0] if text.strip() else -100.0 for v, text in zip(found, texts)
    ]


# %%
def rewards_of(judge, prompts, groups):
    """A reward for each attempt; equal attempts are scored once."""
    asked = [
        [(prompt, one.text) for one in group]
        for prompt, group in zip(prompts, groups)
    ]
    rows = list(dict.fromkeys(row for group in asked for row in group))
    found = dict(zip(rows, values_of(judge, *zip(*rows))))
    return [[found[row] for row in group] for group in asked]


# %%
prompts, groups, right = judged
rewards = {"reward model": rewards_of(judge, prompts, groups)}


# %%
def all_margins(rewards, right):
    """Of each pair of a right and a wrong attempt at one problem."""
    found = []
    for values, group in zip(rewards, right):
        good = [v for v, r in zip(values, group) if r]
        bad = [v for v, r in zip(values, group) if not r]
        found += [better - worse for better in good for worse in bad]
    return torch.tensor(found)


# %%
figure, axes = plt.subplots(figsize=(6, 2.8))
values = [v for group in rewards["reward model"] for v in group]
truth = [bool(r) for group in right for r in group]
for kind, name in ((True, "right"), (False, "wrong")):
    some = [v for v, t in zip(values, truth) if t == kind and v > -100]
    axes.hist(some, bins=30, alpha=0.6, label=f"{name} attempts")
    above = sum(v > 0 for v in some)
    print(f"{name}: {above:5} above 0, {len(some) - above:5} below")
axes.axvline(0, color="black", linewidth=0.5)
axes.set(title="what the reward model gives", xlabel="reward")
axes.legend(frameon=False, fontsize=9)
show_figure(
    "Two histograms of rewards. Right attempts get more than wrong ones on "
    "average, but the two overlap widely."
)

# %% [markdown]
# This is a *confusion table*. Of the right attempts 574 are above 0 and 212
# below; of the wrong ones 374 are above and 1,237 below. (Empty attempts are
# left out.) Where the two histograms overlap, the reward alone cannot tell
# them apart.
#
# **Calibration.** $\sigma(\text{margin})$ claims a probability. So among the
# pairs in which the judge is 80 % sure of its favourite, the favourite should
# win 80 %. Now all pairs of a right and a wrong attempt at a problem are
# used.

# %%
from itertools import pairwise

every = all_margins(rewards["reward model"], right)
sure, won = torch.sigmoid(every.abs()), (every > 0).float()
edges = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.01]
points = []
for low, high in pairwise(edges):
    here = (sure >= low) & (sure < high)
    if here.any():
        points.append((sure[here].mean(), won[here].mean()))
        claimed, true = map(float, points[-1])
        print(f"{here.sum():5} pairs: claimed {claimed:.1%}", end=", ")
        print(f"won {true:.1%}")

# %%
figure, axes = plt.subplots(figsize=(3.6, 3))
axes.plot([0.5, 1], [0.5, 1], color="black", linewidth=0.5)
axes.plot(*zip(*points), "o-")
axes.set(title="calibration", xlabel="claimed", ylabel="won")
figure.tight_layout()
show_figure(
    "The share of pairs that the judge's favourite wins, against the "
    "probability that the judge claims. A thin line: a perfect judge."
)

# %% [markdown]
# In this run, claims and wins differ by at most 6 points in every bin.
# Between 90 and 99 % the judge claims 96.1 % on average and wins 91.9 %. The
# pairs of one problem are alike, so these shares are less certain than their
# counts suggest.
#
# **Tricks.** Its answers to the tests that the rules had to pass:

# %%
from mathsft import JudgedBy


def by_model(prompts, completions):
    asked = [sft_prompt(question) for question in prompts]
    return values_of(judge, asked, completions)


fooled["reward model"] = check_judge(JudgedBy(by_model), known, allowed=1)
draw_fooled()
show_figure(
    "The table of judges and tricks with one row more: the reward model is "
    "fooled in part of the problems by all tricks but the empty answer."
)
fooled["reward model"]

# %% [markdown]
# A wrong number in the last line fools it in 44 % of the problems, five
# answers in 42 %, and a repeated answer in 44 %. The worked text is the right
# one in all of these. The empty answer fools it never, but only because
# `values_of` gives it −100: training drops empty answers, so `score` refuses
# them.
#
# **Length.** Here is the simplest judge that one could learn from these
# pairs: the longer answer is the better one. And a *hasty model*, a reward
# model that was trained for eight steps only.

# %%
lengths = [[float(len(one.input_ids)) for one in g] for g in groups]
rewards["length"] = lengths
hasty = train_judge("hasty", rate=RATE / 3, max_steps=8).model
rewards["hasty model"] = rewards_of(hasty, prompts, groups)
rewards = {k: rewards[k] for k in ("reward model", "hasty model", "length")}

# %%
from scipy.stats import spearmanr, wilcoxon


def by_problem(values):
    """For each problem with both kinds: the share of its pairs won."""
    shares = []
    for n, flags in enumerate(right):
        if 0 < sum(flags) < len(flags):
            margins = all_margins([values[n]], [flags])
            ties = (margins == 0).float().mean()
            shares.append(float((margins > 0).float().mean() + ties / 2))
    return shares


def versus(old, new):
    change = [b - a for a, b in zip(old, new)]
    p = wilcoxon(change).pvalue if any(change) else 1.0
    return sum(change) / len(change), p


# %%
print("             pairs won  rank like length")
won = {name: by_problem(values) for name, values in rewards.items()}
for name, values in rewards.items():
    like = [
        spearmanr(one, tokens).statistic
        for one, tokens in zip(values, lengths)
        if min(len(set(one)), len(set(tokens))) > 1
    ]
    mean = sum(won[name]) / len(won[name])
    print(f"{name:13} {mean:8.1%} {sum(like) / len(like):12.2f}")
for name in ("hasty model", "reward model"):
    points, p = versus(won["length"], won[name])
    print(f"{name} against length: {points:+.1%}, p = {p:.1g}")
print("problems with right and wrong attempts:", len(won["length"]))

# %% [markdown]
# Of a problem's pairs, length alone ranks 70.6 % correctly, as a mean over
# 102 problems. The hasty model ranks 78.4 % (7.8 points more than length, p =
# 0.01), and the longer run 86.5 % (15.9 points more, p = 4e-9). Within a
# problem, both rewards rise with length (rank correlations of 0.45 and 0.47).
#
# ## Best of n
#
# Beside the judges stand two others. The **oracle** always finds a right
# attempt if there is one: pass@n ([Chen et al.
# 2021](https://arxiv.org/abs/2107.03374)). Its unbiased estimate for one
# problem is
#
# $$\text{pass@}n = 1 - \binom{N-c}{n} \Big/ \binom{N}{n}$$
#
# - $N$ is the number of attempts at the problem, and $c$ how many are right;
# - $n$ is the number of attempts that we draw from them;
# - $\binom{N}{n}$ counts all ways to draw $n$ of $N$, and $\binom{N-c}{n}$
#   those that draw wrong attempts only.
#
# The **majority** of the final answers needs no judge at all
# ([Wang et al. 2022](https://arxiv.org/abs/2203.11171)).
#
# **Predict.** Each judge chooses one of n attempts. How does the share of
# right choices change from n = 1 to 16: for the reward model, and for length?
#
# <details>
# <summary>Answer</summary>
#
# Length falls from 33 % to 21 %. The reward model has 47 % at n = 4 and 40 %
# at n = 16: more than at n = 1, but not so surely that six tests would allow
# the claim (p × 6 = 0.3).
#
# A pair asks the judge about two typical attempts. Best of 16 takes the
# attempt with the *highest* reward of 16, and that one is not typical. If the
# judge overrates one kind of mistake, a larger n finds it more often.
#
# </details>

# %%
from mathsft import best_of_n, extract_answer


def vote(one):
    """The final answer, if it is marked and given once."""
    found = extract_answer(one.text)
    good = found and final(
        completions=[one.text], answer=[found], ended=[one.ended]
    )
    return found if good and good[0] else ""


votes = [[vote(one) for one in group] for group in groups]
flags = [[bool(r) for r in group] for group in right]
curves = {
    name: best_of_n(values, flags, answers=votes)
    for name, values in rewards.items()
}

# %%
first = curves["reward model"]
lines = {
    name: [(r.judge, r.low, r.high) for r in rows]
    for name, rows in curves.items()
}
for name in ("majority", "oracle"):
    ends = ("", "_low", "_high")
    lines[name] = [[getattr(r, name + e) for e in ends] for r in first]
sizes = [row.size for row in first]
for name, cells in lines.items():
    print(name)
    for size, (mean, low, high) in zip(sizes, cells):
        if size in (1, 4, 16):
            print(f"  n = {size:2}: {mean:4.0%} [{low:3.0%}, {high:3.0%}]")

# %%
figure, axes = plt.subplots(figsize=(6, 3.2))
for name, cells in lines.items():
    judge_line = "o-" if name in curves else "--"
    mean, low, high = zip(*cells)
    line = axes.plot(sizes, mean, judge_line, label=name)[0]
    if name in curves:
        colour = line.get_color()
        axes.fill_between(sizes, low, high, color=colour, alpha=0.1)
axes.set(xscale="log", xlabel="n", ylim=(0, 1), title="right choices")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.legend(frameon=False, fontsize=9, ncols=2)
show_figure(
    "Right choices against n. The oracle and the majority rise with n. "
    "The judges rise at first, and length falls below its start."
)


# %% [markdown]
# The judges chose among the same attempts, so compare problem by problem. Six
# tests are made here, and each may show something by chance: the last column
# is p times six, Bonferroni's correction (lesson 04).

# %%
def chosen(values, size):
    return [
        best_of_n([v], [f], sizes=[size])[0].judge
        for v, f in zip(values, flags)
    ]


print("                change       p  p × 6")
for name, values in rewards.items():
    one, four, all_16 = (chosen(values, size) for size in (1, 4, 16))
    for told, old in (("1 → 16", one), ("4 → 16", four)):
        points, p = versus(old, all_16)
        corrected = min(1, 6 * p)
        print(f"{name:12} {told} {points:+6.1%} {p:7.1g} {corrected:6.1g}")
print("problems:", len(flags))

# %% [markdown]
# The oracle and the majority rise with n: to 69 % and 54 %. For the reward
# model no change from n = 1 to 16 survives the correction (7.2 points, p × 6
# = 0.3), nor does one from 4 to 16.
#
# The hasty model ranks 78.4 % of the pairs, and yet from n = 4 to 16 it
# *loses* 12.7 points (p × 6 = 0.0002). Length loses 11.4 points from 1 to 16
# (p × 6 = 0.002): it ranks 70.6 % of the pairs, and yet the longest of 16
# attempts is right in 21 % of the 150 problems only. This is known as
# *overoptimization* ([Gao et al. 2022](https://arxiv.org/abs/2210.10760)):
# the more we select by a judge, the more we select its mistakes. Cobbe et al.
# saw it with their verifiers, too: with very many attempts, the choice became
# worse. So measure a judge at the n that you will use. All this is one run.
#
# What does a wrong choice look like? Of the problems with a right attempt,
# here are wrong attempts that the reward model prefers:

# %%
shown = 0
for values, group, flag in zip(rewards["reward model"], groups, flags):
    best = max(range(len(values)), key=values.__getitem__)
    if any(flag) and not flag[best] and shown < 3:
        good = max((v, n) for n, v in enumerate(values) if flag[n])
        print(f"{values[best]:.2f} wrong: {group[best].text.strip()}")
        print(f"{good[0]:.2f} right: {group[good[1]].text.strip()}\n")
        shown += 1

# %% [markdown]
# ## Keep the choices
#
# Best and worst attempts make pairs again. `rejection_sampling` does all of
# it: it samples, judges, and writes to a file: one line about the settings,
# then one for each problem. If it is interrupted, the same call continues. A
# problem without a pair is kept with the reason.

# %%
from mathsft import rejection_sampling

file = run_dir("06_judge") / "pairs.jsonl"
file.unlink(missing_ok=True)  # otherwise its rows are used again
found = rejection_sampling(
    model, tokenizer, pool.select(range(LEARN, LEARN + 16)), reward=final,
    output=file, seed=SEED, **recipe["sample"],
)  # fmt: skip
print(file.name, "has", len(file.read_text().splitlines()), "lines")

# %% [markdown]
# ## Keep the judge

# %%
from mathsft import load_adapter, save_adapter

folder = save_adapter(
    judge, run_dir("06_judge") / "adapter", tokenizer=tokenizer
)
again = load_adapter(load_reward_model(**recipe["model"])[0], folder)
old, new = (margin(one, held_out[0]) for one in (judge, again))
assert abs(old - new) < 0.01 * max(1, abs(old))
print("the loaded judge gives the same margin as the trained one")

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
# restart the runtime. While it writes attempts: halve `batch_size` in
# `recipe["sample"]`, then lower `max_new_tokens` there. While it trains the
# judge: give `train_judge` the argument `per_device_train_batch_size=4`, then
# `gradient_checkpointing=True` as well. While the judge scores: halve
# `batch_size` in `values_of`.
#
# Try next: `RewardModel(center_rewards_coefficient=0.01)`; one epoch instead
# of two; a judge whose pairs have no length difference.

# %% [markdown]
# ## Exercises
#
# Each check says "not solved yet" until you solve it. Solutions are in
# `notebooks/solutions/06_rewards.ipynb`.
#
# **1.** Write pass@k: the chance that at least one of k attempts is right, if
# they are drawn from n attempts of which c are right, without replacement.

# %%
import random

from mathsft import exercise


def pass_at(k, n, c):
    return c / n


# %% tags=["exercise"]
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
# **2.** Write a reward that gives 1 to a right answer, and 0 to all the
# tricks of `known_completions`. Use text functions only, not `FinalAnswer`.
# The check asks about problems that you have not seen.

# %%
def my_reward(completions, answer, **columns):
    return [float(right in t) for t, right in zip(completions, answer)]


others = load_problems("tiny-gsm", split="test", limit=100)

# %% tags=["exercise"]
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
# **3.** In Bradley and Terry's model, A beats B with chance p, and B beats C
# with chance q. How likely is it that A beats C?

# %%
def chain(p, q):
    return p


# %% tags=["exercise"]
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
# **4. Change.** Train another judge on a *quarter* of the pairs, with
# `train_judge("mine", rows=…)`. Before you run it, write down whether its
# loss on the held-out pairs will be `"higher"` or `"lower"` than that of the
# judge above. (A quarter of the pairs is a quarter of the steps, too.)

# %% tags=["change"]
my_guess = None  # "higher" or "lower"
my_rows = pairs
my_judge = load_reward_model(**recipe["model"], lora=True, seed=SEED)[0]
# Here, train my_judge on my_rows: train_judge returns its trainer.

# %% tags=["exercise"]
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
# ## What next
#
# So far, a judge chose among finished attempts. In lesson 07 it trains the
# model while it writes them, and then every weakness of the judge becomes a
# weakness of the model.
