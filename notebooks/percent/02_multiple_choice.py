# %% [markdown]
# # 02 · Train what the test measures
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/02_multiple_choice.ipynb)
#
# In a multiple-choice test, the model never writes. The test looks up how likely
# the model finds each choice after the question, and takes the most likely one.
# Lesson 01 trained the model to *write* solutions, and this score hardly
# changed. Here you train exactly what the test measures.
#
# You will learn
# - what a multiple-choice score is made of, token by token, and what four bits
#   do to it;
# - the **objective** that trains it: a softmax over the choices;
# - how all choices share **one pass** over the question, in a *forest of
#   tokens*, and how to show that the result stays the same;
# - to ask what the training cost, and whether the model reads the question.
#
# **Time and memory.** With the embedded tiny model, and a second lesson beside it
# on two CPU cores, the lesson took four minutes and 1.1 GB; most of it is one
# training run. On a T4 the recipe loads Qwen2.5-0.5B, MathQA and GSM8K instead (see "On a T4").

# %% [markdown]
# **Words.** The *log-probability* of a text is the sum of the logarithms of its
# tokens' probabilities: 0 means certain, and every token makes it more negative.
# The *context* is the text that comes first (the question). The *continuation*
# is the text that is scored (a choice). *Softmax* turns scores into shares that
# add up to 1. *Cross-entropy* is minus the logarithm of the right choice's
# share: with five choices, guessing costs ln 5.

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
from torch.nn.functional import cross_entropy
from transformers import set_seed

from mathsft import keep_folder

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
SOURCE = os.environ.get("MATHSFT_SOURCE")  # a .jsonl file of your own
KEEP = os.environ.get("MATHSFT_KEEP")  # "drive" or a folder: see lesson 01
TRACK = None  # "tensorboard", "wandb", "none"; None: wandb if a key is set
SEED = 0
recipe = load_recipe(PROFILE)
# recipe["model"]["name"] = "Qwen/Qwen2.5-1.5B"  # on a T4 as well
set_seed(SEED)
KEEP = keep_folder(KEEP)
{key: recipe[key] for key in ("model", "choices_train", "multiple_choice")}

# %% [markdown]
# ## The experiment behind this course
#
# This course grew from a public experiment: a set of notebooks that fine-tuned
# Qwen2.5-0.5B and 1.5B and scored them with lm-evaluation-harness on its task
# `mathqa`: 2,985 test questions, asked without showing solved examples first
# (0-shot). We know the authors' table, but no address: to find the experiment,
# search for these numbers. "SFT" is trained as in lesson 01. "Instruct" is the
# model that the maker of Qwen trained to follow instructions. The authors had
# two ideas that you will try: train the choices' likelihoods (this lesson), and
# mix data sets (lesson 03).

# %% tags=["nbval-check-output"]
published = {  # of 2985 questions; standard error of the first: 0.0083
    "0.5B base": 0.2874,
    "0.5B SFT": 0.2884,
    "0.5B Instruct, the vendor's": 0.2901,
    "0.5B multiple choice": 0.2874,
    "0.5B multiple choice, MathQA": 0.3558,
    "0.5B the same + GSM8K": 0.3363,
    "1.5B base": 0.3461,
    "1.5B SFT": 0.2978,
    "1.5B Instruct, the vendor's": 0.3374,
}
for name, accuracy in published.items():
    print(f"{name:28} {accuracy:.4f}")

# %% [markdown]
# **Predict.** Two of these numbers are equal to the last digit. Is that a
# coincidence?
#
# <details>
# <summary>Answer</summary>
#
# Almost certainly not. 0.2874 is the base, and again the model of "multiple
# choice". A mistake in the code saved the adapter's matrices under wrong names.
# When it was loaded, no name fitted, so nothing was loaded: there was only a
# warning, and the base was scored in its place. Lesson
# 04 stages this failure. It is the reason why this kit stops with an error in
# such a case, and why you will see `check_tuned` below.
#
# </details>

# %% [markdown]
# ## The questions
#
# Some problems come without choices (those of GSM8K, or of your own file).
# `add_choices` makes choices for them: results with one wrong operation,
# intermediate results, and values near and far. They are mixed so that the
# choices alone do not give away the right one. The generated problems of this
# lesson already have choices, so here it only counts them. (MathQA is written in
# small letters, with spaces around every sign; `rs .` are rupees.)

# %%
from mathsft import add_choices, load_problems

if SOURCE:  # one file: hold out a fifth, at most 300 rows, for the test
    rows = load_problems(SOURCE, limit=recipe["choices_train"].get("limit"))
    held_out = min(300, len(rows) // 5)
    parts = rows.train_test_split(test_size=held_out, seed=SEED)
    train, test = parts["train"], parts["test"]
    recipe["multiple_choice"]["max_length"] = 512  # real ones are longer
else:
    train = load_problems(**recipe["choices_train"])
    test = load_problems(**recipe["choices"])
train, test = add_choices(train, seed=SEED), add_choices(test, seed=SEED)
print("in both:", len(set(train["question"]) & set(test["question"])))

# %% tags=["nbval-check-output"]
problem = test[0]
print(problem["question"])
for n, choice in enumerate(problem["choices"]):
    print("→" if n == problem["label"] else " ", choice)

# %%
from mathsft import add_adapter, load_model

model, tokenizer = load_model(**recipe["model"])
# No dropout: the comparisons below need the same numbers every time.
model = add_adapter(model, r=16, lora_alpha=32, lora_dropout=0.0)
model.print_trainable_parameters()


# %% [markdown]
# ## What the test does
#
# For every choice $c$: put it after the question, run the model, and add up the
# log-probabilities of the choice's tokens $c_1, c_2, \dots$:
#
# $$s_c = \sum_i \log p\,(c_i \mid \text{question}, c_1, \dots, c_{i-1})$$
#
# The model predicts each token at the position *before* it. Five choices need
# five passes over the same question, filled up (padded) to one length. (The harness:
# [arXiv:2405.14782](https://arxiv.org/abs/2405.14782). MathQA:
# [arXiv:1905.13319](https://arxiv.org/abs/1905.13319).)
#
# **Predict.** Which choice will the untrained model find most likely: one that
# is right, or one with few tokens?
#
# <details>
# <summary>Answer</summary>
#
# Not the right one: it has not learned this kind of text. Short choices have an
# advantage, since every further token adds a negative number to the sum. Here a
# short choice gets the largest share. The right one is just as short and gets
# 1.3 %.
#
# </details>

# %%
def tokens_of(problem):
    question = f"Question: {problem['question']}\nAnswer:"
    start = len(tokenizer(question).input_ids)
    texts = [f"{question} {c}" for c in problem["choices"]]
    return start, [tokenizer(text).input_ids for text in texts]


def five_passes(problem):
    start, rows = tokens_of(problem)
    longest = max(map(len, rows))  # padding comes last: it is never seen
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    logits = model(input_ids=ids.to(model.device)).logits.float()
    logprobs = logits.log_softmax(-1)
    return torch.stack([
        sum(logprobs[n, i - 1, row[i]] for i in range(start, len(row)))
        for n, row in enumerate(rows)
    ])  # fmt: skip


# %%
with torch.no_grad():
    scores = five_passes(problem)
shares = scores.softmax(-1)
for n, choice in enumerate(problem["choices"]):
    mark = "→" if n == problem["label"] else " "
    print(f"{mark} {choice:12} {scores[n]:8.3f}  {shares[n]:6.1%}")
label = torch.tensor([problem["label"]], device=scores.device)
print(f"cross-entropy: {cross_entropy(scores[None], label):.3f}")

# %% [markdown]
# The objective is the cross-entropy of the right choice $c^\ast$ after a softmax
# over the choices:
#
# $$L = -\log \frac{e^{s_{c^\ast}}}{\sum_c e^{s_c}}$$
#
# PyTorch can compute its gradient, so we can train on it. The test takes the
# largest score; training makes the right choice's share grow.
#
# ## What four bits do to the scores
#
# Our model is quantised to 4 bits: the recipe says `quantize: True`. (The table
# at the top says what this machine does if a recipe says nothing.) Lesson 04
# evaluates it in 32 bits, so you will see other scores for the same question
# there. Compare both here, on one question and on all:

# %%
from mathsft import choice_logprobs, wilson_interval


def picks(scores):
    return [max(range(len(s)), key=s.__getitem__) for s in scores]


def right_ones(scores):
    return [p == n for p, n in zip(picks(scores), test["label"])]


full, _ = load_model(recipe["model"]["name"])
in_full = choice_logprobs(full, tokenizer, test)
in_4_bits = choice_logprobs(model, tokenizer, test)
print("choice         full   4 bits")
for choice, a, b in zip(problem["choices"], in_full[0], in_4_bits[0]):
    print(f"{choice:12} {a:7.2f}  {b:7.2f}")

# %%
from math import log

changed = sum(a != b for a, b in zip(picks(in_full), picks(in_4_bits)))
print(f"another choice on {changed} of {len(test)} questions")
print("full:  ", wilson_interval(right_ones(in_full)))
print("4 bits:", wilson_interval(right_ones(in_4_bits)))


# %% [markdown]
# The scores of one question move by whole nats, and the model picks another
# choice on 60 of 300 questions. The two intervals overlap widely, and we claim
# no difference in accuracy. But never compare a score in 4 bits with a score in
# full precision, and do not call their difference the effect of a training run.
#
# ## One pass: a forest of tokens
#
# Write the question down once and let each choice branch off it: this is a tree
# of tokens. A token's position is its depth in the tree. Its `end` is the index
# just past its last descendant, the last token that follows it on any branch.
# The rule of lesson 01 stays the same: token `i` sees token `j` exactly when
# `j <= i < end[j]`.
#
# The last token of a choice, its *leaf*, is only *predicted*: nothing follows
# it. So the model does not need to read the leaves at all.

# %%
def plant(question, choices):
    ids, position = [*question], list(range(len(question)))
    everything = len(question) + sum(len(choice) - 1 for choice in choices)
    end = [everything] * len(question)
    for choice in choices:
        branch = choice[:-1]  # without the leaf
        ids += branch
        position += range(len(question), len(question) + len(branch))
        end += [len(ids)] * len(branch)
    return ids, position, end


def mask_from(end):
    i = torch.arange(len(end))
    return (i <= i[:, None]) & (i[:, None] < torch.tensor(end))


# %% tags=["nbval-check-output"]
plant([1, 2, 3], [[7, 8], [7, 9, 5], [4]])


# %% [markdown]
# Read the output from left to right. The question is 1, 2, 3, and all tokens see
# it: its `end` is 6, the number of tokens. Then comes the 7 of the first choice:
# its `end` is 4, so the token with index 4 and all later ones do not see it. Then
# come 7 and 9 of the second choice. Both 7s have position 3, since both follow
# the question. The leaves 8, 5 and 4 are missing.
#
# **Predict.** Our question with its five choices has 213 tokens in five passes.
# How many are left if the question is written only once?
#
# <details>
# <summary>Answer</summary>
#
# Less than a third: 60 tokens, as the output below shows. A forest that also
# shares the beginnings of the choices needs 47.
#
# </details>

# %%
def one_pass(problem):
    start, rows = tokens_of(problem)
    question, choices = rows[0][:start], [row[start:] for row in rows]
    ids, position, end = plant(question, choices)
    logits = model(
        input_ids=torch.tensor([ids], device=model.device),
        position_ids=torch.tensor([position], device=model.device),
        attention_mask=mask_from(end)[None, None].to(model.device),
    ).logits[0].float()  # fmt: skip
    logprobs, scores, branch = logits.log_softmax(-1), [], start
    for choice in choices:
        inner = range(branch, branch + len(choice) - 1)
        scores.append(logprobs[[start - 1, *inner], choice].sum())
        branch += len(choice) - 1
    return torch.stack(scores)


# %%
start, rows = tokens_of(problem)
ids, _, _ = plant(rows[0][:start], [row[start:] for row in rows])
with torch.no_grad():
    difference = (five_passes(problem) - one_pass(problem)).abs().max()
print(f"{sum(map(len, rows))} tokens in five passes, {len(ids)} in one")
assert difference < (1e-4 if scores.dtype == model.dtype else 0.1)
print(f"largest difference of a score: {difference:.0e}")

# %% [markdown]
# `TokenForest` does the same for any number of questions (many trees are a
# forest), and it shares more. Choices that begin alike branch later. Several
# questions go into one long row of tokens, and share the word that they all
# begin with. (`tiny` has no token for the word "Question"; it writes six.) Here
# is the tree of this question, starting at the question's last token. The last
# digit of each choice is not in it: it is a leaf. 220 and 25 share the digit 2,
# so five choices make four branches. The picture after it shows who sees whom:
# where the row's token sees the column's token, the square is blue.

# %% tags=["nbval-check-output"]
from mathsft import TokenForest, encode_choices

forest = TokenForest(encode_choices(tokenizer, [problem])[0])
ids, depth = forest.input_ids[0], forest.position_ids[0]
words = [tokenizer.decode([i]) for i in ids]
tree = [n for n in range(len(ids)) if depth[n] >= start - 1]
print(" ".join(words[: tree[0]]), "…")
print(len(ids), "tokens")

# %%
from matplotlib import pyplot as plt

from mathsft import show_figure

plt.figure(figsize=(6, 3.4))
box = {"fc": "#dbe7f0", "ec": "gray"}
for n in tree:
    above = [j for j in tree if j < n and depth[j] == depth[n] - 1]
    for j in above[-1:]:
        plt.plot([depth[j], depth[n]], [-j, -n], color="gray")
    name = words[n].strip() or "space"
    plt.text(depth[n], -n, name, ha="center", va="center", bbox=box)
plt.title("after the question: choices share what begins alike")
plt.gca().set(yticks=[], xlabel="depth = position of the token")
show_figure(
    "A tree of tokens: after the question comes 'rs .', then branches "
    "with the first digits of the five choices."
)

# %%
from mathsft import plot_mask

tail = start - 8  # the last words; those before look the same
figure = plot_mask(mask_from(forest.end[0])[tail:, tail:], words[tail:])
figure.axes[0].set_title("who sees whom")
show_figure(
    "A triangle whose lower part has white steps: each branch sees the "
    "question and itself, but no other branch."
)

# %% [markdown]
# Look through the eyes of one token. The sliders choose a question and a token;
# coloured is what this token sees:

# %%
from mathsft import mask_explorer

three = [*test.select(range(3))]
trees = [TokenForest(c) for c in encode_choices(tokenizer, three)]
mask_explorer(trees, tokenizer, kind="question")

# %% [markdown]
# In the picture of the mask, the upper part is the triangle of any causal model.
# In the lower part, each branch sees the whole question and its own earlier
# tokens, but no other branch: that makes the white steps inside the triangle.
#
# Now use the packaged function on several questions at once. They share rows,
# and the function computes logits only at the positions that predict a token of
# a choice:

# %%
from mathsft import sequence_logprobs

some = [*test.select(range(min(8, len(test))))]
forest = TokenForest.from_groups(
    encode_choices(tokenizer, some), max_length=512
)
batch = forest.tensors(pad_token_id=tokenizer.pad_token_id)
batch = {key: value.to(model.device) for key, value in batch.items()}
with torch.no_grad():
    ours = sequence_logprobs(model, batch).sum
    plain = torch.cat([five_passes(problem) for problem in some])
print(tuple(batch["input_ids"].shape), "rows, tokens")
print(f"largest difference: {(ours - plain).abs().max():.0e}")

# %% [markdown]
# The gradients are equal too: the tests of this kit check them to 1e-5. So the
# forest is exact, not an approximation. How much time does it save? Measure one
# training pass, forward and backward, over the same questions:

# %%
import time


def seconds(scores_of):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        scores_of().sum().backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    model.zero_grad()
    return sorted(times)[1]  # the median


slow = seconds(lambda: torch.cat([five_passes(p) for p in some]))
fast = seconds(lambda: sequence_logprobs(model, batch).sum)
print(f"the forest is {slow / fast:.1f} times as fast here")

# %% [markdown]
# This compares the forest with the plain loop above, on a very small model.
# `benchmarks/multiple_choice_training.py` compares it with a carefully written
# competitor at the size of Qwen2.5-0.5B; the README has the numbers.
#
# ## The same in the field's own API
#
# The harness asks a model for log-likelihoods through its class `HFLM`. Give it
# the same questions: its numbers must be ours. Then train one step with
# transformers' own `Trainer` and a plain loss, `five_passes`: loss and gradient
# must be ours. (The *gradient norm* is the length of the gradient: how steep the
# loss is. With a learning rate of zero, it moves nothing.)

# %%
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from mathsft import quiet_harness

with quiet_harness():  # without its notices
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
requests = [
    Instance(
        request_type="loglikelihood", doc={}, idx=n,
        arguments=(f"Question: {p['question']}\nAnswer:", f" {choice}"),
    )
    for p in some for n, choice in enumerate(p["choices"])
]  # fmt: skip
theirs = harness.loglikelihood(requests, disable_tqdm=True)
theirs = torch.tensor([score for score, _ in theirs])
print(f"largest difference: {(theirs - ours.cpu()).abs().max():.0e}")
assert torch.allclose(theirs, ours.cpu(), atol=1e-3, rtol=1e-2)

# %%
from transformers import PrinterCallback, Trainer, TrainingArguments

from mathsft import multiple_choice_trainer


class PlainTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        losses = [
            cross_entropy(
                five_passes(p)[None],
                torch.tensor([p["label"]], device=model.device),
            )
            for p in inputs["problems"]
        ]
        return torch.stack(losses).mean()


# %%
settings = {
    "learning_rate": 0.0, "max_steps": 1, "logging_steps": 1,
    "per_device_train_batch_size": len(some), "disable_tqdm": True,
    "report_to": "none", "max_grad_norm": 1.0,
}  # fmt: skip
plain = PlainTrainer(
    model=model, train_dataset=some,
    data_collator=lambda rows: {"problems": rows},
    args=TrainingArguments(
        str(run_dir("02_plain")), remove_unused_columns=False,
        save_strategy="no", dataloader_pin_memory=False, **settings,
    ),
)  # fmt: skip
kit = multiple_choice_trainer(
    model, tokenizer, some, output_dir=run_dir("02_kit"), **settings
)

# %%
print("            loss     gradient norm")
steps = []
for name, one in (("this kit", kit), ("plain", plain)):
    one.remove_callback(PrinterCallback)
    one.train()
    steps.append(one.state.log_history[0])
    row = steps[-1]
    print(f"{name:9} {row['loss']:.5f}  {row['grad_norm']:.5f}")
close = 1e-3 if scores.dtype == model.dtype else 0.05
for key in ("loss", "grad_norm"):
    torch.testing.assert_close(
        steps[0][key], steps[1][key], rtol=close, atol=close
    )

# %% [markdown]
# ## Before
#
# Two scores again, each with its 95 % interval: the choices, and whether the
# model can still *work a problem out*. The tiny base model solves worked
# problems when the question has the form of its pre-training texts, so we ask in
# that form here.

# %%
from mathsft import worked_answers

written = load_problems(**{**recipe["test"], "limit": 150})
form = (
    {"prompt": "{}\n".format} if recipe["model"]["name"] == "tiny" else {}
)


def two_scores(model, logprobs=None):
    if logprobs is None:
        logprobs = choice_logprobs(model, tokenizer, test)
    worked = worked_answers(
        model, tokenizer, written, **form, **recipe["worked"]
    )
    return logprobs, right_ones(logprobs), [w["correct"] for w in worked]


# %%
# Its choices were scored above, and a new adapter changes nothing.
base_logprobs, *before = two_scores(model, in_4_bits)
for name, right in zip(("choices", "worked"), before):
    print(f"{name}: {wilson_interval(right)}")

# %% [markdown]
# ## Training
#
# A batch is a number of questions with all their choices. The trainer is the one
# of transformers, with this loss. Questions that cannot be used (one choice, two
# equal ones, too long for a row) are dropped, and the first line counts them.
#
# To read the method in one file of plain PyTorch, open
# [minimal/multiple_choice.py](https://github.com/mathsft/mathsft/blob/main/minimal/multiple_choice.py):
# its loss and its gradients are the same.

# %%
from mathsft import memory_gb, persist, plot_loss, tracker

folder = run_dir("02_choices")
trainer = multiple_choice_trainer(
    model, tokenizer, train, output_dir=folder, seed=SEED,
    report_to=tracker(TRACK), callbacks=[persist(folder, KEEP)],
    **recipe["multiple_choice"],
)  # fmt: skip
trainer.train(resume_from_checkpoint=True)
print(f"memory: {memory_gb()[1]:.2f} GB at the peak")

# %%
plot_loss(
    trainer.state.log_history,
    ylabel="loss per question",
    chance=log(len(problem["choices"])),
)
show_figure(
    "The loss per question starts above the dashed line of chance, "
    "reaches it, and then falls well below."
)

# %% [markdown]
# ## After
#
# **Predict.** The choices were trained. What happens to the worked answers,
# which the model could write before?
#
# <details>
# <summary>Answer</summary>
#
# They collapse: from 100.0 % to 11.3 %. The objective rewards ranking short
# texts after `Answer:`, and nothing in it keeps the model's writing as it was.
#
# </details>
#
# `p` is the chance that luck alone makes gains and losses at least so unequal
# (an exact sign test; see lesson 04).

# %%
from scipy.stats import binomtest

from mathsft import check_tuned


def show_change(name, old, new):
    gained = sum(n and not o for o, n in zip(old, new))
    lost = sum(o and not n for o, n in zip(old, new))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    print(f"{name}: {wilson_interval(old)}\n  → {wilson_interval(new)}")
    p = f"p = {p:.2f}" if p > 0.005 else "p < 0.01"
    print(f"  {gained} gained, {lost} lost, {p}")


tuned_logprobs, *after = two_scores(model)
check_tuned(base_logprobs, tuned_logprobs)
for name, old, new in zip(("choices", "worked"), before, after):
    show_change(name, old, new)

# %%
from mathsft import plot_accuracy

chance = sum(1 / len(c) for c in test["choices"]) / len(test)
plot_accuracy(
    {
        "choices\nbase": wilson_interval(before[0]),
        "choices\ntuned": wilson_interval(after[0]),
        "worked\nbase": wilson_interval(before[1]),
        "worked\ntuned": wilson_interval(after[1]),
    },
    chance={"choices\nbase": chance, "choices\ntuned": chance},
    title="what the training gave, and what it cost",
)
show_figure(
    "Four bars: multiple choice rises far above chance, and worked "
    "answers fall from nearly all to few."
)

# %% [markdown]
# With the tiny model, the choices go from guessing (19.7 %) to 78.3 %. Look
# at the loss: in the first part of the run it stays near or above the guessing
# line. Then it falls well below.
#
# **The price** is on the right of the picture. The model could solve every
# worked problem, and now it solves 11.3 %. The objective rewarded ranking numbers
# after `Answer:`, and nothing else. If you measure one score only, you will not
# notice. Exercise 4 trains a shorter run, with two learning rates.
# (How much does a larger model forget? Try another `PROFILE` and see.)
#
# You can switch the adapter off, and the base model is unchanged:

# %%
lost = [
    i for i, (o, n) in enumerate(zip(before[1], after[1])) if o and not n
]
one = written.select(lost[:1] or [0])
print(one[0]["question"])


def text_by(model):
    (w,) = worked_answers(model, tokenizer, one, **form, **recipe["worked"])
    return w["text"].strip()[:150]


print("\ntuned:", text_by(model))
with model.disable_adapter():
    print("\nbase: ", text_by(model))

# %% [markdown]
# ## Does it read the question?
#
# A model can learn to pass such a test without reading the question. If right
# choices were rounder or longer than wrong ones, that would be enough. So give
# every set of choices the question of *another* problem. If the score is still
# above chance, the part above chance comes from the choices alone.

# %%
questions = test["question"]
swapped = [
    {**test[i], "question": questions[i - 1]} for i in range(len(test))
]
right = right_ones(choice_logprobs(model, tokenizer, swapped))
print("with another question:")
print(f"{wilson_interval(right)}; chance {chance:.0%}")

# %% [markdown]
# Chance lies inside the interval. So these questions do not show that the
# choices alone give anything away. The score needs the right question.

# %% [markdown]
# ## Keep the adapter
#
# Save it, load it again, and check that it is the same.

# %%
from mathsft import load_adapter, save_adapter

folder = save_adapter(
    model, run_dir("02_choices") / "adapter", tokenizer=tokenizer
)
base, _ = load_model(**recipe["model"])
again = load_adapter(base, folder)
few = test.select(range(min(20, len(test))))
once_more = choice_logprobs(again, tokenizer, few)
for old, new in zip(tuned_logprobs, once_more):
    torch.testing.assert_close(old, new, rtol=1e-2, atol=1e-2)
print("the loaded adapter gives the same scores as the trained one")

# %% [markdown]
# ## On a T4
#
# Choose *Runtime → Change runtime type → T4 GPU* and run all cells. The recipe
# `t4` then loads Qwen2.5-0.5B, MathQA and GSM8K from the hub, in float16.
#
# | | on a T4 |
# |---|---|
# | time of the training | not yet measured; docs/scaling.md has an estimate |
# | peak memory | not yet measured; `estimate_memory` gives an estimate |
# | scores | not yet measured |
#
# If a cell stops with `out of memory`, run
# `from mathsft import free_memory; free_memory()`, since the error keeps what
# the cell had created. Then change one setting in the parameters cell, in this
# order:
# 1. halve `recipe["multiple_choice"]["per_device_train_batch_size"]` and set
#    `recipe["multiple_choice"]["gradient_accumulation_steps"] = 2`: a step has
#    the same questions;
# 2. `recipe["multiple_choice"]["gradient_checkpointing"] = True` (slower, much
#    smaller);
# 3. if the *worked answers* do not fit: `recipe["worked"]["batch_size"] = 8`.
#
# Try next: another learning rate; the 1.5B model (one line in the parameters
# cell); `SOURCE`, with problems of your own.

# %% [markdown]
# ## Exercises
#
# Each exercise ends with a check: a box says whether it is solved. The checks
# use inputs that you do not see. Solutions are in
# `notebooks/solutions/02_multiple_choice.ipynb`.
#
# **1.** How many tokens does the model read for one question in the forest that
# shares everything it can? Choices that begin alike share these tokens, and no
# leaf is read. Write `tokens_read(question, choices)` for lists of token
# numbers. For the question `[0, 1]` with the choices `[5, 6, 7]` and
# `[5, 6, 8]` it is 4.

# %%
import random

from mathsft import exercise


def tokens_read(question, choices):
    return len(question) + sum(len(choice) for choice in choices)


# %% tags=["exercise"]
with exercise(1):
    dice = random.Random(1)
    for _ in range(30):
        question = [9, *dice.choices(range(9), k=dice.randrange(1, 5))]
        length = dice.randrange(1, 5)
        texts = {tuple(dice.choices([5, 6], k=length)) for _ in range(4)}
        choices = [list(text) for text in sorted(texts)]
        unread = [-100] * len(question)
        forest_of = TokenForest([
            {"input_ids": question + c, "labels": unread + c}
            for c in choices
        ])  # fmt: skip
        mine = tokens_read(question, choices)
        about = f"tokens_read({question}, {choices})"
        right = len(forest_of.input_ids[0])
        assert mine == right, f"{about} is {mine}, and should be {right}"


# %% [markdown]
# **2.** Longer choices have lower sums. So lm-evaluation-harness has a second
# score, `acc_norm`, which divides each sum by the number of characters in the
# choice. Write `normalized_scores(scores, choices)` that does this: `scores` is
# a tensor of sums, `choices` a list of texts.

# %%
def normalized_scores(scores, choices):
    return scores


# %% tags=["exercise"]
with exercise(2):
    dice = random.Random(2)
    for _ in range(20):
        texts = [
            dice.choice(["rs . ", "", "km "]) + str(dice.randrange(10**n))
            for n in range(1, 6)
        ]
        per_character = torch.tensor([-dice.random() - 0.1 for _ in texts])
        counts = [sum(1 for _ in text) for text in texts]
        sums = per_character * torch.tensor(counts)
        mine = normalized_scores(sums, texts)
        worst = (mine - per_character).abs().max()
        assert worst < 1e-5, f"{texts}: off by up to {worst:.2f}"


# %% [markdown]
# **3.** Would a rule that never reads the question pass the test? Write
# `share_of_longest(problems)`: the share of problems for which the choice with
# the most characters is the right one (if several are longest, take the first).
# Each problem has `"choices"` and `"label"`. Then try it on `test`: is it near
# chance?

# %%
def share_of_longest(problems):
    return 0.2


# %% tags=["exercise"]
with exercise(3):
    dice = random.Random(3)
    for rows in (5, 20, 40):
        caught = dice.randrange(1, rows)
        made = []
        for n in range(rows):
            choices = dice.sample(["1", "12", "123", "1234", "12345"], 5)
            place = choices.index("12345")
            others = [c for c in range(5) if c != place]
            label = place if n < caught else dice.choice(others)
            made.append({"choices": choices, "label": label})
        dice.shuffle(made)
        mine = share_of_longest(made)
        told = f"{caught} of {rows} problems, and you say {mine}"
        assert abs(mine - caught / rows) < 1e-9, told

# %% [markdown]
# **4. Change one thing.** What does a smaller learning rate change in a run of
# equal length: the choices, the price, or both? The function `trained_with`
# trains a new adapter in 60 steps, in full precision, with a softer softmax
# (`temperature=4`, which learns faster in a short run). Train it into
# `my_model` with a quarter of the rate, and print `two_scores` for both rates.
# Guess first: what happens to each score?

# %% tags=["change"]
FULL_RATE = 2e-3


def trained_with(learning_rate, steps=60):
    torch.manual_seed(0)  # both rates begin with the same adapter
    new, _ = load_model(recipe["model"]["name"])  # in full precision
    new = add_adapter(new, r=16, lora_alpha=32, lora_dropout=0.0)
    multiple_choice_trainer(
        new, tokenizer, train, output_dir=run_dir("02_change"),
        learning_rate=learning_rate, max_steps=steps, temperature=4.0,
        per_device_train_batch_size=16, max_length=256,
    ).train()  # fmt: skip
    return new.eval()


my_rate = FULL_RATE
my_model = None  # trained_with(my_rate)

# %% tags=["exercise"]
with exercise(4):
    assert my_model is not None, "train an adapter into my_model"
    assert my_rate == FULL_RATE / 4, f"my_rate is {my_rate}"
    few = test.select(range(min(60, len(test))))

    def loss_now():
        found = torch.tensor(choice_logprobs(my_model, tokenizer, few))
        return cross_entropy(found, torch.tensor(few["label"])).item()

    tuned = loss_now()
    with my_model.disable_adapter():
        untrained = loss_now()
    told = f"loss {tuned:.2f}, untrained {untrained:.2f}: not trained?"
    assert tuned < untrained - 0.2, told

# %% [markdown]
# ## What next
#
# Lesson 03 asks what to train this objective *on*: more questions of the same
# kind, or a mixture with other questions, at equal cost.
