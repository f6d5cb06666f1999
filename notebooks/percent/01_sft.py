# %% [markdown]
# # 01 · Fine-tuning on worked solutions
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/01_sft.ipynb)
#
# A small language model continues text. It may have seen plenty of arithmetic
# and still not answer your question. In this lesson you show it 1,200 worked
# solutions and measure what that changes.
#
# **What you will see.** With the tiny model, worked answers rise from 1.0 % to
# 91.7 %. It looks as if the model had learned to calculate. It had not: if
# you ask the *untrained* model in the form of its own pre-training texts, it
# solves 99.7 %. Fine-tuning taught it the format of this course, and it lost a
# part of what it could do. You will see all three numbers side by side.
#
# You will learn
# - what **QLoRA** freezes, what it trains, and how much memory that saves;
# - what a training text is, which of its tokens carry a loss, and the formula;
# - how to **pack** short problems into full rows so that no problem sees
#   another one, and how to prove it;
# - to measure a base model at its best before you praise the training.
#
# **Time and memory.** With the embedded tiny model, and a second lesson beside it
# on two CPU cores, the lesson took three minutes and 1.1 GB. On a T4 the recipe loads
# Qwen2.5-0.5B instead (see "On a T4").

# %% [markdown]
# **Words.** A *token* is a piece of text: a word, a digit, a comma. The model
# reads tokens and gives each possible next token a probability. The *loss* says
# how surprised the model is by the token that really follows. *Training* changes
# the model's numbers, its *weights*, step by step so that the loss falls;
# `learning_rate` is the size of a step. An *epoch* is one pass through all the
# texts. To write *greedily* is to take the most likely token each time.

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
from transformers import set_seed

from mathsft import keep_folder

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
SOURCE = os.environ.get("MATHSFT_SOURCE")  # a .jsonl file of your own
KEEP = os.environ.get("MATHSFT_KEEP")  # "drive" or a folder; see Training
TRACK = None  # "tensorboard", "wandb", "none"; None: wandb if a key is set
SEED = 0

recipe = load_recipe(PROFILE)
# recipe["model"]["name"] = "Qwen/Qwen2.5-1.5B"  # another model
set_seed(SEED)
KEEP = keep_folder(KEEP)  # asks for access to Drive now, not later
recipe

# %% [markdown]
# ## The problems
#
# `load_problems` gives every source the same form: a question, a worked
# solution, the final answer, and choices if there are any. Rows that cannot be
# used are dropped, and the output says how many. The last line counts the
# questions that are in both the training rows and the test rows: it must be 0.

# %%
from mathsft import add_choices, load_problems

if SOURCE:  # one file: hold out a fifth, at most 300 rows, for the test
    rows = load_problems(SOURCE, limit=recipe["train"].get("limit"))
    held_out = min(300, len(rows) // 5)
    parts = rows.train_test_split(test_size=held_out, seed=SEED)
    train, test = parts["train"], parts["test"]
    recipe["sft"]["max_length"] = 512  # real problems are longer
    recipe["worked"]["max_new_tokens"] = 320
else:
    train = load_problems(**recipe["train"])
    test = load_problems(**recipe["test"])
choices = add_choices(load_problems(**recipe["choices"]))
print("in both:", len(set(train["question"]) & set(test["question"])))

# %% tags=["nbval-check-output"]
print(train[0]["question"], "\n")
print(train[0]["solution"])
print("####", train[0]["answer"])

# %% [markdown]
# The multiple-choice problems are written in another style, that of the MathQA
# data set. We do not train on them in this lesson. They are our second
# yardstick.

# %% tags=["nbval-check-output"]
print(choices[0]["question"])
print(choices[0]["choices"], "right:", choices[0]["label"])

# %% [markdown]
# ## The model, in four bits
#
# QLoRA keeps the model's matrices frozen in a 4-bit format, NF4, and trains
# small *adapters* beside them. A frozen matrix needs no gradient (the direction
# in which to change it) and no optimiser state (the memory of earlier changes).
#
# An adapter adds to what a frozen matrix $W$ does with its input $x$:
#
# $$y = W x + \frac{\alpha}{r}\, B A\, x$$
#
# $A$ has only $r$ rows, and $B$ has only $r$ columns; $r$ is the *rank*
# (`r` below), and $\alpha$ (`lora_alpha`) scales the sum of both. $B$ starts at
# zero, so at first the adapter changes nothing. Papers:
# [LoRA](https://arxiv.org/abs/2106.09685),
# [QLoRA](https://arxiv.org/abs/2305.14314).

# %%
from matplotlib import pyplot as plt

from mathsft import show_figure

frozen = {"x": (0.5, 2), "W: 4 bits,\nfrozen": (4.4, 3.1), "y": (9.4, 2)}
frozen["+"] = (8.2, 2)
trained = {"A: r rows,\ntrained": (2.8, 0.8)}
trained["B: r columns,\ntrained"] = (5.9, 0.8)
arrows = [((0.8, 2.2), (3.3, 3.1)), ((5.5, 3.1), (8, 2.3))]
arrows += [((0.8, 1.8), (1.8, 0.9)), ((3.8, 0.8), (4.5, 0.8))]
arrows += [((7.3, 0.9), (8, 1.7)), ((8.5, 2), (9.1, 2))]

# %%
_, axes = plt.subplots(figsize=(6, 2.6))
axes.set(xlim=(0, 10), ylim=(0, 4), title="QLoRA: one layer of the model")
axes.axis("off")
for parts, fill in ((frozen, "#dbe7f0"), (trained, "#f5d5c8")):
    for text, (x, y) in parts.items():
        axes.text(x, y, text, ha="center", va="center", bbox={"fc": fill})
for start, end in arrows:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->"})
show_figure(
    "The input x goes through the frozen 4-bit matrix W and, beside it, "
    "through the trained A and B; their sum is the output y."
)

# %%
from mathsft import estimate_memory

print(estimate_memory(recipe))

# %% [markdown]
# This estimates the memory that the training below will need, from the model's
# sizes alone, before any weights are loaded. `activations` are those results of
# the forward pass (which makes the predictions) that the backward pass (which
# computes the gradients) needs again. They grow with the number of tokens in a
# batch. If the total does not fit, the last line names the first change that
# helps.
#
# **Predict.** Each weight normally takes 32 bits. If the matrices take 4 bits
# instead, will the whole model be 8 times smaller?
#
# <details>
# <summary>Answer</summary>
#
# No, about 4.9 times here. The embedding table, which turns tokens into
# numbers, is not quantised, and each block of quantised weights also stores its
# scale. In a large model the table is a smaller part of the whole.
#
# </details>

# %%
from mathsft import load_model

sizes = []
for quantize in (False, True):
    settings = {**recipe["model"], "quantize": quantize}
    model, tokenizer = load_model(**settings)
    sizes.append(model.get_memory_footprint() / 1e6)
    print(f"quantize={quantize}: {sizes[-1]:,.2f} MB")
print(f"{sizes[0] / sizes[1]:.1f} times smaller")

# %% [markdown]
# Now the adapter. During training, *dropout* hides a few of its inputs at
# random, so that the model does not simply memorise the texts.

# %%
from mathsft import add_adapter

model, tokenizer = load_model(**recipe["model"])
model = add_adapter(model, r=16, lora_alpha=32, lora_dropout=0.05)
model.print_trainable_parameters()

# %% [markdown]
# ## Before: two scores
#
# **Worked answers.** The model writes a solution, greedily, and we compare its
# final number with the right answer. **Multiple choice.** The model writes
# nothing. We ask which of the five answers it finds most likely after the
# question, just as lm-evaluation-harness, a common evaluation tool, does for
# MathQA.

# %%
from mathsft import choice_logprobs, wilson_interval, worked_answers


def two_scores(model):
    worked = worked_answers(model, tokenizer, test, **recipe["worked"])
    logprobs = choice_logprobs(model, tokenizer, choices)
    picked = torch.tensor(logprobs).argmax(dim=1)
    right = picked == torch.tensor(choices["label"])
    return worked, logprobs, [w["correct"] for w in worked], right.tolist()


# %%
worked, base_logprobs, *before = two_scores(model)
print("worked answers: ", wilson_interval(before[0]))
print("multiple choice:", wilson_interval(before[1]))

# %% [markdown]
# The brackets show the 95 % interval: the range that plausibly contains the
# accuracy over endlessly many such problems. Guessing among five choices gives
# 20 %. Is that inside the second interval? And this is what the base model wrote:

# %%
for problem, result in zip(list(test)[:2], worked):
    print(problem["question"])
    print("→", repr(result["text"][:120]), "\n")

# %% [markdown]
# ## What is trained
#
# A training text is the question, the solution, and a stop token. Only the
# solution and the stop token carry a loss. We do not want to teach the model to
# invent questions, and a model that has never seen a stop token does not stop.
# Training on such texts is called *supervised fine-tuning*, the first step in
# [InstructGPT](https://arxiv.org/abs/2203.02155). A label of -100 means: no
# loss here.

# %% tags=["nbval-check-output"]
from mathsft import tokenize_problems

documents, dropped = tokenize_problems(
    train, tokenizer, max_length=recipe["sft"]["max_length"]
)
first = documents[0]
trained = [i for i in first["labels"] if i != -100]
print(len(documents), "documents; dropped:", dict(dropped))
print(len(first["input_ids"]), "tokens,", len(trained), "with a loss:")
print(repr(tokenizer.decode(trained)))

# %%
_, axes = plt.subplots(figsize=(6, 2.2))
x, y, width = 0.0, 0, 46
for token, label in zip(first["input_ids"], first["labels"]):
    text = tokenizer.decode([token]).replace("\n", "↵") or "?"
    if x + len(text) > width:
        x, y = 0.0, y - 1
    fill = "#f2b59f" if label != -100 else "#e8e8e8"
    box = {"fc": fill, "ec": "white", "pad": 1.5}
    axes.text(x, y, text, family="monospace", fontsize=9, bbox=box)
    x += len(text) + 0.7
axes.set(xlim=(0, width + 2), ylim=(y - 0.5, 0.8))
axes.set_title("grey: read; red: read and trained; ↵: new line", size=10)
axes.axis("off")
show_figure(
    "The tokens of the first training text: those of the question "
    "are grey, the solution and the stop token are red."
)

# %% [markdown]
# The loss is the average surprise per trained token, in *nats*:
#
# $$L = -\frac{1}{N} \sum_{t\ \text{trained}} \log p\,(x_t \mid x_1, \dots, x_{t-1})$$
#
# $x_t$ is token number $t$ of a text, $p$ is the model's probability for it
# after all the tokens before it, and $N$ counts the trained tokens. A loss of 0
# means that the model was sure of every token, and right.
#
# **Predict.** A model that gives all tokens of its vocabulary the same
# probability has a loss of $\ln V$, with $V$ tokens in the vocabulary. Will the
# base model, which never saw this format, do better or worse than that?
#
# <details>
# <summary>Answer</summary>
#
# Better: 3.07 instead of 6.68. It does not know the format, but it knows words,
# numbers and which letters follow each other. It is still far from 0.
#
# </details>

# %%
from torch.nn.functional import cross_entropy


@torch.no_grad()
def loss_of(model, documents):
    total, trained = 0.0, 0
    for document in documents:
        ids = torch.tensor([document["input_ids"]], device=model.device)
        labels = torch.tensor(document["labels"], device=model.device)
        logits = model(input_ids=ids).logits[0, :-1].float()
        # The logits at position t predict token t + 1; -100 is ignored.
        total += cross_entropy(logits, labels[1:], reduction="sum").item()
        trained += (labels != -100).sum().item()
    return total / trained


# %%
from math import log

print(f"base {loss_of(model.eval(), documents[:8]):.2f}")
print(f"all tokens alike {log(len(tokenizer)):.2f}")


# %% [markdown]
# ## Packing
#
# Problems differ in length. If each row of a batch holds one problem, a part of
# the batch is *padding*: filler that makes all rows equally long. If each row
# holds several problems, there is almost no padding
# ([the idea](https://arxiv.org/abs/2107.02027)). *Best fit* takes the documents
# from long to short. It puts each one into the fullest row that still has room
# for it:

# %%
def best_fit(lengths, max_length):
    rows, space = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        roomy = [r for r in range(len(rows)) if space[r] >= lengths[i]]
        if roomy:
            row = min(roomy, key=lambda r: space[r])
        else:
            row = len(rows)
            rows.append([])
            space.append(max_length)
        rows[row].append(i)
        space[row] -= lengths[i]
    return rows


# %% tags=["nbval-check-output"]
from mathsft import pack

max_length = recipe["sft"]["max_length"]
lengths = [len(d["input_ids"]) for d in documents]
passed = [n - 1 for n in lengths]  # the last token is only predicted
rows = pack(passed, max_length=max_length)  # the same, but in O(n log n)
assert len(best_fit(passed, max_length)) == len(rows)

print(f"{len(documents)} documents in {len(rows)} rows")
print(f"one per row: {sum(passed) / len(passed) / max_length:.1%} full")
print(f"packed:      {sum(passed) / len(rows) / max_length:.1%} full")

# %%
from mathsft import plot_packing

some_rows = rows[:: max(1, len(rows) // 14)][:14]
title = "one problem per row; white is padding"
plot_packing([[n] for n in passed[:14]], max_length=max_length, title=title)
show_figure("Fourteen rows with one problem each: most of a row is empty.")
plot_packing(
    [[passed[i] for i in row] for row in some_rows],
    max_length=max_length,
    title="packed; each shade is one problem",
)
show_figure("Fourteen packed rows: two or three problems fill each row.")


# %% [markdown]
# ## Who sees whom
#
# In a causal model, each token sees all the tokens before it. So in a packed
# row the second problem would see the first. To prevent this, give each token
# one number, `end`: the index just past the last token of its document. Token
# `i` sees token `j` exactly when
#
#     j <= i < end[j]

# %% tags=["nbval-check-output"]
def mask_from(end):
    i = torch.arange(len(end))
    return (i <= i[:, None]) & (i[:, None] < torch.tensor(end))


mask_from([3, 3, 3, 5, 5]).int()  # three tokens, then two

# %% [markdown]
# The rule can do more than packing: in lesson 02 the documents branch, and the
# rule stays the same. Now prove that it isolates the documents. The same
# problems, once packed and once alone, must give the same logits (the model's
# scores for each next token) up to rounding. Rounding errors are about 1e-5 in
# 32 bits and 1e-2 in 16.

# %%
from mathsft import TokenForest, attention_inputs, forest_mask

some = documents[:3]
row = TokenForest(some, share=False)  # side by side in one row
batch = row.tensors(pad_token_id=tokenizer.pad_token_id)
batch = {k: v.to(model.device) for k, v in batch.items()}
ours = forest_mask(batch["end"])[0, 0].cpu()
assert torch.equal(ours, mask_from(batch["end"][0].tolist()))

# %%
plt.figure(figsize=(4, 3.6))
plt.imshow(ours, cmap="Blues", interpolation="nearest")
plt.xlabel("token j")
plt.ylabel("token i")
plt.title("three problems in one row: i sees j")
show_figure(
    "Three dark triangles along the diagonal: each token sees the "
    "earlier tokens of its own problem and no others."
)

# %% [markdown]
# Look through the eyes of one token. The sliders choose the row and the token;
# coloured is what this token sees:

# %%
from mathsft import mask_explorer

two_rows = TokenForest(documents[:3], rows=[[0, 1], [2]], share=False)
mask_explorer(two_rows, tokenizer)


# %%
@torch.no_grad()
def largest_difference(inputs):
    ids = [torch.tensor([d["input_ids"][:-1]]) for d in some]
    ids = [i.to(model.device) for i in ids]
    alone = torch.cat([model(input_ids=i).logits[0] for i in ids])
    return (model(**inputs).logits[0] - alone).abs().max().item()


model.eval()
masked = attention_inputs(model, batch)
unmasked = {"input_ids": batch["input_ids"]}
print(f"with the mask: {largest_difference(masked):.0e}")
print(f"without:       {largest_difference(unmasked):.0e}")

# %% [markdown]
# Without the mask, training would still run and the loss would still fall. But
# the model would learn to solve a problem with another problem's text in front
# of it, and no later question will look like that. Only a test like this one
# shows the difference.
#
# ## Training
#
# To read the method in one file of plain PyTorch, open
# [minimal/sft.py](https://github.com/mathsft/mathsft/blob/main/minimal/sft.py): its loss and
# its gradients are the same.
#
# Colab may disconnect at any time. `persist` saves a checkpoint every five
# minutes and at the end, and `resume_from_checkpoint=True` looks for one. So
# after a disconnect, or if you stopped the run yourself, run all cells again:
# training resumes where it stopped, and a line says so. A finished training run
# is not repeated: its weights and its loss curve are loaded. If you change the
# data or a setting (even the number of steps), training starts again from step
# 0, and the old files are kept.
#
# Each Colab notebook has its own machine. If the machine is lost, its files are
# lost too. With `KEEP = "drive"` above, Google asks whether it may use your
# Drive, and each checkpoint is also copied to the folder `mathsft` there.

# %%
from mathsft import memory_gb, persist, plot_loss, sft_trainer, tracker

if torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats()
now, _ = memory_gb()
folder = run_dir("01_sft")
trainer = sft_trainer(
    model, tokenizer, train, output_dir=folder, seed=SEED,
    report_to=tracker(TRACK), callbacks=[persist(folder, KEEP)],
    **recipe["sft"],
)  # fmt: skip
trainer.train(resume_from_checkpoint=True)
print(f"memory: {now:.2f} GB before, {memory_gb()[1]:.2f} GB at the peak")

# %%
figure = plot_loss(trainer.state.log_history)
figure.axes[0].set_title("training on worked solutions")
show_figure(
    "The loss per trained token falls steeply at first, then slowly."
)

# %% [markdown]
# (On a CPU, the printed memory is that of the whole process, libraries included.)
#
# ## After: the same two scores
#
# Both models answered the same questions, so we can count the questions on
# which they differ. `p` is the chance that luck alone makes the two counts at
# least so unequal (an exact sign test; lesson 04 explains it). Above 0.05 we
# claim nothing. `check_tuned` stops with an error if every score equals the
# base model's score to the last digit: then the adapter was not in the model at
# all.

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


worked, tuned_logprobs, *after = two_scores(model)
check_tuned(base_logprobs, tuned_logprobs)
show_change("worked answers", before[0], after[0])
show_change("multiple choice", before[1], after[1])

# %%
for problem, result in zip(list(test)[:2], worked):
    print(problem["question"])
    print("→", result["text"], "\n")

# %% [markdown]
# The worked answers go from almost none to most. The multiple-choice score shows
# no difference that these questions could tell from luck: p = 0.64. Yet both
# scores come from the same weights! The model learned to *write* a solution.
# That hardly teaches it to *prefer* the right one of five numbers when it may
# not write. A test that compares likelihoods measures something else. Lesson 02
# trains what that test measures.
#
# ## What did it learn?
#
# **Predict.** The base model solved 1.0 % of the worked problems. Ask the same
# *untrained* model once more, without the lesson's `### Question` format. Ask as
# its pre-training texts do: the question, then a new line. Will the score stay
# near zero?
#
# <details>
# <summary>Answer</summary>
#
# No. It solves 99.7 %: nearly all. So it could calculate all along, and it did
# not know what we expected when it read `### Question`. You saw a hint of this
# above: its first answers were calculations, of other problems.
#
# </details>

# %%
base, _ = load_model(**recipe["model"])
as_in_a_book = worked_answers(
    base, tokenizer, test, prompt="{}\n".format, **recipe["worked"]
)
own_form = [w["correct"] for w in as_in_a_book]
show_change("base in its own form\n  → tuned", own_form, after[0])

# %%
from mathsft import plot_accuracy

figure = plot_accuracy(
    {
        "base, in the\ncourse's format": wilson_interval(before[0]),
        "base, in its\nown form": wilson_interval(own_form),
        "tuned, in the\ncourse's format": wilson_interval(after[0]),
    }
)
title = "worked answers: what fine-tuning did"
figure.axes[0].set_title(title, pad=14)
show_figure(
    "Three bars of worked answers: the base model solves almost none in "
    "the course's format and almost all in its own form; the tuned model "
    "is between them, near the top."
)

# %%
plot_accuracy(
    {
        "base": wilson_interval(before[1]),
        "tuned": wilson_interval(after[1]),
    },
    chance={"base": 0.2, "tuned": 0.2},
    title="multiple choice",
)
show_figure(
    "Two bars of the multiple-choice score, base and tuned, both close to "
    "the dashed line of chance."
)

# %% [markdown]
# Look at the three bars. Fine-tuning did not teach the tiny model to calculate:
# it taught the model *what to do* when it reads `### Question`. And it lost
# some: tuned, the model solves fewer problems than the untrained model in its
# own form (91.7 % against 99.7 %, p < 0.01).
#
# If you had measured only the first and the last bar, you would have reported a
# large gain in maths. The only way to know is to measure the base model at its
# best, too. (The own form here is that of the tiny model. For another model,
# look for the form that suits it: lesson 09 searches for one.)

# %% [markdown]
# ## The same run in the field's own API
#
# Our functions are short names for the libraries that everybody uses:
# transformers loads and quantises, peft adds the adapter, TRL trains. Here is
# the same model in their own words. Both must give the same logits, and one
# training step must give the same loss and the same gradient.

# %%
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

in_4_bits = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=base.dtype,
)  # fmt: skip
theirs = AutoModelForCausalLM.from_pretrained(
    base.name_or_path, dtype=base.dtype, device_map={"": base.device},
    quantization_config=in_4_bits if recipe["model"]["quantize"] else None,
)  # fmt: skip
ids = torch.tensor([first["input_ids"]], device=base.device)
with torch.no_grad():
    apart = theirs(input_ids=ids).logits - base(input_ids=ids).logits
print(f"largest difference of a logit: {apart.abs().max():.0e}")
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
theirs = get_peft_model(theirs, lora)
theirs.print_trainable_parameters()

# %% [markdown]
# Now one step on the first eight problems. The learning rate is zero, so that
# nothing changes. TRL gets one problem per row, and our trainer packs them: the
# loss must not depend on that. Two remarks. With a 4-bit model, TRL makes the
# adapter's weights bfloat16 (16 bits); we set them back to 32 bits to compare.
# And dropout is off, since it is random.

# %%
from datasets import Dataset
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from trl import SFTConfig, SFTTrainer

from mathsft import sft_prompt

eight = train.select(range(8))
fits = 1024 if SOURCE else max_length  # TRL cuts what is longer
settings = {
    "max_steps": 1, "learning_rate": 0.0, "logging_steps": 1,
    "per_device_train_batch_size": 8, "max_length": fits,
    "disable_tqdm": True, "report_to": "none",
}  # fmt: skip
texts = [
    {"prompt": sft_prompt(row["question"]),
     "completion": f"{row['solution']}\n#### {row['answer']}"}
    for row in eight
]  # fmt: skip

# %%
trl = SFTTrainer(
    theirs, processing_class=tokenizer,
    train_dataset=Dataset.from_list(texts),
    args=SFTConfig(
        str(run_dir("01_trl")), bf16=False, gradient_checkpointing=False,
        dataloader_pin_memory=False, save_strategy="no", **settings,
    ),
)  # fmt: skip
for weight in theirs.parameters():
    if weight.requires_grad:
        weight.data = weight.data.float()
again = add_adapter(load_model(**recipe["model"])[0], lora_dropout=0.0)
for copy in (theirs, again):  # both get the trained adapter
    set_peft_model_state_dict(copy, get_peft_model_state_dict(model))
kit = sft_trainer(
    again, tokenizer, eight, output_dir=run_dir("01_kit"), **settings
)

# %%
from transformers import PrinterCallback

print("            loss     gradient norm")
steps = []
for name, one in (("this kit", kit), ("TRL", trl)):
    one.remove_callback(PrinterCallback)
    one.train()
    steps.append(one.state.log_history[0])
    row = steps[-1]
    print(f"{name:9} {row['loss']:.5f}  {row['grad_norm']:.5f}")
by_hand, _ = tokenize_problems(eight, tokenizer, max_length=fits)
print(f"by hand   {loss_of(again, by_hand):.5f}")
close = 1e-4 if base.dtype == torch.float32 else 0.05
for key in ("loss", "grad_norm"):
    torch.testing.assert_close(
        steps[0][key], steps[1][key], rtol=close, atol=close
    )


# %% [markdown]
# ## How much faster is packing?
#
# We train a fresh adapter on the same problems for a few steps, first with one
# problem per row, then packed. The learning rate is zero, so the model learns
# nothing; we only measure time. *Useful* tokens are those of problems, not
# padding.
#
# **Predict.** One problem per row: 36.2 % full. Packed: 94.1 % full. That is 2.6
# times as much. Will packed training also be 2.6 times as fast?
#
# <details>
# <summary>Answer</summary>
#
# No, because 36.2 % belongs to rows of 256 tokens, and no real batch is padded
# to 256. A batch is only as long as its own longest problem: 80.3 % of its tokens
# are useful. From that, expect 1.2 times, as the next cell computes.
#
# What the clock shows may be more or less than that. A packed batch holds more
# tokens for the same number of steps, so the fixed costs of a step weigh less.
# But attention compares all pairs of tokens within a row, and longer rows have
# more pairs. And other programs on the machine disturb the clock.
#
# </details>

# %% tags=["nbval-check-output"]
def batch_fill(lengths, batch):
    # A batch is as long as its longest row.
    parts = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    return sum(lengths) / sum(max(part) * len(part) for part in parts)


batch = recipe["sft"].get("per_device_train_batch_size", 8)
batch = batch if isinstance(batch, int) else 8  # "auto"
one_each = batch_fill(passed, batch)
full = sum(passed) / len(passed) / max_length
in_packed = sum(passed) / len(rows) / max_length
print(f"padded to {max_length}: {full:.1%} full")
print(f"padded to the longest of {batch}: {one_each:.1%} full")
print(f"packed: {in_packed:.1%} full")
print(f"ratios: {in_packed / full:.1f} and {in_packed / one_each:.1f}")

# %%
short = train.select(range(min(300, len(train))))  # enough for five steps


def tokens_per_second(packing):
    fresh = add_adapter(load_model(**recipe["model"])[0])  # untrained
    settings = {**recipe["sft"], "learning_rate": 0.0, "logging_steps": 1}
    settings |= {"max_steps": 5, "packing": packing, "disable_tqdm": True}
    timed = sft_trainer(
        fresh, tokenizer, short, output_dir=run_dir("01_speed"), **settings
    )
    timed.remove_callback(PrinterCallback)
    timed.train()
    log = timed.state.log_history
    return max(r["tokens_per_second"] for r in log if "loss" in r)


# %%
padded, packed = tokens_per_second(False), tokens_per_second(True)
print(f"packed is {packed / padded:.1f} times as fast")

# %% [markdown]
# The cell takes the fastest of five steps each, the one that other programs
# disturbed least.
#
# ## Keep the adapter
#
# The base model never changed, so you only need to save the adapter. Loading it
# can fail silently. If its keys do not match, the base model stays as it was,
# and the base's score is reported as the tuned model's. So `load_adapter` raises
# an error if a key is missing, if a key is left over, or if the adapter does not
# change the logits.

# %%
from mathsft import load_adapter, save_adapter

folder = save_adapter(
    model, run_dir("01_sft") / "adapter", tokenizer=tokenizer
)
again = load_adapter(base, folder)
once_more = choice_logprobs(again, tokenizer, choices.select(range(20)))
for old, new in zip(tuned_logprobs, once_more):
    torch.testing.assert_close(old, new, rtol=1e-2, atol=1e-2)
print("the loaded adapter gives the same scores as the trained one")

# %% [markdown]
# ## On a T4
#
# Choose *Runtime → Change runtime type → T4 GPU* and run all cells. The recipe
# `t4` then loads Qwen2.5-0.5B and GSM8K from the hub, in float16.
#
# | | on a T4 |
# |---|---|
# | time of the training | not yet measured; docs/scaling.md has an estimate |
# | peak memory | not yet measured; estimate: `estimate_memory` above |
# | scores | not yet measured |
#
# If a cell stops with `out of memory`, run
# `from mathsft import free_memory; free_memory()`, since the error keeps what
# the cell had created. Then change one setting in the parameters cell, in this
# order:
# 1. `recipe["sft"]["per_device_train_batch_size"] = 2` (with `step_rows`, the
#    number of rows in a step stays the same);
# 2. `recipe["sft"]["gradient_checkpointing"] = True` (slower, much smaller);
# 3. `recipe["sft"]["max_length"] = 384` (longer problems are dropped and
#    counted);
# 4. if it is the *answers* that do not fit: `recipe["worked"]["batch_size"] = 8`.
#
# Try next: another learning rate; `SOURCE`, with problems of your own; the form
# in which Qwen2.5 solves most problems untrained.

# %% [markdown]
# ## Exercises
#
# Each exercise ends with a check: a box says whether it is solved. The checks
# use inputs that you do not see. Solutions are in
# `notebooks/solutions/01_sft.ipynb`.
#
# **1.** One question can have *several* answers in the same row. Each answer may
# see the question and itself, but no other answer. Write
# `tree_end(question, answers)`: `question` is the number of the question's
# tokens, `answers` lists the numbers of tokens of the answers, which follow in
# this order. Return the list `end` for the rule above, one number per token.

# %%
import random

from mathsft import exercise


def tree_end(question, answers):
    return [...]


# %% tags=["exercise"]
with exercise(1):
    torch.manual_seed(1)
    for _ in range(20):
        question = int(torch.randint(1, 5, ()))
        answers = torch.randint(1, 5, (question % 3 + 1,)).tolist()
        place = [0] * question  # 0: the question; 1, 2, ...: the answers
        for n, size in enumerate(answers, 1):
            place += [n] * size
        about = f"tree_end({question}, {answers})"
        end = tree_end(question, answers)
        assert len(end) == len(place), f"{about}: one number per token"
        assert ... not in end, f"{about} is not written yet"
        sees = mask_from(end)
        for i in range(len(end)):
            for j in range(i + 1):
                right = place[j] in (0, place[i])
                wrong = "does not see" if right else "sees"
                assert sees[i, j] == right, f"{about}: {i} {wrong} {j}"

# %% [markdown]
# **2.** It is easy to read the wrong answer from a worked text. Write
# `my_answer` so that it returns the *last number* of a text: digits without
# commas, without a currency sign, with a zero before a leading point. For these
# three texts: `"1200"`, `"48"` and `"0.25"`.

# %%
samples = ["She earns 3 * 400 = $1,200.", "24 + 24 = $48.", "So it is .25"]


def my_answer(text):
    return text.split()[-1]


# %% tags=["exercise"]
with exercise(2):
    dice = random.Random(2)
    forms = ["They pay ${}.", "{} + 0 = {}", "So: {}!", "3 * {} = {}"]
    for _ in range(40):
        number = dice.randrange(1, 10 ** dice.randrange(1, 8))
        written = dice.choice([f"{number:,}", f"{number}"])
        if dice.random() < 0.3:
            written, number = f".{number}5", f"0.{number}5"
        text = dice.choice(forms).format(written, written)
        found = my_answer(text)
        assert found == str(number), f"{text!r}: {found!r} is wrong"


# %% [markdown]
# **3.** Padding depends on which rows share a batch. If you sorted the rows by
# length first, how full would the batches be? Write
# `sorted_fill(lengths, batch)`, and compare `sorted_fill(passed, batch)` with
# the shares above.

# %%
def sorted_fill(lengths, batch):
    return batch_fill(lengths, batch)


# %% tags=["exercise"]
with exercise(3):
    dice = random.Random(3)
    for batch in (2, 4, 8):
        # Batches whose lengths do not overlap: sorting finds them again.
        groups = [
            dice.choices(range(20 * n + 5, 20 * n + 20), k=batch)
            for n in range(1, 9)
        ]
        longest = [max(group) for group in groups]
        lengths = [n for group in groups for n in group]
        full = sum(lengths) / (batch * sum(longest))
        dice.shuffle(lengths)
        mine = sorted_fill(lengths, batch)
        assert mine is not None, "return the share"
        assert abs(mine - full) < 1e-9, f"{batch} rows a batch: {mine:.3f}"

# %% [markdown]
# **4. Change one thing.** How small may the adapter be? `trained_with` trains a
# new adapter on 150 problems. Its default is rank 16. What will the loss on
# problems that it has not seen be with rank 1, a sixteenth of the weights?
# Write down your guess, train with rank 1 into `my_model`, then compare with
# rank 16.

# %% tags=["change"]
some = test.select(range(min(40, len(test))))
held_out, _ = tokenize_problems(some, tokenizer, max_length=max_length)


def trained_with(rank=16, rows=150):
    new, _ = load_model(**recipe["model"])
    new = add_adapter(new, r=rank, lora_alpha=2 * rank, lora_dropout=0.0)
    settings = {**recipe["sft"], "per_device_train_batch_size": 4}
    few = train.select(range(min(rows, len(train))))
    sft_trainer(
        new, tokenizer, few, output_dir=run_dir("01_change"), **settings
    ).train()
    return new.eval()


my_model = None  # trained_with(...), then print loss_of(my_model, held_out)

# %% tags=["exercise"]
with exercise(4):
    assert my_model is not None, "train an adapter into my_model"
    rank = my_model.peft_config["default"].r
    assert rank == 1, f"my_model has rank {rank}, not 1"
    dice = random.Random(4)
    fresh = []
    for _ in range(30):
        a, b = dice.randrange(2, 60), dice.randrange(2, 60)
        asked = f"Kim has {a} shells. Then she gets {b} more. How many?"
        done = f"Kim has {a} + {b} = {a + b} shells."
        row = {"question": asked, "solution": done}
        fresh.append({**row, "answer": str(a + b)})
    unseen, _ = tokenize_problems(fresh, tokenizer, max_length=256)
    tuned = loss_of(my_model, unseen)
    with my_model.disable_adapter():
        untrained = loss_of(my_model, unseen)
    told = f"loss {tuned:.2f}, untrained {untrained:.2f}: not trained?"
    assert tuned < untrained - 0.2, told
