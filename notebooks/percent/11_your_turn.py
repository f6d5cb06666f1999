# %% [markdown]
# # 11 · Your turn
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/11_your_turn.ipynb)
#
# Now with your own data. Upload a file, or use the one that this notebook
# writes. In a few minutes you have a fine-tuned model, a comparison that holds,
# and a folder that you can share. After that comes the capstone: beat the
# course's own mixture.
#
# You will learn
# - to **check** a file before you train on it;
# - to **compare** the tuned model with its base on rows held out, with a p-value;
# - to write a **model card** from the run's record, so that it cannot claim
#   more than was measured;
# - to **merge** the adapter, and to hand the model on to other programs.
#
# **Time and memory.** With the tiny model, the file that the notebook writes, and a
# second lesson beside it on two CPU cores, it took a minute and a half, and about
# a gigabyte. On a T4: not yet measured.

# %% [markdown]
# **Words.** To *hold out* rows is to keep them for the test. An *adapter* is the
# part that LoRA trains; to *merge* it is to add it to the base model's weights. A
# comparison is *paired* if both models answer the same questions: then only the
# questions count on which they differ, and *p* says how often luck alone would
# give such a difference ([why to pair](https://arxiv.org/abs/2411.00640)).

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

from transformers import set_seed

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
UPLOAD = False  # True in Colab: choose a file of your computer
SOURCE = os.environ.get("MATHSFT_SOURCE")  # or its path; None: see below
REPO = None  # "USER/NAME" on the hub, if you want to upload the result
SEED = 0

recipe = load_recipe(PROFILE)
recipe["model"]["quantize"] = False  # so that merging loses nothing
recipe["sft"]["num_train_epochs"] = 2
set_seed(SEED)
folder = run_dir("11_your_turn")
recipe["model"], recipe["sft"]

# %% [markdown]
# ## Your rows
#
# A file has one row per problem. Its columns are `question` and `answer`, as in
# GSM8K: the worked solution, and a last line `#### 42` with the result. JSON
# lines, CSV and Parquet are read, and so are other forms, such as chats
# ([docs/data.md](https://github.com/mathsft/mathsft/blob/main/docs/data.md)).
# Without a file of yours, the notebook writes one, of 600 generated problems:

# %%
import sys

from mathsft import load_problems, write_rows

if UPLOAD and "google.colab" in sys.modules:
    from google.colab import files

    SOURCE = next(iter(files.upload()))
if not SOURCE:
    made = load_problems("tiny-gsm", split="train", limit=600)
    own = [
        {"question": r["question"],
         "answer": f"{r['solution']}\n#### {r['answer']}"}
        for r in made
    ]  # fmt: skip
    SOURCE = folder / "own.jsonl"
    SOURCE.unlink(missing_ok=True)  # from an earlier run of this cell
    write_rows(own, SOURCE)

# %% [markdown]
# Hold out a part *now*, before you look at any result. A row that you have
# trained on cannot tell you what the model learned.

# %%
rows = load_problems(str(SOURCE))
held_out = min(100, len(rows) // 5)
parts = rows.train_test_split(test_size=held_out, seed=SEED)
paths = {name: folder / f"{name}.jsonl" for name in parts}
for name, path in paths.items():
    path.unlink(missing_ok=True)
    write_rows(parts[name], path)
recipe["train"] = {"source": str(paths["train"])}
recipe["test"] = {"source": str(paths["test"])}
recipe["worked"]["max_new_tokens"] = 64 if len(rows) == 600 else 320
test = load_problems(str(paths["test"]))

# %% [markdown]
# ## Check before you train
#
# `check=True` reads everything that a training run would read, and trains
# nothing. In a terminal it is `mathsft sft --train.source FILE --check`. Read
# the output as you would read a contract: how many rows are kept, and why are
# the others dropped? Are any too long? Which tokens are trained?
#
# **Predict.** Trained tokens will stand in ⟦ ⟧. Which part of a row is that?
#
# <details>
# <summary>Answer</summary>
#
# The solution, the line with the result, and the stop token. The question is
# only read: nobody wants a model that invents questions, and without a trained
# stop token the model would never stop (lesson 01).
#
# </details>

# %%
from mathsft import train_by_recipe

train_by_recipe(recipe, "sft", check=True);

# %% [markdown]
# ## Train
#
# One call reads, trains and saves. Its folder gets a record of the data, of all
# settings and of the versions, which the model card will use. If Colab
# disconnects, run the cell again: it resumes from the last checkpoint.

# %%
run = train_by_recipe(recipe, "sft", output_dir=folder / "run", resume=True)
print(sorted(p.name for p in (run / "adapter").iterdir()))

# %% [markdown]
# ## Is it better?
#
# **Predict.** The base model gets two chances: asked in the course's form, which
# it has never seen, and asked plainly, with the question alone on its line. What
# will you be able to claim if the tuned model wins against the first and not
# against the second?
#
# <details>
# <summary>Answer</summary>
#
# That training taught a *form*: it answers as you want. Not that it taught
# mathematics. Both can be worth having. But a card that shows only the first
# comparison says too much. (Lesson 01 found this out.)
#
# </details>
#
# The paired test counts the questions that only one of the two models solves:
# $g$ gained and $l$ lost. If training made no difference, each of them would be
# a fair coin. McNemar's exact test asks how likely so uneven a split is:
#
# $$p = \min\Bigl(1,\; 2 \sum_{i=0}^{\min(g,\,l)} \binom{g+l}{i} 2^{-(g+l)}\Bigr)$$

# %%
from mathsft import load_tuned, worked_answers, worked_result

base, tokenizer = load_tuned(recipe["model"]["name"])
tuned, tokenizer = load_tuned(run / "adapter")


def solved(model, name, **how):
    settings = {**recipe["worked"], **how}
    answers = worked_answers(model, tokenizer, test, **settings)
    return worked_result(answers, test, name=name, model=model)


before = solved(base, "base")
plain = solved(base, "base, plain", prompt="{}\n".format)
after = solved(tuned, "tuned")

# %%
from mathsft import plot_accuracy, show_figure

results = (before, plain, after)
for result in results:
    print(f"{result.name:12} {result.accuracy()}")
plot_accuracy(
    {result.name: result.accuracy() for result in results},
    title="Worked answers on rows held out",
)
show_figure(
    "Bars with intervals: the share of held-out problems that are solved"
    " by the base model, by the base model asked plainly, and by the tuned"
    " one."
)

# %%
from math import comb

from mathsft import compare


def mcnemar(gained, lost):
    n = gained + lost
    tail = sum(comb(n, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**n)


for one in (before, plain):
    found = compare(one, after)
    print(f"tuned - {one.name}: {100 * found.difference:+.0f} points")
    print(f"  [{100 * found.low:+.0f}, {100 * found.high:+.0f}], ", end="")
    print(f"+{found.gained} -{found.lost}, p = {found.p:.1g}")
    assert abs(found.p - mcnemar(found.gained, found.lost)) < 1e-9

# %% [markdown]
# Here the tuned model wins against the first and loses against the second. So
# this run taught the form, and a little was lost on the way. Tiny is a special
# case: it was pre-trained on problems like these. But look at the bar in the
# middle with your own rows too, before you say what training has taught.
#
# The brackets are the 95 % interval of the difference, in points. `+` and `-`
# count questions gained and lost. A p above 0.05 means: *not shown*. It does not
# mean that the models are equal.
#
# ## Save it, with a card
#
# The folder `adapter` already holds the weights and the tokenizer. What it lacks
# is a text that says what it is. A [model card](https://arxiv.org/abs/1810.03993)
# says which data, which settings, which scores. This one is written from the
# run's record and the results, so that it claims what was measured, with
# intervals. Which licence you may choose depends on the base model and the data.

# %%
from mathsft import write_model_card

card = write_model_card(
    run / "adapter", results=[after], base=[before],
    name="my-first-model", license="apache-2.0",
    notes=f"Asked plainly, its base solves {plain.accuracy()}.",
)  # fmt: skip
text = card.read_text(encoding="utf-8")
print(text[text.index("## Scores") : text.index("## How to load")])

# %%
from mathsft import share

share(run / "adapter", REPO);  # uploads if REPO and a token are there

# %% [markdown]
# ## Ask it
#
# In a terminal, `mathsft chat FOLDER` does the same in a loop, for this folder
# or for any other model on your disk. Type a question of your own:

# %%
from mathsft import ask

QUESTION = "Ben has 7 boxes with 6 pens in each box. How many pens now?"
print(ask(tuned, tokenizer, QUESTION, form="question"))

# %% [markdown]
# ## Merge it
#
# Many programs read only whole models. Merging adds $\frac{\alpha}{r} BA$ to each
# matrix and writes the result as a model like any other. In a terminal:
# `mathsft merge ADAPTER FOLDER`.

# %%
import shutil

from mathsft import merge_folder

shutil.rmtree(folder / "merged", ignore_errors=True)
merged = merge_folder(run / "adapter", folder / "merged")
print(sorted(path.name for path in merged.iterdir()))

# %% [markdown]
# ## The same with the field's own libraries
#
# Anyone can load these two folders without this package: the adapter with PEFT,
# the merged model with transformers alone. All three must give one
# log-likelihood for the same text:

# %%
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mathsft import tokenize_problems

name = base.name_or_path
full = {"dtype": base.dtype, "device_map": {"": base.device}}
plain_base = AutoModelForCausalLM.from_pretrained(name, **full)
by_peft = PeftModel.from_pretrained(plain_base, run / "adapter").eval()
full["dtype"] = torch.float32  # as it was merged
by_transformers = AutoModelForCausalLM.from_pretrained(merged, **full)
some, _ = tokenize_problems(test, tokenizer, max_length=512)


# %%
def log_likelihood(model, document):
    inputs = {
        k: torch.tensor([document[k]]) for k in ("input_ids", "labels")
    }
    inputs = {k: v.to(model.device) for k, v in inputs.items()}
    trained = sum(label != -100 for label in document["labels"])
    with torch.no_grad():
        return -trained * model(**inputs).loss.item()


models = {"mathsft": tuned, "peft": by_peft, "merged": by_transformers}
models["base"] = base
found = {n: log_likelihood(m, some[0]) for n, m in models.items()}
for name, value in found.items():
    print(f"{name:8} {value:9.4f} nats")
tolerance = 1e-3 if base.dtype == torch.float32 else 0.2
assert abs(found["peft"] - found["mathsft"]) < tolerance
assert abs(found["merged"] - found["mathsft"]) < tolerance

# %% [markdown]
# ## From here to other programs
#
# Everything below starts from the merged folder. The tools are not part of this
# package, and none of these commands was run for this page.
#
# GGUF, for [llama.cpp](https://github.com/ggml-org/llama.cpp), Ollama or LM
# Studio on a laptop (a model as small as tiny has a tokenizer of its own, which
# the converter may not know):
#
# ```sh
# git clone https://github.com/ggml-org/llama.cpp
# pip install -r llama.cpp/requirements.txt
# python llama.cpp/convert_hf_to_gguf.py merged --outfile my.gguf
# llama-quantize my.gguf my-q4.gguf Q4_K_M   # four bits
# llama-server -m my-q4.gguf
# ```
#
# A server for many users, on a GPU, or `transformers serve`, also without one:
#
# ```sh
# vllm serve merged --port 8000
# transformers serve --port 8000
# ```
#
# [docs/serving.md](https://github.com/mathsft/mathsft/blob/main/docs/serving.md)
# says how to evaluate a model behind such a server, and which servers were tried.
#
# ## The capstone
#
# Lesson 03 trained on a mixture: half MathQA-like questions, half grade-school
# problems with choices. **Beat it.** The rules: the model `tiny`, 400 optimiser
# steps of 8 rows, and the 1,000 questions of the task `mathqa_capstone`, which no
# lesson has asked. All else is free: data, mixture, objective, learning rate,
# adapter. This is the recipe to beat:

# %% tags=["nbval-check-output"]
from mathsft import capstone_recipe

capstone = capstone_recipe()
for section, settings in capstone.items():
    print(section)
    for key, value in settings.items():
        print(f"  {key}: {value}")

# %% [markdown]
# Its submission is in the repository. `read_submission` refuses a file whose
# claim does not follow from the scores that it holds:

# %%
from pathlib import Path

from mathsft import detectable_difference, read_submission

ENTRY = "docs/leaderboard/lesson-03-mixture.json"
roots = (".", "..", "../..", "/tmp/mathsft")  # where the repository may be
entries = [Path(root) / ENTRY for root in roots]
baseline_file = next((path for path in entries if path.exists()), None)
if baseline_file is None:
    print("clone the repository to compare with its leaderboard")
else:
    baseline = read_submission(baseline_file)
    print(baseline.result.accuracy())

# %% [markdown]
# **Predict.** With 1,000 questions, how many points better must your model be
# before anyone should believe it?
#
# <details>
# <summary>Answer</summary>
#
# It depends on how many questions the two models answer differently, because
# only these count. The next cell supposes that it is 300 of the 1,000, and asks
# which true difference would show in four of five attempts. A smaller one may be
# luck, and the leaderboard will say so. So decide on a big change, not on a fine
# one.
#
# </details>

# %% tags=["nbval-check-output"]
least = detectable_difference(1000, 300 / 1000)
print(f"a true difference of {100 * least:.1f} points would show")

# %% [markdown]
# Do not tune on the capstone's questions. Choose between your attempts by another
# held-out set (the split `validation`, for example), and submit one. The best of
# twenty attempts on one test looks better than it is.
#
# When you have a run, `submit` scores it and writes one JSON: the score of every
# question, settings, versions, and hashes of the weights and the data. In a
# terminal it is `mathsft submit RUN --name "my entry"`. The page
# [leaderboard](https://github.com/mathsft/mathsft/blob/main/docs/leaderboard.md)
# is made from such files by a script, which compares them pair by pair.
#
# ## On a T4
#
# In Colab: Runtime → Change runtime type → T4 GPU. The recipe then loads
# Qwen2.5-0.5B. Time, peak memory and scores there: not yet measured. `check=True`
# prints an estimate of the memory for your own file. The capstone is about tiny
# and needs no GPU.
#
# If the run stops with "out of memory", change one thing at a time, in this
# order: `recipe["sft"]["per_device_train_batch_size"]` down, with
# `gradient_accumulation_steps` up by the same factor; `max_length` down (the
# check says how long your rows are); `gradient_checkpointing` to True; and then
# `recipe["model"]["quantize"]` to True.
#
# Try next:
# - your own file, with `UPLOAD = True`;
# - `recipe["model"]["name"] = "Qwen/Qwen2.5-1.5B"`;
# - share the adapter: set `REPO`, and a token as the secret `HF_TOKEN`.
#
# ## Exercises
#
# Each exercise ends with a check. Solutions are in
# `notebooks/solutions/11_your_turn.ipynb`.
#
# **1.** Your file has other columns: `task`, `working`, `result`. Write
# `my_row(row)` so that it returns a row that `load_problems` reads. A result may
# have a unit after the number (`"42 pens"`) or spaces around it: keep only the
# number.

# %%
from contextlib import redirect_stdout
from io import StringIO
from random import Random
from tempfile import mkdtemp

from mathsft import exercise


def my_row(row):
    return {"question": "?", "answer": "?\n#### 0"}


# %% tags=["exercise"]
with exercise(1):
    draw = Random(11)
    for _ in range(5):
        a, b = draw.randint(12, 99), draw.randint(2, 9)
        unit = draw.choice(["", " km", " pens "])
        row = {"task": f"What is {a} * {b}?", "working": f"{a} * {b}",
               "result": f"{a * b}{unit}"}  # fmt: skip
        file = Path(mkdtemp()) / "own.jsonl"
        with redirect_stdout(StringIO()):
            write_rows([my_row(row)], file)
            read = load_problems(str(file))
        assert len(read) == 1, f"{row} was dropped"
        found = [read[0][k] for k in ("question", "solution", "answer")]
        expected = [row["task"], row["working"], str(a * b)]
        assert found == expected, f"{found} instead of {expected}"

# %% [markdown]
# **2. Change.** Twenty optimiser steps are not many. With this learning rate
# nothing shows after them. Change *one* setting of `my_recipe`, and keep the
# twenty steps, so that the tuned model solves significantly more of the problems
# held out than its base (p below 0.05).

# %% tags=["change"]
my_recipe = {name: dict(section) for name, section in recipe.items()}
my_recipe["sft"] |= {"max_steps": 20, "learning_rate": 2e-5}

shutil.rmtree(folder / "mine", ignore_errors=True)
my_run = train_by_recipe(my_recipe, "sft", output_dir=folder / "mine")
my_model, _ = load_tuned(my_run / "adapter")
print(compare(before, solved(my_model, "mine")))

# %% tags=["exercise"]
with exercise(2):
    with redirect_stdout(StringIO()):
        new = load_problems("tiny-gsm", split="test", limit=50, seed=4)
        answers = [
            worked_answers(m, tokenizer, new, max_new_tokens=100)
            for m in (base, my_model)
        ]
    gained = sum(b["correct"] > a["correct"] for a, b in zip(*answers))
    lost = sum(b["correct"] < a["correct"] for a, b in zip(*answers))
    told = f"50 new problems: {gained} gained, {lost} lost: no rise shows"
    assert gained > lost, told
    assert mcnemar(gained, lost) < 0.05, told
    steps = load_recipe(my_run)["sft"]["max_steps"]
    assert steps == 20, f"{steps} steps instead of 20"

# %% [markdown]
# **3. The capstone.** Change the recipe, train, submit, and compare with the
# baseline. Training takes a minute or so. The check accepts every valid
# attempt, also one that does not win: an honest p is the point.

# %%
attempt = capstone_recipe()  # change it, and then:
# from mathsft import submit
#
# my_attempt = train_by_recipe(
#     attempt, "multiple_choice", output_dir=folder / "capstone"
# )
# my_submission = submit(my_attempt, name="my entry")
# print(compare(baseline.result, read_submission(my_submission).result))
my_submission = None

# %% tags=["exercise"]
with exercise(3):
    assert my_submission is not None, "train, submit, and give the file"
    entry = read_submission(my_submission)
    assert entry.steps == 400, f"{entry.steps} steps instead of 400"
    old, new = baseline.result, entry.result
    assert entry.adapter_hash != baseline.adapter_hash, (
        "these are the baseline's own weights: train your own"
    )
    assert compare(old, new).n == 1000, "answer all 1,000 questions"

# %% [markdown]
# That is the end of the course. What you have now is not only a model, but a way
# to find out whether the next one is better.
