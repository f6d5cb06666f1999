# %% [markdown]
# # 04 · Which differences are real?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/04_evaluation.ipynb)
#
#
# Three lessons have given you half a dozen models and a number for each. Some
# numbers differ by 40 points, some by one. Here you evaluate all the models once
# more, with **[lm-evaluation-harness](https://arxiv.org/abs/2405.14782)**, the
# tool whose numbers the rest of the world reports. For each difference you ask:
# is it real, and how would we know?
#
# You will learn
# - what the harness asks a model, request by request, and how to get the same
#   numbers with a fraction of the work;
# - what a paired comparison is: **gained, lost, McNemar's test**, an interval
#   for the difference, and a correction for making many comparisons;
# - how small a difference a test of this size can show at all;
# - how a public experiment scored its base model under a tuned model's name, and
#   what prevents that here.
#
# **Time and memory.** With the embedded tiny model on two CPU cores, the lesson
# took a minute and a half and 0.9 GB. It takes longer if it must first train the
# models that earlier lessons did not save. On a T4, it evaluates
# Qwen2.5-0.5B on MathQA's test: see "On a T4" below.

# %% [markdown]
# **Words.** A model's *log-likelihood* of a choice is the natural logarithm of the
# probability that it writes exactly this choice after the question. Its unit is the *nat*.
# *acc* counts a question as right if the right choice has the highest log-likelihood.
# *acc_norm* first divides each log-likelihood by the choice's number of characters, so that
# long choices are not punished. *Chance* is the accuracy of guessing: 20 % with five
# choices.

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
import os

from mathsft import describe, load_recipe, load_settings, quiet, run_dir

quiet()
tokens = load_settings()  # names of your access tokens; none needed
describe()

# %% tags=["parameters"]
from transformers import set_seed

from mathsft import default_profile

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
MATHQA = os.environ.get("MATHSFT_MATHQA")  # a file in MathQA's schema
SEED = 0
profile = PROFILE or default_profile()
LIMIT = int(os.environ.get("MATHSFT_QUESTIONS") or 0) or None
if profile == "tiny" and not MATHQA:
    LIMIT = LIMIT or 500  # the questions of lesson 03's test
recipe = load_recipe(profile)
MODEL = recipe["model"]["name"]
generated = recipe["choices"]["source"] == "tiny-mathqa"
TASK = "mathqa_tiny" if generated else "mathqa"
TASK = "mathqa_file" if MATHQA else TASK
set_seed(SEED)
TASK

# %% [markdown]
# ## What the harness asks
#
# A task is a small file. It says where the rows come from, how a question becomes a prompt,
# what the choices are, and which one is right. `mathqa` is the harness's own task and takes
# its rows from the hub. `mathqa_tiny` is the same task over the rows that this package
# generates. If you gave a file of your own, a fifth of it is the test. Lesson 03, if you
# ran it with the same file, did not train on this fifth.

# %%
import json
from pathlib import Path

from mathsft import load_problems, read_rows

FILE = None
wanted = {**recipe["choices_train"], "limit": None, "reading": "clean"}
if MATHQA:
    rows = load_problems(MATHQA, reading="clean", seed=SEED)
    asked = set(rows["question"][: len(rows) // 5])
    raw = [row for _, row in read_rows(Path(MATHQA))]
    raw = [row for row in raw if row["Problem"].strip() in asked]
    FILE = run_dir("04_evaluation") / "test.json"
    FILE.write_text(json.dumps(raw), encoding="utf-8")
    pool = rows.filter(lambda row: row["question"] not in asked)
else:
    pool = load_problems(**wanted)

# %% [markdown]
# `evaluate` runs a model through the harness and keeps the results, question by question.
# The base comes first, not quantised. All adapters below are scored on this same base, even
# those that were trained on a base in 4 bits.

# %%
from mathsft import evaluate, load_model

RESULTS = run_dir("results")
options = {"limit": LIMIT, "file": FILE, "folder": RESULTS}
model, tokenizer = load_model(MODEL)
base = evaluate(model, TASK, tokenizer=tokenizer, name="base", **options)
print(base)
print(f"chance: {base.chance:.1%}")

# %% [markdown]
# The brackets hold **Wilson's interval**. For a share p of n questions, and
# $z = 1.96$ for 95 %, its ends are
#
# $$\frac{p + \frac{z^2}{2n} \pm z\sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}$$
#
# The well-known p ± z · √(p(1 − p)/n) is simpler, and worse for few questions
# or for shares near 0 and 1. How often does each contain the true share? For 20
# questions this can be counted exactly, over all possible results:

# %%
import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from mathsft import show_figure, wilson_interval


def coverage(method, truths, n=20):
    right = np.arange(n + 1)
    low, high = proportion_confint(right, n, method=method)
    inside = (low <= truths[:, None]) & (truths[:, None] <= high)
    return (inside * binom.pmf(right, n, truths[:, None])).sum(axis=1)


# %%
truths = np.linspace(0.01, 0.99, 99)
plt.figure(figsize=(6, 2.8), layout="constrained")
for method, colour in (("normal", "#c8553d"), ("wilson", "#1b6ca8")):
    share = coverage(method, truths)
    plt.plot(truths, share, color=colour, label=method)
    print(f"{method:7} mean {share.mean():.1%}, worst {share.min():.1%}")
plt.axhline(0.95, color="black", linestyle="--", label="promised")
plt.gca().set(xlabel="true share", ylabel="contains it", ylim=(0, 1.02),
              title="Intervals of 20 questions")  # fmt: skip
plt.legend()
show_figure("The normal interval contains the true share far too rarely "
            "near 0 and 1; Wilson's stays near 95 %.")  # fmt: skip

# %%
right = base.correct()
low, high = proportion_confint(sum(right), len(right), method="wilson")
print(f"statsmodels, base: [{low:.4f}, {high:.4f}]")
ours = wilson_interval(right)
np.testing.assert_allclose([low, high], [ours.low, ours.high])

# %% [markdown]
# Look at one question. The harness sends five *requests*. Each has a context and a
# continuation, and asks for the log-likelihood of the continuation. By hand:

# %%
import torch

from mathsft import choice_context


@torch.no_grad()
def by_hand(context, continuation):
    start = len(tokenizer(context).input_ids)
    ids = tokenizer(context + continuation).input_ids
    given = torch.tensor([ids], device=model.device)
    logprobs = model(given).logits[0].float().log_softmax(-1)
    scored = range(start, len(ids))
    return sum(float(logprobs[i - 1, ids[i]]) for i in scored)


# %%
first, few = base.questions[0], min(40, len(base.questions))
context = choice_context(first["question"])
print(context)
for choice, stored in zip(first["choices"], first["loglikelihoods"]):
    mine = by_hand(context, f" {choice}")
    print(f"{choice:>12}  by hand {mine:8.4f}  evaluate {stored:8.4f}")
    torch.testing.assert_close(mine, stored, rtol=1e-2, atol=1e-2)

# %% [markdown]
# **What 4 bits do.** Lesson 02 asked this question of a base in 4 bits (NF4), to
# save memory, and its scores differ from these. Both are right: each weight was
# rounded to one of sixteen levels, so it is a slightly different model. The same
# question, both ways:

# %%
rounded, _ = load_model(MODEL, quantize=True)
small = evaluate(
    rounded, TASK, tokenizer=tokenizer, name="base, 4-bit", **options
)
print(f"{'choice':>12} {'full':>9} {'4-bit':>9}")
pairs = zip(first["loglikelihoods"], small.questions[0]["loglikelihoods"])
for choice, (full, less) in zip(first["choices"], pairs):
    print(f"{choice:>12} {full:9.3f} {less:9.3f}")

# %% [markdown]
# All adapters below are scored on the base that is not rounded, so that no
# comparison mixes the two. What rounding costs a model that *can* do the task
# is measured below, too.

# %% [markdown]
# Back to the five requests: they were five passes over the same question. The
# harness works in the same way, in padded batches, and computes a probability
# for every token of the vocabulary at every position. Lesson 02's token forest
# needs one pass over the question, and looks only at the positions that predict
# a choice. First the field's own call, `simple_evaluate` with the harness's own
# model class:

# %%
from importlib.resources import files

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from mathsft import quiet_harness

if FILE is None:
    with quiet_harness():
        theirs = lm_eval.simple_evaluate(
            HFLM(model, tokenizer=tokenizer, batch_size=8),
            tasks=[TASK], limit=few, bootstrap_iters=0,
            task_manager=TaskManager(
                include_path=str(files("mathsft") / "evaluation/tasks"),
                include_defaults=not generated
            ),
        )  # fmt: skip

# %%
if FILE is None:
    acc = theirs["results"][TASK]["acc,none"]
    mine = np.mean(base.correct()[:few])
    print(f"simple_evaluate {acc:.4f}, evaluate {mine:.4f} (n = {few})")
    assert abs(acc - mine) < 1e-9
    samples = sorted(theirs["samples"][TASK], key=lambda s: s["doc_id"])
    far = max(
        abs(score[0] - stored)
        for sample, q in zip(samples, base.questions)
        for score, stored in zip(
            sample["filtered_resps"], q["loglikelihoods"]
        )
    )
    print(f"largest difference: {far:.1e} nats")
    assert far < 1e-2

# %% [markdown]
# Now the time of both model classes, behind the harness's own interface:

# %%
from time import perf_counter

from lm_eval.api.instance import Instance

from mathsft import ForestLM

pairs = [
    (choice_context(q["question"]), f" {choice}")
    for q in base.questions[:40] for choice in q["choices"]
]  # fmt: skip
requests = [Instance("loglikelihood", {}, p, 0) for p in pairs]

# %%
scores, seconds = {}, {}
with quiet_harness():
    for kind, arguments in ((HFLM, {"batch_size": 8}), (ForestLM, {})):
        lm = kind(model, tokenizer=tokenizer, **arguments)
        lm.loglikelihood(requests[:40])  # warm up
        began = perf_counter()
        scores[kind] = [score for score, _ in lm.loglikelihood(requests)]
        seconds[kind] = perf_counter() - began

ours, theirs = (torch.tensor(scores[kind]) for kind in (ForestLM, HFLM))
print(f"the harness {seconds[HFLM]:.2f} s, ours {seconds[ForestLM]:.2f} s")
print(f"largest difference: {(ours - theirs).abs().max():.1e} nats")

# %% [markdown]
# The log-likelihoods are the same up to rounding. With such a small model, much
# of the time is not spent on computing, so this ratio says little. The benchmark
# file [benchmarks/RESULTS.md](https://github.com/mathsft/mathsft/blob/main/benchmarks/RESULTS.md)
# has the figures of a model with the shape of Qwen2.5-0.5B, on two CPU cores:

# %%
# How many times as fast as HFLM: benchmarks/RESULTS.md, "Speed, on a CPU"
SPEED = {
    "zero-shot": 5.13,
    "5-shot, other examples each time": 6.28,
    "5-shot, the same examples": 28.3,
}
for setting, times in SPEED.items():
    print(f"{setting:33} {times:5.2f} ×")

# %% [markdown]
# ## The models of lessons 01 to 03
#
# This lesson uses the models that earlier lessons saved. It trains what is
# missing, in a shorter version; then the numbers are lower than in those
# lessons. If they ran with another model or other data, set `MATHSFT_RUNS` to a
# new folder, because an adapter fits only the base that it was trained on.

# %%
mixed = run_dir("03_mixing") / "adapters"
HIDDEN = "templates hidden"
mixtures = ["MathQA", "MathQA + grade school", "twice MathQA", HIDDEN]
adapters = {
    "SFT": run_dir("01_sft") / "adapter",
    "multiple choice": run_dir("02_choices") / "adapter",
    **{name: mixed / name for name in mixtures},
}
trained_on = {}  # for each mixture: the questions it was trained on
if (mixed / "trained_on.json").exists():
    trained_on = json.loads((mixed / "trained_on.json").read_text())
adapters = {name: path for name, path in adapters.items() if path.is_dir()}
if not (HIDDEN in trained_on and {"MathQA", HIDDEN} <= adapters.keys()):
    adapters = {n: p for n, p in adapters.items() if n not in mixtures}
print("found:", ", ".join(adapters) or "none")

# %% [markdown]
# Lesson 03 hid some templates (questions with their numbers masked) from one of its runs,
# `templates hidden`. The short version hides a third of the test's templates:

# %%
from zlib import crc32

from mathsft import question_template, without_test_rows


def in_third(question):
    return crc32(question_template(question).encode()) % 3 == 0


questions = [{"question": q["question"]} for q in base.questions]
apart = [q for q in questions if in_third(q["question"])]
rest = without_test_rows(pool, questions).shuffle(seed=SEED)

# %%
from mathsft import add_adapter, load_adapter, save_adapter


def make(name, trainer, rows, start=None, **settings):
    fresh, _ = load_model(MODEL)
    if start:
        made = load_adapter(fresh, start, is_trainable=True)
    else:
        made = add_adapter(fresh, lora_dropout=0.0)
    folder = run_dir("04_evaluation") / "adapters" / name
    settings = {**settings, "max_length": 512, "seed": SEED}
    settings |= {"output_dir": folder.parent, "logging_strategy": "no"}
    trainer(made, tokenizer, rows, **settings).train()
    adapters[name] = save_adapter(made, folder, tokenizer=tokenizer)
    trained_on[name] = [*rows["question"]]


# %%
from mathsft import multiple_choice_trainer, sft_trainer

if "SFT" not in adapters:
    source = os.environ.get("MATHSFT_SOURCE")
    rows = load_problems(
        **{"source": source} if source else recipe["train"]
    )
    make("SFT", sft_trainer, rows, **{**recipe["sft"], "max_steps": 40})

kept, short = None, {**recipe["mixing"], "max_steps": min(240, len(rest))}
if not {"multiple choice", HIDDEN} <= adapters.keys():
    kept = without_test_rows(rest, apart, templates=True)
    starting = kept.select(range(min(320, len(kept) // 2)))
    make("start", multiple_choice_trainer, starting, **short)
    start = adapters.pop("start")
    adapters.setdefault("multiple choice", start)

# %%
if HIDDEN not in adapters:
    short["max_steps"] = min(80, len(rest))
    # Another order, so that the run differs even if nothing was hidden.
    others = kept.shuffle(seed=SEED + 1)
    for name, rows in (("MathQA", rest), (HIDDEN, others)):
        rows = rows.select(range(min(960, len(rows))))
        make(name, multiple_choice_trainer, rows, start, **short)
        trained_on[name] += starting["question"]

asked = {q["question"] for q in questions}
for name, seen in trained_on.items():
    assert not asked & set(seen), f"{name} was trained on test questions"

# %% [markdown]
# For each adapter, `evaluate` loads a fresh base and adds the adapter with
# `load_adapter`, which compares keys, shapes and the base's identity.
# `base=base` adds one more check: a tuned model with exactly the same scores as
# its base is an error. (You will see this error below.)
#
# **Predict.** Which of these models will differ from the base so much that no
# test is needed to see it? And which one was trained on other answers than this
# test asks for?
#
# <details>
# <summary>Answer</summary>
#
# All models that were trained on choices. `SFT` learned to write worked
# solutions, and this test never lets it write. Whether its score moved at all
# needs a test.
#
# </details>

# %%
results = {"base": base, small.name: small}
for name, folder in adapters.items():
    results[name] = evaluate(
        MODEL, TASK, peft=folder, name=name, base=base, **options
    )
for result in results.values():
    print(f"{result.name:22} {result.accuracy()}")

# %%
from mathsft import plot_intervals

shares = {name: result.accuracy() for name, result in results.items()}
plot_intervals(shares, chance=base.chance, title=TASK)
show_figure("Accuracy of each model with its interval: base, base in 4 "
            "bits and SFT near chance, the others far above.")  # fmt: skip

# %% [markdown]
# **Which pairs may be compared?** The mixtures of lesson 03 with each other: they
# had the same start, equal steps and equal batches. And each model with the base.
# But not `multiple choice` with the mixtures: lesson 02 gave it a training run
# of another length. A difference between them would be real, and would not tell
# you why. Below, the mixtures are compared pair by pair, and no others.
#
# ## Gained and lost
#
# Overlapping intervals do not mean that two models are equal. Both models
# answered *the same questions*. On most of them, both are right or both are
# wrong. The models differ in the questions that only one of them gets right.
# Such a question is *gained* if only the second model gets it right, and *lost*
# if only the first does:

# %%
one, other = [name for name in mixtures if name in results][:2]
a, b = (np.array(results[name].correct()) for name in (one, other))
gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
table = [[int((a & b).sum()), lost], [gained, int((~a & ~b).sum())]]
plt.figure(figsize=(5, 3), layout="constrained")
plt.imshow([[0, 1], [1, 0]], cmap="Blues", vmin=0, vmax=3)
words = [["both right", "lost"], ["gained", "both wrong"]]
for y, x in np.ndindex(2, 2):
    plt.text(x, y, f"{words[y][x]}\n{table[y][x]}", ha="center",
             va="center", fontsize=12)  # fmt: skip
plt.xticks([0, 1], ["right", "wrong"])
plt.yticks([0, 1], ["right", "wrong"])
plt.gca().set(xlabel=other, ylabel=one, title="Only blue cells count")
show_figure("A table of four cells: both right, lost, gained, both wrong.")
print(f"{one} → {other}: gained {gained}, lost {lost}")

# %% [markdown]
# If both models were equally good, each question that only one of them gets right
# would be a coin toss: gained or lost. **McNemar's test** asks how often this many
# fair coins fall at least as unevenly. With b gained, c lost and n = b + c, the
# answer is the *p-value*
#
# $$p = \min\left(1,\; 2 \sum_{k=0}^{\min(b,c)} \binom{n}{k}\, 2^{-n}\right)$$
#
# Each term is the probability that exactly k of n coins fall on one side. In
# Python, and by two libraries of the field:

# %%
from math import comb

from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

tosses, fewer = gained + lost, min(gained, lost)
tail = sum(comb(tosses, k) for k in range(fewer + 1)) / 2**tosses
p_hand = min(1.0, 2 * tail)
p_scipy = binomtest(gained, tosses).pvalue if tosses else 1.0
p_models = mcnemar(table, exact=True).pvalue
print(f"by hand     p = {p_hand:.3g}")
print(f"scipy       p = {p_scipy:.3g}")
print(f"statsmodels p = {p_models:.3g}")
np.testing.assert_allclose([p_scipy, p_models], p_hand, rtol=1e-6)

# %% [markdown]
# **Predict.** Model B gains 60 % of the questions on which the two models differ,
# and loses 40 %. Is that enough for p < 0.05?
#
# <details>
# <summary>Answer</summary>
#
# It depends on their number, and on nothing else. With 10 such questions it is
# nothing special: 6 heads of 10 coins. The figure shows from which number on it
# is. The questions on which the models agree do not enter at all.
#
# </details>

# %%
tossed = np.arange(10, 301, 10)
plt.figure(figsize=(6, 2.8), layout="constrained")
colours = {0.55: "#9bb8d0", 0.6: "#1b6ca8", 0.7: "#c8553d"}
for share, colour in colours.items():
    ps = [binomtest(round(share * n), n).pvalue for n in tossed.tolist()]
    plt.plot(tossed, ps, ".-", color=colour, label=f"{share:.0%} gained")
    enough = [n for n, p in zip(tossed, ps) if p < 0.05]
    print(f"{share:.0%} gained: p < 0.05 first at {[*enough, None][0]}")
plt.axhline(0.05, color="black", linestyle="--")
plt.gca().set(xlabel="questions that only one model gets right", ylabel="p",
              title="Same imbalance, more coins", yscale="log")  # fmt: skip
plt.legend()
show_figure("p falls as the number of unequal questions grows, and faster "
            "for a larger imbalance.")  # fmt: skip

# %% [markdown]
# The p-value says how unusual such counts would be if the two models were equally good. It
# does not say how much better one of them is. For that, draw the test's questions again and
# again, with replacement, and look at how the difference varies. This is the **bootstrap**:

# %%
draw = np.random.default_rng(0)
n = len(a)
again = draw.integers(n, size=(2000, n))
points = (b[again].mean(axis=1) - a[again].mean(axis=1)) * 100
low, high = np.percentile(points, [2.5, 97.5])
print(
    f"{100 * (b.mean() - a.mean()):+.1f} [{low:+.1f}, {high:+.1f}] points"
)

# %%
from mathsft import compare

print(compare(results[one], results[other]))

# %% [markdown]
# `compare` has its interval from a formula, Tango's score interval for pairs.
# With many questions the two agree. With ten, the bootstrap can be wrong: if two
# models answer all ten alike, every draw gives a difference of 0, and the
# interval claims that nothing else is possible.
#
# All of this treats questions as independent. But the tiny test's questions come
# from a small number of templates, and two questions with the same template tell
# us less than two with different ones. So draw templates instead, each with all
# of its questions (["Adding error bars to evals"](https://arxiv.org/abs/2411.00640)
# calls such groups clusters, and recommends paired differences, too):

# %%
import pandas as pd

names = [question_template(q["question"]) for q in base.questions]
groups = pd.Series(b.astype(int) - a.astype(int)).groupby(names)
sums, sizes = groups.sum().to_numpy(), groups.size().to_numpy()
again = draw.integers(len(sums), size=(2000, len(sums)))
points = 100 * sums[again].sum(axis=1) / sizes[again].sum(axis=1)
low, high = np.percentile(points, [2.5, 97.5])
print(f"{len(sums)} templates: [{low:+.1f}, {high:+.1f}] points")

# %% [markdown]
# If the second interval is wider, the intervals below are a little too narrow,
# and the p-values a little too small.
# (Real MathQA has far more templates than the tiny test.)
#
# `compare` gives one more number. A difference *shows* if p is below 0.05, and the number is
# the smallest true difference that shows four times out of five, with this many questions.
# If a smaller difference did not show, that is no proof of equality: the test was too short.
# The noise comes from the questions that only one of the two models gets right. If these are
# 30 % of all:

# %% tags=["nbval-check-output"]
from mathsft import detectable_difference

for size in (100, 300, 1000, 2985, 10_000):
    shows = 100 * detectable_difference(size, unequal=0.3)
    print(f"{size:6,} questions show {shows:4.1f} points")

# %% [markdown]
# MathQA's whole test has 2,985 questions, so it can show about three points. The
# two mixtures of the public experiment are two points apart.
#
# What do 4 bits cost a model that can do the task? `multiple choice` was trained
# on a 4-bit base. Compare it on both bases, question by question:

# %%
if "multiple choice" in adapters:
    on_small = evaluate(
        MODEL, TASK, peft=adapters["multiple choice"], quantize=True,
        name="multiple choice, 4-bit", **options,
    )  # fmt: skip
    print(on_small.accuracy())
    cost = compare(on_small, results["multiple choice"])
    print(f"without rounding: {100 * cost.difference:+.1f} points")
    print(f"gained {cost.gained}, lost {cost.lost}, p = {cost.p:.2g}")
    print(f"a difference of {100 * cost.detectable:.1f} would show")

# %% [markdown]
# In the run shown here, 77.8 % on both bases: 12 answers were right only without
# rounding, 12 only with it. No cost shows, and a cost of 2.7 points would have
# shown. But the answers are not the same ones, and the scores of a single question
# differ. So compare models on one and the same base.

# %% [markdown]
# ## The table
#
# Each of the other models is compared with the base, so there are as many
# comparisons as other models. If two models are equally good, p still falls below
# 0.05 about once in twenty comparisons. **Holm's correction** makes up for the
# number m of comparisons. Sort the p-values, p₁ ≤ p₂ ≤ …; then
#
# $$\tilde p_i = \min\left(1,\; \max_{j \le i}\, (m - j + 1)\, p_j\right)$$
#
# The smallest is multiplied by m, the next by m − 1, and so on, and a corrected
# value is never below the one before it. Read the column `p_holm`:

# %%
from statsmodels.stats.multitest import multipletests

from mathsft import results_table

full = results_table([*results.values()], base="base", reference=True)
table = full[full["whose"] == full["whose"].iloc[0]].iloc[1:]
holm_p = multipletests(table["p"].astype(float), method="holm")[1]
np.testing.assert_allclose(holm_p, table["p_holm"].astype(float))
print(f"{'run':21}   acc   diff  p_holm")
for _, row in table.iterrows():
    diff, p = 100 * row["difference"], row["p_holm"]
    print(f"{row['run']:21} {row['accuracy']:5.3f} {diff:+6.1f} {p:7.2g}")

# %% [markdown]
# The same function returns the numbers of the **public experiment**. They are not
# ours: the model is another one, and so are the questions, so nothing can be
# paired with them. All that we have of it is this table, and no address: public
# notebooks that fine-tune Qwen2.5-0.5B and 1.5B, score them with the harness's
# task `mathqa`, 0-shot, and give the base as .2874 ± .0083. If you look for it,
# look for these digits. (± is the standard error, √(p(1 − p)/n).)

# %%
public = full[full["whose"] != full["whose"].iloc[0]]
for _, row in public.iterrows():
    print(f"{row['run']:37} {row['accuracy']:.4f}")
p, n = public["accuracy"].iloc[0], public["n"].iloc[0]
print(f"standard error of the first: {(p * (1 - p) / n) ** 0.5:.4f}")

# %% [markdown]
# Now compare every pair of the mixtures, which had equal steps from one start.
#
# **Predict.** How many of these pairs would you expect below p = 0.05 if all
# mixtures were equally good?
#
# <details>
# <summary>Answer</summary>
#
# One in twenty, so most likely none of six pairs. If you make forty comparisons,
# about two. That is what the correction is for.
#
# </details>

# %%
from mathsft import pairs_table

equal = [results[name] for name in mixtures if name in results]
each = pairs_table(equal)
shows = each["p_holm"] < 0.05
print(f"{shows.sum()} of {len(each)} differences show;")
print(f"{(each['p'] < 0.05).sum()} without the correction\n")
for _, row in each.iterrows():
    print(f"{row['a']} → {row['b']}")
    diff, reach = 100 * row["difference"], 100 * row["detectable"]
    print(f"  {diff:+.1f} points: +{row['gained']} −{row['lost']}")
    print(f"  p {row['p']:.2g}, Holm {row['p_holm']:.2g}, "
          f"{reach:.1f} would show")  # fmt: skip

# %% [markdown]
# In the run shown here, three of six differences show: the mixture with grade
# school is behind each of the other three. The others do not show. The
# correction changes no verdict here, but it has a price: the p of `MathQA + grade
# school` → `twice MathQA` grows from 0.002 to 0.0081. And `MathQA` → `twice
# MathQA`, −2.0 points: this test would show 5.9. It cannot tell whether a smaller
# difference is there.
#
# A p-value is about these weights and these questions. Another seed gives other
# weights, and their spread is part of the truth as well. Lesson 03
# can repeat its main pair with other seeds (`SEEDS`); exercise 4 lets you see
# such a spread.

# %% [markdown]
# ## The failure, on purpose
#
# Look at the public numbers again: multiple choice, with .2874, equals the base
# to the last digit. Its adapter had been wrapped twice. This happens if you run
# the cell that adds the adapter twice.
#
# **Predict.** You wrap a model twice, save it, and load it again. What does the
# library say: an error, a warning, or nothing?
#
# <details>
# <summary>Answer</summary>
#
# A warning among many others. The keys in the file do not match, nothing is
# loaded, and the fresh adapter does nothing, so you score the base.
#
# </details>

# %%
import warnings

from peft import PeftModel, get_peft_model

fresh, _ = load_model(MODEL)
once = add_adapter(fresh)
broken = run_dir("04_evaluation") / "broken"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    twice = get_peft_model(once, once.peft_config["default"])
    twice.save_pretrained(broken)
print("saved, without an error")

# %%
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    fresh, _ = load_model(MODEL)
    tuned = PeftModel.from_pretrained(fresh, broken)
print("loaded:", type(tuned).__name__)
for warning in warned:
    if "adapter keys" in str(warning.message):
        print("peft's warning:", str(warning.message)[:55], "…")

# %% [markdown]
# There is no error, only a warning. The adapter's keys match nothing, so the adapter is
# empty, and the model that is scored now is the base. In this package, three checks refuse
# it. `load_adapter` and `evaluate` are the first two. The third is `compare`, for a model
# that was scored by other means (here by the harness's own class): all log-likelihoods are
# equal.

# %%
from dataclasses import replace
from textwrap import fill


def attempt(what, *arguments, **more):
    try:
        what(*arguments, **more)
        print("no error")
    except ValueError as error:
        print(fill(str(error).replace(str(broken), broken.name), 76), "\n")


attempt(load_adapter, load_model(MODEL)[0], broken)
attempt(evaluate, tuned, TASK, tokenizer=tokenizer, file=FILE, limit=20)

# %%
part = replace(base, questions=base.questions[:20])
count = sum(len(q["choices"]) for q in part.questions)
with quiet_harness():
    lm = HFLM(tuned, tokenizer=tokenizer, batch_size=8)
    found = [score for score, _ in lm.loglikelihood(requests[:count])]
scored = iter(found)
questions = [
    {**q, "loglikelihoods": [next(scored) for _ in q["choices"]]}
    for q in part.questions
]
attempt(compare, part, replace(part, name="tuned", adapter_hash="another",
                               questions=questions))  # fmt: skip

# %% [markdown]
# ## Seen and unseen templates
#
# `templates hidden` was trained without some templates. Here is its accuracy on test
# questions whose template it had seen, and on those whose template it had not seen. Two other
# models are shown on the same two parts: the base, which had seen no template, and `MathQA`,
# which had seen (nearly) all:

# %%
from mathsft import accuracy_by, template_labels

rows = [{"question": q} for q in trained_on[HIDDEN]]
labels = template_labels(base, rows)
for name in ("base", "MathQA", HIDDEN):
    print(name)
    for label, share in accuracy_by(results[name], labels).items():
        print(f"  {label:26} {share}")
print("(seen or not seen by:", HIDDEN + ")")

# %%
for part in sorted(set(labels), reverse=True):
    some = [i for i, label in enumerate(labels) if label == part]
    if some:
        both = [
            replace(r, questions=[r.questions[i] for i in some])
            for r in (results[HIDDEN], results["MathQA"])
        ]
        print(f"{part}: {compare(*both)}\n")

# %% [markdown]
# The numbers of the run shown here contain two traps. First, `templates hidden`
# is better on questions whose template it had seen: 69.4 % against 56.6 %. Is that
# an effect of seeing it? `MathQA` had seen the templates of both parts, and it too
# is better on the same part: 68.8 % against 55.5 %. The two
# parts are different questions, so comparing seen with unseen within one model
# says little.
#
# Second, on the *same* questions, the run that had seen their templates is 1.2
# points behind the one that had not (p = 0.86). But only a difference of 9.1
# points would have shown. All we can say is "no difference shows", and that is
# not "no difference".

# %% [markdown]
# ## Where a model is right
#
# Here are the same answers by category, and by whether both readings of MathQA's
# options agree (lesson 03). The official number stays the official number; the
# clean one is shown beside it. Look at the intervals: a category has few
# questions, so differences of a few points mean nothing here.

# %%
chosen = [n for n in ("base", "multiple choice", "MathQA") if n in results]
by = {name: accuracy_by(results[name]) for name in chosen}
for category in by["base"]:
    print(f"{category} (n = {by['base'][category].n})")
    for name in chosen:
        share = by[name][category]
        bounds = f"[{share.low:.0%}, {share.high:.0%}]"
        print(f"  {name:16} {share.accuracy:4.0%} {bounds}")

# %%
from mathsft import reading_labels

if TASK == "mathqa_tiny":
    print("generated rows: the two readings are the same")
else:
    official, name = results["MathQA"], "MathQA"
    clean = evaluate(
        MODEL, f"{TASK}_clean", peft=adapters[name], name=name, **options
    )
    print(official, clean, sep="\n")
    alike = reading_labels(official, clean)
    for label, share in accuracy_by(official, alike).items():
        print(f"{label}: {share}")

# %% [markdown]
# ## One page for all of it
#
# `write_report` writes the tables and plots of all results in the results folder into one
# file that opens without a network. It also writes a CSV file beside it, with a row for each
# run.

# %%
from mathsft import memory_gb, write_report

page = write_report(RESULTS, RESULTS.parent / "report.html")
print(f"{page.name}: {page.stat().st_size / 1000:.0f} kB")
minutes = sum(result.minutes for result in results.values())
print(f"{len(results)} evaluations took {60 * minutes:.0f} s")
print(f"memory: {memory_gb()[1]:.2f} GB at the peak")

# %% [markdown]
# ## On a T4
#
# In Colab: Runtime → Change runtime type → T4 GPU, then run all cells. Colab
# gives each notebook its own machine: to evaluate the adapters of lessons 01 to
# 03, keep them on Drive (`MATHSFT_RUNS`); otherwise this lesson trains short
# versions first.
#
# - Time, peak memory and scores: not yet measured. Each model answers MathQA's
#   2,985 questions; start with `LIMIT = 300`.
#
# If you run **out of memory**: `evaluate(..., batch_size=4)` first (smaller
# passes, the same scores); then `quantize=True`, for *all* models that you
# compare, since rounding changes the scores.
#
# Try next: `evaluate(MODEL, ["arc_easy"])`, another of the harness's tasks;
# `num_fewshot=5`; two adapters of your own.

# %% [markdown]
# ## Exercises
#
# Each exercise ends with a check that says "not solved yet" until you solve it. The solutions are in
# `notebooks/solutions/04_evaluation.ipynb`.
#
# **1.** k equally good models answer n questions. Each is right on a question with
# probability q. You report the best of them. Write `best_of(k, n, q)`, which
# returns the mean of the accuracy that you would report. Simulate it
# (2,000 times, `numpy`), or compute it. What does it give for ten models, 300
# questions and q = 0.3?

# %%
from mathsft import exercise


def best_of(k, n, q):
    return q


# %% tags=["exercise"]
with exercise(1):
    draw = np.random.default_rng(12)
    for _ in range(4):
        k, n = int(draw.integers(2, 12)), int(draw.integers(50, 400))
        q = float(draw.uniform(0.2, 0.7))
        right = binom.cdf(np.arange(n + 1), n, q) ** k
        exact = (1 - right[:-1]).sum() / n
        found = best_of(k, n, q)
        case = f"k = {k}, n = {n}, q = {q:.3f}: {found:.4f}"
        assert 0 <= found <= 1, f"{case}: give a share, not per cent"
        assert found > q + 0.3 * (exact - q), f"{case}: not the best of k"
        assert abs(found - exact) < 0.004, f"{case} is not near enough"


# %% [markdown]
# **2.** Holm's correction by hand, from the formula above. Write `holm(ps)`, which returns the corrected values in the order of `ps`.

# %%
def holm(ps):
    return [min(1.0, p * len(ps)) for p in ps]


# %% tags=["exercise"]
with exercise(2):
    draw = np.random.default_rng(13)
    for size in (1, 2, 3, 5, 8, 13):
        ps = draw.uniform(0, 0.3, size).round(3).tolist()
        wanted = multipletests(ps, method="holm")[1]
        found = np.array(holm(list(ps)), dtype=float)
        assert len(found) == size, f"{ps}: {len(found)} values came back"
        assert (found <= 1).all(), f"{ps}: {found.max():.3f} is above 1"
        order = np.argsort(ps)
        falls = (np.diff(found[order]) < -1e-12).any()
        assert not falls, f"{ps}: {found.round(3)} falls as p grows"
        far = np.abs(found - wanted).max()
        assert far < 1e-9, f"{ps}: {found.round(3)}"


# %% [markdown]
# **3.** You hope for a gain of d (0.02 is two points), and you know the share u of
# the questions that only one of the two models answers correctly. Write
# `questions_needed(d, u)`: how many questions must the test have to show d four
# times out of five? (`detectable_difference` goes from questions to points.
# Search for the number, or invert its formula.)

# %%
def questions_needed(d, u):
    return 2985


# %% tags=["exercise"]
with exercise(3):
    draw = np.random.default_rng(14)
    for _ in range(5):
        d, u = draw.uniform(0.01, 0.05), draw.uniform(0.1, 0.4)
        found = questions_needed(d, u)
        reach = detectable_difference(int(found), u)
        case = f"d = {d:.4f}, u = {u:.3f}: {found:,} questions"
        assert reach < d * 1.01, f"{case} show only {reach:.4f}"
        assert reach > d * 0.99, f"{case} show even {reach:.4f}"

# %% [markdown]
# **4. Change the seed.** A p-value is about two sets of weights. How much do the
# weights depend on luck? Train `MathQA` a little further, twice, with two
# different seeds (other rows, another order), and compare the two. Is the
# difference below p = 0.05? If p told the whole story, that should happen in
# one of twenty pairs of equal training runs. The cells train in under 20 seconds on
# free CPU cores.

# %%
before = results["MathQA"]


def train_again(seed, steps=30):
    fresh, _ = load_model(MODEL)
    made = load_adapter(fresh, adapters["MathQA"], is_trainable=True)
    rows = rest.shuffle(seed=seed)
    rows = rows.select(range(min(8 * steps, len(rows))))
    settings = {**recipe["mixing"], "max_steps": steps, "seed": seed}
    settings |= {"max_length": 512, "logging_strategy": "no"}
    multiple_choice_trainer(
        made, tokenizer, rows, save_strategy="no",
        output_dir=run_dir("04_evaluation") / "again", **settings,
    ).train()  # fmt: skip
    return evaluate(
        made, TASK, tokenizer=tokenizer, name=f"seed {seed}",
        file=FILE, limit=min(LIMIT or 300, 300),
    )  # fmt: skip


# %% tags=["change"]
my_seeds = ()  # two different whole numbers
mine = [train_again(seed) for seed in my_seeds]
for result in mine:
    print(f"{result.name}: {result.accuracy()}")
my_p = None  # the p-value of the paired comparison of the two

# %% tags=["exercise"]
with exercise(4):
    assert len(mine) == 2, "train twice: put two seeds into my_seeds"
    first, second = (np.array(r.correct()) for r in mine)
    asked_both = [[q["question"] for q in r.questions] for r in mine]
    assert asked_both[0] == asked_both[1], "the questions must be the same"
    scores = [
        [q["loglikelihoods"] for q in r.questions[:50]]
        for r in (*mine, replace(before, questions=before.questions[:50]))
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        x, y = (np.concatenate(scores[k]) for k in (i, j))
        assert np.abs(x - y).max() > 1e-3, "two of the models are the same"
    assert my_p is not None, "compare the two, and put the p-value in my_p"
    unequal = int((first != second).sum())
    gains = int((second & ~first).sum())
    p = binomtest(gains, unequal).pvalue if unequal else 1.0
    assert abs(my_p - p) < 1e-6, f"my_p = {my_p}: not that of this pair"

# %% [markdown]
# ## What next
#
# You can now train a small model in several ways, and tell which differences
# show. The harness has hundreds of other tasks: `evaluate(MODEL,
# ["arc_easy"])` uses the same forest. From a shell, all of the harness's own
# flags work: `python -m mathsft.lm_eval --model mathsft --model_args
# pretrained=tiny --tasks mathqa_tiny`.
