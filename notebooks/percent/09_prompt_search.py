# %% [markdown]
# # 09 · Can a prompt do it without training?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/09_prompt_search.ipynb)
#
# In lesson 01, fine-tuning raised the worked answers from 1.0 % to 91.7 %. But
# the base model solved 99.7 % when we asked it like a textbook. Did we only have
# to find the right words? This lesson lets a program search for them, while the
# model stays frozen.
#
# You will learn
# - that one token can decide everything, and why a new line is not always a new
#   line;
# - to search for tokens *with a gradient*, although tokens have none: the Gumbel
#   softmax and a straight-through step, by hand;
# - a plain search by swaps, and a soft prompt of vectors that are no tokens;
# - what such a search says about fine-tuning, and what it does not say.
#
# **Time.** With the embedded tiny model, and a second lesson beside it on two
# CPU cores, about two minutes; the last line of "All together" prints the seconds of the run that you
# see. On a T4 the lesson loads Qwen2.5-0.5B and GSM8K from the hub instead: not
# yet measured.

# %% [markdown]
# **Words.** A *hard prompt* consists of tokens; a *soft prompt* of vectors that
# stand where embeddings stand. The model is *frozen*: none of its weights
# changes. *Logits* or *scores* are numbers that a softmax turns into
# probabilities; its *temperature* divides them first.

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
from mathsft import (
    describe,
    load_recipe,
    load_settings,
    quiet,
    run_dir,
    show_figure,
)

quiet()
tokens = load_settings()  # names of your access tokens; none needed
describe()

# %% tags=["parameters"]
import os
import time

import torch

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
SEED = 0
recipe = load_recipe(PROFILE)
if recipe["model"]["name"] == "tiny":
    recipe["model"]["quantize"] = False  # it is small enough
    recipe["worked"]["max_new_tokens"] = 64  # its solutions are shorter
QUICK = int(os.environ.get("MATHSFT_QUESTIONS") or 512)  # a quick look
STEPS, SEEDS = (32, 3) if QUICK > 300 else (10, 1)
TARGET = "{solution}"  # what the model should write: in its own form
{key: recipe[key] for key in ("model", "worked")}

# %% [markdown]
# ## The same question, asked in several ways
#
# The model is the base model of lesson 01, without training. To save time, 150
# of the 300 test problems are asked.

# %%
from mathsft import load_model, load_problems, sft_prompt

model, tokenizer = load_model(**recipe["model"])
train = load_problems(**recipe["train"])
test = load_problems(**recipe["test"])
rows = train.select(range(min(300, len(train)))).to_list()
test = test.select(range(min(150, len(test))))  # enough here
print("in both:", len(set(train["question"]) & set(test["question"])))

# %%
from mathsft import wilson_interval, worked_answers

found = {}


def solved(name, prompt, model=model):
    """Which test problems the model solves, greedily, asked in this way."""
    answers = worked_answers(
        model, tokenizer, test, prompt=prompt, **recipe["worked"]
    )
    found[name] = [answer["correct"] for answer in answers]
    print(f"{name:22}", wilson_interval(found[name]))


# %%
solved("course's format", sft_prompt)
solved("question alone", "{}".format)
solved("question, new line", "{}\n".format)


# %% [markdown]
# The course's format: 2.0 % of the test problems. The question alone: 12.0 %.
# With a new line after it: 100.0 %. The model knows this form from its
# pre-training texts.
#
# **Predict.** The last prompt ends with a new line. Suppose we give the model
# the tokens of the question, and then the token of a new line. Is that the same?
#
# <details>
# <summary>Answer</summary>
#
# No. A tokenizer joins characters that often stand together. If a question mark
# is followed by a new line, our tokenizer has *one* token for both. The next
# cells show it, and what it costs.
#
# </details>

# %% tags=["nbval-check-output"]
def pieces(ids):
    return [tokenizer.decode([token]) for token in ids]


question = "How many shells does Sam have now?"
joined = tokenizer(question + "\n").input_ids
apart = tokenizer(question).input_ids + tokenizer("\n").input_ids
print(pieces(joined)[-3:])
print(pieces(apart)[-3:])

# %%
newline = tokenizer("\n").input_ids
solved("new line as own token", lambda q: tokenizer(q).input_ids + newline)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 1, figsize=(6, 2.2))
for ax, ids in zip(axes, (joined[-4:], apart[-4:])):
    for place, piece in enumerate(pieces(ids)):
        ax.barh(0, 0.95, left=place, color="C0", alpha=0.25)
        ax.text(place + 0.47, 0, repr(piece), ha="center", va="center")
    ax.axis("off")
axes[0].set_title("one text, read at once, and in two parts")
show_figure(
    "The last tokens of the same text as boxes. Read at once, it ends with "
    "one token of question mark and new line; in two parts, with two."
)

# %% [markdown]
# Two token lists that read alike, and the second solves 4.0 %. In pre-training,
# the model never saw a question mark and a new line as two tokens.
#
# So who should choose the tokens? Not a person who looks at the text.

# %% [markdown]
# ## A gradient for tokens
#
# We want the token with which the worked solution is most probable. We could try
# all of them. With several places there are too many combinations, so we want a
# direction, a gradient; but one cannot take a little bit of a token.
#
# Give each place a code vector $c$. The score of token $v$ with embedding $e_v$
# is $s_v = c \cdot e_v$. Draw a token by adding *Gumbel noise* to each score and
# taking the largest: this draws from the softmax of the scores ([Jang et al.
# 2017](https://arxiv.org/abs/1611.01144)). The model reads the embedding of the
# drawn token. Backward, we pretend that it had read the mixture
#
# $$\sum_v p_v\, e_v, \qquad p = \mathrm{softmax}\bigl((s + \text{noise}) / \tau\bigr)$$
#
# so the gradient says how each token's probability should change. This is a
# *straight-through* step. Here $p_v$ is the weight of token $v$ in the mixture
# and $\tau$ the temperature, which falls from 2 to 0.3: first many tokens get a
# gradient, later the mixture is close to what the model reads.

# %%
scores = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0])  # of five tokens
figure, axes = plt.subplots(figsize=(6, 2.8))
for shift, heat in ((-0.27, 2.0), (0, 1.0), (0.27, 0.3)):
    weights = (scores / heat).softmax(-1)
    axes.bar(torch.arange(5) + shift, weights, 0.25, label=f"{heat}")
axes.set(xlabel="token", ylabel="weight in the mixture")
axes.legend(title="temperature", frameon=False)
axes.set_title("a low temperature: almost one token")
show_figure(
    "Bars of the weights of five tokens at three temperatures. At 2.0 they "
    "are nearly even, at 0.3 the best token has most of the weight."
)

# %%
table = model.get_input_embeddings().weight.detach()


def draw(codes, noise, temperature):
    """A token, and its embedding with the gradient of the softmax."""
    scores = codes @ table.float().T + noise
    token = scores.argmax(-1)
    mixed = (scores / temperature).softmax(-1) @ table.float()
    return token, table[token] + mixed - mixed.detach()


# %%
def loss_by_hand(row, embedded):
    """Minus log p of each token of the solution, after the drawn token."""
    embed = model.get_input_embeddings()
    asked = tokenizer(row["question"]).input_ids
    solution = tokenizer(row["question"] + row["solution"]).input_ids
    solution = torch.tensor(solution[len(asked) :], device=model.device)
    asked = torch.tensor(asked, device=model.device)
    inputs = torch.cat([embed(asked), embedded, embed(solution)])
    logits = model(inputs_embeds=inputs[None].to(table.dtype)).logits[0]
    logits = logits[-len(solution) - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, solution)


# %% [markdown]
# `mixed - mixed.detach()` is zero with a gradient: forward it changes nothing.
# The package does the same for several places and packs the rows into a forest,
# as in lesson 01. Both give the same loss and the same gradient:

# %%
from mathsft import (
    PromptCodebook,
    gumbel_noise,
    places_of,
    prompt_logprobs,
)

forbidden = torch.zeros(len(table), dtype=torch.bool)
book = PromptCodebook(model.get_input_embeddings(), forbidden, num_tokens=1)
noise = gumbel_noise(
    (1, 1, len(table)), generator=torch.Generator().manual_seed(SEED)
).to(model.device)
places = places_of(
    rows[:1], tokenizer, template="{question}{prompt}", target=TARGET
)


# %% tags=["nbval-check-output"]
def gradient(loss):
    return torch.autograd.grad(loss, book.codes)[0]


token, embedded = draw(book.codes, noise[0], 1.0)
ours = loss_by_hand(rows[0], embedded)
drawn = book.draw(temperature=1.0, noise=noise)
packed = prompt_logprobs(
    model, places, drawn, pad_token_id=0, max_length=256
)
theirs = -packed.target[0] / len(places[0].target)
print("token", pieces(token), "and", pieces(drawn.ids[0]))
print(f"loss by hand {ours:.5f}, packaged {theirs:.5f}")
by_hand, packaged = gradient(ours), gradient(theirs)
far = (by_hand - packaged).norm() / by_hand.norm()
print("gradients differ by less than a thousandth:", bool(far < 1e-3))

# %% [markdown]
# To read the whole method in one file of plain PyTorch, open
# [minimal/prompt_search.py](https://github.com/mathsft/mathsft/blob/main/minimal/prompt_search.py).
#
# ## One token after the question
#
# Each step draws eight problems of the training split, and for each one a token.
# Special tokens and parts of characters are *forbidden*: their scores are
# masked, and a small penalty moves the codes away from them. The penalty is
# computed before the mask; after it, the forbidden probability is always zero
# and has no gradient. At the end, the four tokens that were drawn most often are
# compared on the same 32 problems. The score is on the *test* split.
#
# **Predict.** Which token will it find?
#
# <details>
# <summary>Answer</summary>
#
# You have seen the form that this model knows: the question, a question mark and
# a new line in one token. A search that works must find this token, or one that
# is as good. Nobody told the program about it.
#
# </details>

# %%
from mathsft import Gumbel, Swaps, search_prompt

spent = {}


def search(name, method, **how):
    start = time.process_time()
    how = {"target": TARGET, "check_rows": 32, "seed": SEED, **how}
    prompt = search_prompt(model, tokenizer, rows, method=method, **how)
    spent[name] = time.process_time() - start
    print(f"{prompt.text!r}, {prompt.tried} tried, loss", end=" ")
    print(f"{prompt.loss:.3f}, {spent[name]:.0f} s")
    return prompt


# %%
gumbel = Gumbel(steps=STEPS, finalists=4)
one = []
for seed in range(SEEDS):
    name = f"one token, seed {seed}"
    one.append(search(name, gumbel, seed=seed))
    if one[-1].text not in [prompt.text for prompt in one[:-1]]:
        solved(name, one[-1].as_ids(tokenizer))  # equal prompts only once

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for seed, prompt in enumerate(one):
    axes.plot(prompt.losses, label=f"seed {seed}: {prompt.text!r}")
axes.set(xlabel="step", ylabel="loss, nats per token")
axes.set_title("the search: loss of the drawn tokens")
axes.legend(frameon=False)
show_figure(
    f"The loss of {len(one)} searches against the step: it jumps between "
    "draws, and becomes low once the right token is drawn."
)

# %% [markdown]
# All three seeds find the same token, `"?\n"`, in a few seconds each and after
# trying 77 to 94 of the tokens. With it the frozen model solves 100.0 % of the
# held-out problems (95 % interval 97.5 to 100.0 %). It is a question mark and a
# new line in one: the token that ends this model's questions. That the question
# now has two question marks does no harm.
#
# Can we type what was found? A found prompt is a list of token ids. As text, it
# may be joined with its neighbours into other tokens. `survives` is the share of
# rows in which the text gives the same tokens again.

# %%
best = min(one, key=lambda prompt: prompt.loss)
asked = best.as_text(question)
print(repr(asked), pieces(tokenizer(asked).input_ids)[-3:])
print(f"the same tokens in {best.survives:.0%} of the rows")

# %% [markdown]
# The text works here. If `survives` is below 1, use the ids (`as_ids`), not the
# text.
#
# ## A plain search
#
# Is the Gumbel softmax necessary? *Greedy coordinate gradient* ([Zou et al.
# 2023](https://arxiv.org/abs/2307.15043)) is simpler. It keeps one prompt, asks
# the gradient which swaps of one token look good, tries 32 of them, and keeps
# the best.

# %%
swapped = search("one token, swaps", Swaps(steps=2))
if swapped.text not in [prompt.text for prompt in one]:
    solved("one token, swaps", swapped.as_ids(tokenizer))

# %% [markdown]
# The swap search finds the same token, and the seconds printed are no more. With
# one place and a few hundred candidates, trying is hard to beat.
#
# ## Inside the course's format
#
# So far the search replaced the format. Now the prompt is the course's, with
# `### Question:` and `### Answer:`, and three tokens may be added at its end.

# %%
INSIDE = sft_prompt("{question}") + "{prompt}"
inside = {"template": INSIDE, "num_tokens": 3}
three = search("inside, three", gumbel, **inside)
solved("inside, three", three.as_ids(tokenizer))
tries = search("inside, swaps", Swaps(steps=STEPS // 8), **inside)
solved("inside, swaps", tries.as_ids(tokenizer))

# %% [markdown]
# The Gumbel search ended with a loss of 1.267, and the model solves 0.7 %
# (interval 0.1 to 3.7 %). The swaps reached a loss of 1.127 and 8.0 % (4.6 to
# 13.5 %). Compare with the loss of `"?\n"` after the bare question: 0.52 to
# 0.59.
#
# Is there no such prompt, or did we not find it? A *soft prompt* gives an upper
# limit of sorts. Its vectors can be anything, and need no search: the gradient
# trains them directly ([Lester et al. 2021](https://arxiv.org/abs/2104.08691)).
# We use `peft`'s `PromptTuning`, which puts them before the whole text.

# %%
from mathsft import soft_prompt

start = time.process_time()
soft = soft_prompt(
    load_model(**recipe["model"])[0], tokenizer, rows, num_tokens=10,
    prompt=sft_prompt("{question}"), target=TARGET, steps=STEPS * 3 // 4,
    learning_rate=0.1, seed=SEED,
)  # fmt: skip
spent["soft, ten vectors"] = time.process_time() - start
print(
    f"loss {soft.losses[0]:.3f}, then {sum(soft.losses[-5:]) / 5:.3f}",
    end="",
)
print(f", {spent['soft, ten vectors']:.0f} s")
solved("soft, ten vectors", sft_prompt, soft.model)

# %% [markdown]
# The loss fell from 1.305 to 1.134 in 24 steps, about the loss of the swaps, and
# the model solves 0.7 % (interval 0.1 to 3.7 %). Vectors before the text did not
# do it either, in this number of steps. And equal losses were not equal scores.

# %% [markdown]
# ### The same in peft's own API
#
# `soft_prompt` trains what `peft` calls prompt tuning. Here is the model in
# `peft`'s own words, with the trained vectors put in: both give the same logits.

# %%
import peft

config = peft.PromptTuningConfig(
    task_type="CAUSAL_LM", num_virtual_tokens=10
)
theirs = peft.get_peft_model(load_model(**recipe["model"])[0], config)
theirs = theirs.to(model.device).eval()
vectors = peft.get_peft_model_state_dict(soft.model)
peft.set_peft_model_state_dict(theirs, vectors)
inputs = tokenizer(sft_prompt(question), return_tensors="pt")
inputs = inputs.to(model.device)
with torch.no_grad():
    ours = soft.model(**inputs).logits
    torch.testing.assert_close(theirs(**inputs).logits, ours)
count = sum(vector.numel() for vector in vectors.values())
print("the same logits, with", count, "trained numbers")

# %% [markdown]
# ## Fine-tuning in about the same time
#
# Lesson 01's fine-tuning, in the course's format, for 20 steps only: they take
# about as many seconds of computing as the swaps in this format. The cell prints
# both. Its batch is half of lesson 01's, so that more steps fit into this time.
#
# **Predict.** The single token took a few seconds to find. Will fine-tuning in
# this time, in the course's format, solve more test problems than the base model
# with that token, or fewer?
#
# <details>
# <summary>Answer</summary>
#
# Fewer, as the comparison below shows. The token puts the model into a form that
# it already masters. Fine-tuning must first teach it what to do with the
# course's format.
#
# </details>

# %%
from mathsft import add_adapter, sft_trainer

tuned = add_adapter(load_model(**recipe["model"])[0], seed=SEED)
same = {**recipe["sft"], "lr_scheduler_type": "constant"}
same["max_steps"] = 20
same["per_device_train_batch_size"] = 4  # half: more steps in this time
trainer = sft_trainer(
    tuned, tokenizer, train, output_dir=run_dir("09_sft"), seed=SEED,
    **same,
)  # fmt: skip
start = time.process_time()
trainer.train()
spent["SFT"] = time.process_time() - start
print(f"{trainer.state.global_step} steps in {spent['SFT']:.0f} s", end="")
print(f"; the swaps took {spent['inside, swaps']:.0f} s")
solved("SFT", sft_prompt, tuned)

# %% [markdown]
# ## All together

# %%
names = [name for name in found if "seed" not in name or name[-1] == "0"]
figure, axes = plt.subplots(figsize=(6, 3.6))
for place, name in enumerate(names[::-1]):
    mean, low, high, _ = wilson_interval(found[name])
    axes.plot([low, high], [place, place], color="C0")
    axes.plot([mean], [place], "o", color="C0")
axes.set_yticks(range(len(names)), names[::-1])
axes.set(xlabel="share of test problems solved", xlim=(-0.02, 1.02))
axes.set_title("one frozen model, asked in many ways; and tuned")
show_figure(
    "Share of test problems solved, with 95 % intervals, for each way to "
    "ask and for fine-tuning. The forms with a question mark and a new "
    "line in one token are near 1, the others far below, SFT between."
)

# %%
from scipy.stats import binomtest


def versus(old, new):
    """Questions gained and lost, and McNemar's exact p."""
    pairs = list(zip(found[old], found[new]))
    gained = sum(b and not a for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    p = binomtest(lost, gained + lost).pvalue if gained + lost else 1.0
    print(f"{old}\n  → {new}: +{gained} -{lost}, p = {p:.1e}")


# %%
versus("question, new line", "one token, seed 0")
versus("SFT", "one token, seed 0")
versus("inside, swaps", "SFT")
versus("course's format", "inside, three")
versus("course's format", "inside, swaps")
versus("course's format", "soft, ten vectors")
versus("course's format", "SFT")
print(f"{time.process_time():.0f} s of computing in all")

# %% [markdown]
# The found token and the known form solve the same problems: none gained, none
# lost. In the course's format, fine-tuning with 20 steps reaches 72.0 %
# (interval 64.3 to 78.6 %): 105 problems gained, none lost (p = 5e-32). It
# solves 104 problems that the swaps do not, and misses 8 of theirs (p = 2e-22).
# The one token, found in a few seconds, solves 42 problems that this fine-tuning
# does not, and loses none (p = 5e-13).
#
# The swaps gained 12 problems and lost 3 (p = 0.035). But these are seven tests,
# and after Holm's correction of lesson 04 this p is above 0.05. So a difference
# from the plain format is not shown for the swaps, nor for the Gumbel search (p
# = 0.62) and the soft prompt (p = 0.50). These are single runs inside the
# format; another seed may do better.
#
# ## What this means for lesson 01
#
# Lesson 01 measured a gain from 1.0 % to 91.7 % in the course's format. The base
# model reaches 100.0 % with one new line. So the gain was not arithmetic that
# the base model lacked: what the model learned is what to do when it reads `###
# Question`. Such a gain is real if you need that format. Before you call a
# training run a success, ask the base model as well as you can.
#
# The reverse does not hold. A search that finds nothing proves nothing: inside
# the course's format, three tokens did not suffice, and yet a little training in
# the same format does. And the loss is not the score: always answer the test
# problems.

# %% [markdown]
# ## On a T4
#
# Runtime → Change runtime type → T4 GPU, then run all cells. With the profile
# `t4` the same cells load Qwen2.5-0.5B and GSM8K. Time, peak memory and scores:
# *not yet measured*. Its vocabulary is some hundred times the tiny model's, so
# there are more candidates, and a search needs more steps.
#
# If it runs out of memory: ask for fewer problems in each step (`batch_size=4`
# of `Gumbel`), then quantise the model (`recipe["model"]["quantize"] = True`).
#
# Try next: put the token before the question (`template="{prompt}{question}"`),
# forbid the winner (`forbidden=`), or prefer likely prompts (`fluency=0.1`).

# %% [markdown]
# ## Exercises
#
# Each exercise ends with a check. A box says whether you have solved it.
# Solutions are in `notebooks/solutions/09_prompt_search.ipynb`.
#
# **1.** Write the temperature's schedule: from `first` at step 0 to `last` at
# step `steps - 1`, on half a cosine.

# %%
from itertools import product
from random import Random

from mathsft import exercise


# %%
def my_cosine(step, steps, first, last):
    return first


# %% tags=["exercise"]
with exercise(1):
    draw_ = Random(1)
    for _ in range(20):
        quarter = draw_.randint(1, 9)
        first, last = draw_.uniform(1, 3), draw_.uniform(0, 1)
        steps, middle = 4 * quarter + 1, (first + last) / 2
        values = [my_cosine(k, steps, first, last) for k in range(steps)]
        assert abs(values[0] - first) < 1e-9, f"begins at {values[0]}"
        assert abs(values[-1] - last) < 1e-9, f"ends at {values[-1]}"
        here = values[2 * quarter]
        assert abs(here - middle) < 1e-9, f"half way at {here}"
        bow = (values[quarter] - middle) / (first - middle)
        assert abs(bow**2 - 0.5) < 1e-9, "no cosine at a quarter"


# %% [markdown]
# **2.** Write `my_survives`: are the tokens of the question and `ids` still the
# same if the whole prompt is read as text?

# %%
def my_survives(question, ids):
    return True


# %% tags=["exercise"]
with exercise(2):
    for row in Random(2).sample(rows, 5):
        for asked in (row["question"], row["question"].rstrip("?")):
            for text in ("?\n", "\n", "?", " so", "\n\n"):
                ids = tokenizer(text).input_ids
                read = tokenizer(asked + text).input_ids
                kept = read == tokenizer(asked).input_ids + ids
                mine = my_survives(asked, ids)
                assert mine == kept, (asked[-20:], text)


# %% [markdown]
# **3.** A prompt has so many `places`, and the vocabulary so many `words`. How
# many prompts differ from a given one in exactly one token? How many prompts are
# there?

# %%
def my_counts(places, words):
    return places, words


# %% tags=["exercise"]
with exercise(3):
    for places_, words_ in ((1, 5), (2, 4), (3, 3), (2, 6)):
        every = list(product(range(words_), repeat=places_))
        one_off = [p for p in every if sum(a != 0 for a in p) == 1]
        counted = my_counts(places_, words_)
        good = counted == (len(one_off), len(every))
        assert good, f"{places_} places, {words_} words: not {counted}"

# %% [markdown]
# **4. Change.** Ten vectors before the text did not do it. Is the number of
# vectors the reason? Train two more soft prompts, with 1 and with 40 vectors and
# everything else as above, each in some seconds. Which one has the lower loss on
# test problems? Set `better` to 1 or 40.

# %% tags=["change"]
mine = {}  # the prompts of soft_prompt(…) by their number of vectors
better = None


# %%
def loss_after(model):
    """Minus log p per token of some solutions of the test split."""
    losses = []
    for row in test.select(range(24)).to_list():
        asked = sft_prompt(row["question"])
        ids = tokenizer(asked + row["solution"], return_tensors="pt")
        ids = ids.input_ids.to(model.device)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -ids.shape[1] :]
        begin = len(tokenizer(asked).input_ids)
        loss = torch.nn.functional.cross_entropy(
            logits[begin - 1 : -1].float(), ids[0, begin:]
        )
        losses.append(loss.item())
    return sum(losses) / len(losses)


# %% tags=["exercise"]
with exercise(4):
    assert set(mine) == {1, 40}, "train one with 1 and one with 40 vectors"
    without = loss_after(load_model(**recipe["model"])[0])
    found_ = {}
    for count, prompt in mine.items():
        vectors = peft.get_peft_model_state_dict(prompt.model).values()
        there = sum(v.shape[0] for v in vectors)
        assert there == count, f"{count}: it has {there} vectors"
        found_[count] = loss_after(prompt.model)
        told = f"{count}: not trained? Without a prompt {without:.3f}"
        assert found_[count] < without, told
    right = min(found_, key=found_.get)
    assert better == right, "better is not the number that the losses show"

# %% [markdown]
# ## What we learned
#
# - The frozen model solves 100.0 % of the problems (97.5 to 100.0 %) with one token after the question,
#   and 2.0 % (0.7 to 5.7 %) in the course's format.
# - Prompts that read alike can be different tokens: with the new line as its own token,
#   4.0 % (1.8 to 8.5 %).
# - A straight-through step gives tokens a gradient. For one token, a plain search by swaps found the same,
#   no slower.
# - Inside the course's format, the searches reached 0.7 and 8.0 %, a soft prompt 0.7 %,
#   and fine-tuning in about the time of the longer search 72.0 %. That a search fails does not show that no prompt exists.
# - Measure the base model at its best, too, before you call a gain arithmetic.
