# %% [markdown]
# # 10 · Where does the data come from?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/10_data.ipynb)
#
# So far, the data was there. Here the model writes it: a server answers a
# **basket** of prompts, and then the answers are *verified*, *deduplicated* and
# *decontaminated* before anything is trained on them. At the end we measure
# whether this work paid.
#
# You will learn - to ask any OpenAI-compatible server for thousands of answers,
# and to resume; - what such a job costs at most, before it starts; - to remove
# wrong answers, repeated questions and test questions, and to check that   the
# right rows were removed; - to compare raw with cleaned data fairly, with a
# control for the number of rows; - to mix data sets by weights.
#
# **Time.** With the embedded tiny model, and a second lesson beside it on two
# CPU cores, a minute and a half, the server included. On a T4 it serves Qwen2.5-0.5B-Instruct instead: not yet
# measured.

# %% [markdown]
# **Words.** A *basket* is a file of prompts. A *conversation* is a prompt with
# its answers. *Contamination*: a question of the test is among the training
# data. *Verified*: the final answer was compared with a known one. A *control*
# differs from the thing under test in one point only.

# %%
# Colab only: install what is missing, change no installed version.
import sys

if "google.colab" in sys.modules:
    !pip list --format=freeze | sed "s/+.*//" > /tmp/installed.txt
    !rm -rf /tmp/mathsft; git clone -q --depth 1 -b v0.1.0 \
        https://github.com/mathsft/mathsft /tmp/mathsft
    !pip install -q -c /tmp/installed.txt \
        -r /tmp/mathsft/requirements.txt /tmp/mathsft fastapi uvicorn

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

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
SEED = 0
recipe = load_recipe(PROFILE)
TINY = recipe["model"]["name"] == "tiny"
if TINY:
    recipe["model"]["quantize"] = False  # it is small enough
    recipe["worked"]["max_new_tokens"] = 64  # its solutions are shorter
else:
    recipe["model"]["name"] += "-Instruct"
QUICK = int(os.environ.get("MATHSFT_QUESTIONS") or 512)  # a quick look
PROMPTS, SEEDS = min(40, QUICK // 5), range(2 if QUICK > 300 else 1)
SHORT = {**recipe["distillation"]}  # lesson 08's settings for few rows
SHORT["max_steps"] = min(16, SHORT.get("max_steps", 16))
if TINY:
    SHORT |= {"learning_rate": 4e-3, "per_device_train_batch_size": 4}
folder = run_dir("10_data")

# %%
from matplotlib import pyplot as plt

steps = ["basket", "server", "verify", "dedup.", "decon-\ntam.", "train"]
box = {"boxstyle": "round,pad=0.4", "fc": "#dbe9f6"}
figure, axes = plt.subplots(figsize=(6, 1.5))
for place, step in enumerate(steps):
    axes.text(place, 0, step, ha="center", va="center", bbox=box)
    if place:
        ends = {"xytext": (place - 0.62, 0), "xy": (place - 0.38, 0)}
        axes.annotate("", **ends, arrowprops={"arrowstyle": "->"})
axes.set(xlim=(-0.6, 5.6), ylim=(-1, 1), title="the way of a row")
axes.axis("off")
show_figure(
    "Six boxes in a row, with arrows: basket, server, verify, deduplicate, "
    "decontaminate, train."
)

# %% [markdown]
# ## A basket with two faults
#
# A real basket comes from many sources. Some questions are in it more than once,
# and sometimes somebody has put in questions of a published test. We stage both,
# so that we know what should be found. To the questions we add: some of them
# again, word for word; some again with another last word ("now?" becomes
# "today?"); and some of our own test.

# %%
from mathsft import load_problems

train = load_problems(**{**recipe["train"], "limit": PROMPTS})
test = load_problems(**recipe["test"])
few = PROMPTS // 8
kinds = [("train", train), ("copy", train.select(range(few)))]
kinds += [("reworded", train.select(range(few, 2 * few)))]
kinds += [("test", test.select(range(few)))]
staged = [{**row, "from": kind} for kind, data in kinds for row in data]
other = {"now?": "today?", "get?": "receive?"}
for row in staged:
    if row["from"] == "reworded":
        begun, last = row["question"].rsplit(" ", 1)
        row["question"] = f"{begun} {other.get(last, 'exactly?')}"
ask = "" if TINY else "\nEnd your answer with the sentence: So it is N."

# %%
basket = [
    {"id": f"q{n}", "prompt": row["question"] + ask}
    for n, row in enumerate(staged)
]
first = PROMPTS + few  # of the reworded ones
print(len(basket), "prompts, such as")
print(" ", basket[few]["prompt"])
print(" ", basket[first]["prompt"])

# %% [markdown]
# ## A server
#
# `transformers serve` turns a model into a server with OpenAI's interface; vLLM
# and SGLang do the same, faster. The tiny model has no chat template, because it
# has never seen a conversation. So we give it the simplest one: the question and
# a line end, which is the form of its training text. (`response_template` tells
# the server where an answer begins. Without it, the server takes the one of
# Qwen's chats, and returns the question as part of the answer.)

# %%
from mathsft import load_model

served = recipe["model"]["name"]
if TINY:
    model, tokenizer = load_model("tiny")
    turns = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.chat_template = turns
    tokenizer.response_template = {
        "start_anchor": "\n",
        "fields": {
            "content": {"content": "text", "close": "<|endoftext|>"}
        },
    }
    model.generation_config.do_sample = True  # else it is always greedy
    served = str(folder / "served")
    model.save_pretrained(served)
    tokenizer.save_pretrained(served)

# %%
import socket
import subprocess
import sys
from pathlib import Path

with socket.socket() as free:  # a port that nobody uses
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
address = f"http://127.0.0.1:{port}/v1"
command = Path(sys.executable).with_name("transformers")
server = subprocess.Popen(
    [command, "serve", served, "--host", "127.0.0.1", "--port", port],
    stdout=subprocess.DEVNULL, stderr=(folder / "server.log").open("w"),
)  # fmt: skip

# %%
from openai import DefaultHttpxClient, OpenAI  # meanwhile it starts

from mathsft import wait_until_ready

wait_until_ready(
    address, timeout=300, process=server, log=folder / "server.log"
)

# %% [markdown]
# ## Asking, by hand and with `generate_basket`
#
# By hand, with OpenAI's own client, it is one request per prompt:

# %%
how = {"temperature": 0.0, "max_tokens": 80}
by_hand = []
direct = DefaultHttpxClient(trust_env=False)  # no proxy for this machine
with OpenAI(base_url=address, api_key="none", http_client=direct) as client:
    for row in basket[:3]:
        given = client.chat.completions.create(
            model=served,
            messages=[{"role": "user", "content": row["prompt"]}], **how,
        )  # fmt: skip
        by_hand.append(given.choices[0].message.content)
print(by_hand[0])

# %% [markdown]
# `generate_basket` adds what a job of many hours needs: several requests at a
# time, pauses and new tries after errors, a file that is written line by line,
# and a cost estimate. First the same three prompts, greedily:

# %%
from mathsft import generate_basket

(folder / "greedy.jsonl").unlink(missing_ok=True)
greedy = generate_basket(
    basket[:3], address, model=served, file=folder / "greedy.jsonl",
    temperature=0.0, max_new_tokens=80,
)  # fmt: skip
texts = [row["conversation"][-1]["content"] for row in greedy.rows]

# %% tags=["nbval-check-output"]
print("the same three answers:", texts == by_hand)
assert texts == by_hand

# %% [markdown]
# Now the whole basket, sampled at temperature 1.5, so that the data has real
# faults. `check=True` asks nothing: it only estimates. The prices, for a million
# tokens each, are invented.

# %%
file = folder / "answers.jsonl"
file.unlink(missing_ok=True)
# This server has one state for its random numbers, so several requests at
# once would not be reproducible. With vLLM, take a concurrency of 64.
job = {"model": served, "file": file, "concurrency": 1, "seed": SEED}
job |= {"temperature": 1.5 if TINY else 1.0}
job |= {"max_new_tokens": 80 if TINY else 320}
job |= {"input_price": 0.15, "output_price": 0.60, "max_cost": 1.0}
estimate = generate_basket(basket, address, check=True, **job).estimate

# %% [markdown]
# What if the job is killed? We play it: the first third of the basket, and then
# a file that ends in the middle of a line. The same call goes on where the file
# ends.

# %%
generate_basket(basket[: len(basket) // 3], address, **job)
whole = file.read_bytes()
file.write_bytes(whole[:-40])  # as if the process had been killed
answers = generate_basket(basket, address, **job)
server.terminate()
server.wait()
ids = [row["id"] for row in answers.rows]
print("every id once:", sorted(ids) == sorted(row["id"] for row in basket))

# %% [markdown]
# The half line was removed and counted, its conversation was generated again,
# and no id is lost or there twice. The estimate is an upper bound: it counts
# every answer with all of its tokens.
#
# ## Verify
#
# The answers have the model's own form. Training needs the course's form, with a
# last line `#### 24`. An answer is *verified* if it stopped by itself and its
# number is the reference's.

# %%
import re
from collections import Counter

from mathsft import basket_rows, same_answer, sft_prompt, wilson_interval


def in_course_form(text):
    """The worked text and the final answer of a model's own answer."""
    found = re.fullmatch(
        r"(.+)So it is (-?[\d.,]+?)\.?", text.strip(), re.S
    )
    return (found[1].strip(), found[2]) if found else (text.strip(), "")


texts = {row["id"]: row for row in basket_rows(file, kind="prompt")}

# %%
rows = []
for asked, source in zip(basket, staged):
    if asked["id"] not in texts:
        continue  # failed, cut or empty: counted above
    text, answer = in_course_form(texts[asked["id"]]["completion"])
    rows.append({
        "prompt": sft_prompt(source["question"]),
        "completion": f"{text}\n#### {answer}" if answer else text,
        "right": bool(answer) and same_answer(answer, source["answer"]),
        "question": source["question"], "from": source["from"],
    })  # fmt: skip
print("right:", wilson_interval([row["right"] for row in rows]))
verified = [row for row in rows if row["right"]]
print("of these:", dict(Counter(row["from"] for row in verified)))


# %% [markdown]
# The basket has references here. Without them, one can ask several times and
# take the answer that most of the attempts give, or let code or a stronger model
# judge (lesson 06).
#
# ## Deduplicate
#
# Equal texts are found with a set, after case and spacing are made the same. A
# *near* comparison cuts a text into runs of three words. The likeness of two
# texts is the share of common runs among all of their runs, the *Jaccard index*.
# With $A$ and $B$ the sets of runs:
#
# $$J(A, B) = \frac{|A \cap B|}{|A \cup B|}$$
#
# Copies are common in collected text, and models that were trained without them
# repeat less of it by heart ([Lee et al.
# 2021](https://arxiv.org/abs/2107.06499)).
#
# **Predict.** Which is more like the question below: the one with another last
# word, or the one with another number in the middle?
#
# <details>
# <summary>Answer</summary>
#
# The one with another last word. The last word is in one run of three, a word in
# the middle is in three of them. The cell below computes both.
#
# </details>

# %%
def runs(text, n=3):
    """The runs of n words; a sign such as a point counts as a word."""
    words = re.findall(r"\w+|[^\w\s]", text.lower().rstrip("?"))
    return {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}


def likeness(one, two):
    one, two = runs(one), runs(two)
    return len(one & two) / len(one | two)


question = staged[few]["question"]
renumbered = re.sub(r"\d+", "97", question, count=1)
reworded = staged[first]["question"]
for text in (question, reworded, renumbered):
    print(f"{likeness(question, text):.2f}", text)

# %% [markdown]
# To compare each row with each would take too long for millions of rows.
# `method="near"` finds the pairs by MinHash, and then computes this likeness for
# them. A low threshold finds more. What it finds is another question:

# %%
from mathsft import deduplicate

questions = [{"text": row["question"]} for row in verified]
exact = deduplicate(questions, method="exact")
near = deduplicate(questions, method="near", threshold=0.8, seed=SEED)
low = deduplicate(questions, method="near", threshold=0.3, seed=SEED)
for name, found in (("exact", exact), ("0.8", near), ("0.3", low)):
    gone = Counter(verified[row]["from"] for row in found.removed)
    print(f"{name:5} left out:", dict(gone))
equal = {" ".join(row["question"].lower().split()) for row in verified}
assert len(equal) == len(verified) - len(exact.removed)
for row, (kept, share) in near.removed.items():
    mine = likeness(questions[row]["text"], questions[kept]["text"])
    assert abs(mine - share) < 1e-9

# %% [markdown]
# Look at pairs that a method left out, before you believe it. First what 0.8
# found beyond *exact*, then what 0.3 found beyond 0.8:

# %%
for found, before in ((near, exact), (low, near)):
    more = [row for row in found.removed if row not in before.removed]
    print(len(more), "more")
    for row in more[:2]:
        kept, share = found.removed[row]
        print(f"  {share:.2f}", questions[row]["text"])
        print("     ~", questions[kept]["text"])
unique = [r for n, r in enumerate(verified) if n not in near.removed]

# %% [markdown]
# *Exact* left out 2 rows, word-for-word copies. At 0.8, *near* also left out 4
# reworded copies, and nothing else. At 0.3 it left out 5 more rows. We staged
# none of them as a copy, and the two that you see are other problems with a
# similar end. We keep the result of 0.8. But remember the prediction: with
# another number the question above still has a likeness of 0.83, so *near* may
# remove it, although its answer is another one. In data made from templates,
# look at every pair, or keep the pairs whose numbers differ.
#
# Five copies and five reworded questions were in the basket, so why are 2 and 4
# found? Of each kind, 4 were answered right. Two of the copies have no twin
# left: their originals were not answered right. Each step changes what the next
# one sees, so report all steps.
#
# ## Decontaminate
#
# A row is left out if it holds a question of the test, or at least 70 % of the
# runs of eight words of such a question. For the tests of the evaluation
# harness, `decontaminate(rows, ["gsm8k"])` does the same. Here the test is ours:

# %%
from mathsft import remove_questions

plain = [{k: row[k] for k in ("prompt", "completion")} for row in unique]
found = remove_questions(
    plain, {"test": test["question"]}, n=8, threshold=0.7
)
gone = {match.row for match in found.matches}
leaked = {n for n, row in enumerate(unique) if row["from"] == "test"}
print("leaked rows:", len(leaked), "found:", len(leaked & gone))
print("other rows left out:", len(gone - leaked))
clean = [row for n, row in enumerate(unique) if n not in gone]
print(f"{len(rows)} rows raw, {len(clean)} clean")

# %% [markdown]
# ## Did it help?
#
# Cleaned data has fewer rows. So two things change at once: the rows are
# *cleaner*, and they are *fewer*. To tell these apart we need a third model, the
# **control**: it is trained on as many raw rows as there are clean ones, drawn
# at random (another draw for each seed).
#
# All models start from the same base and get the same number of steps with the
# same rows per step, so fewer rows are seen more often. They answer the same
# problems. The leaked questions are not among these, because raw and control may
# have seen them in training.
#
# **Predict.** Raw, control, clean: which is best? And what would you conclude if
# clean is better than raw, but not better than the control?
#
# <details>
# <summary>Answer</summary>
#
# The next cells measure which is best. If clean is better than raw and no better
# than the control, then cleaner rows were not shown to help: the number of rows,
# or luck, explains the difference as well.
#
# </details>

# %%
from mathsft import add_adapter, sft_trainer, worked_answers

unseen = test.select(range(few, min(len(test), few + 100)))


def trained_on(rows, name, seed):
    model, tokenizer = load_model(**recipe["model"])
    model = add_adapter(model, seed=seed)
    plain = [{k: r[k] for k in ("prompt", "completion")} for r in rows]
    how = {**SHORT, "packing": False, "seed": seed}
    how |= {"save_strategy": "no", "disable_tqdm": True}
    out = folder / f"{name}{seed}"
    sft_trainer(model, tokenizer, plain, output_dir=out, **how).train()
    found = worked_answers(model, tokenizer, unseen, **recipe["worked"])
    return [answer["correct"] for answer in found]


# %%
import random
from contextlib import redirect_stdout
from io import StringIO

results = {}
for seed in SEEDS:
    control = random.Random(seed).sample(rows, len(clean))
    arms = (("raw", rows), ("control", control), ("clean", clean))
    for name, data in arms:
        with redirect_stdout(StringIO()):  # the trainer's log
            results[name, seed] = trained_on(data, name, seed)
        found = wilson_interval(results[name, seed])
        print(f"seed {seed}, {name:7} {len(data)} rows: {found}")

# %%
from scipy.stats import binomtest


def exact_p(old, new):
    """Gained, lost, and McNemar's exact p of two lists of answers."""
    gained = sum(b and not a for a, b in zip(old, new))
    lost = sum(a and not b for a, b in zip(old, new))
    told = gained + lost
    return gained, lost, binomtest(gained, told).pvalue if told else 1.0


# %%
for pair in (("raw", "control"), ("control", "clean"), ("raw", "clean")):
    print(" → ".join(pair))
    for seed in SEEDS:
        gained, lost, p = exact_p(*(results[name, seed] for name in pair))
        change = 100 * (gained - lost) / len(unseen)
        print(f"  seed {seed}: {change:+.1f} points (p = {p:.2g})")
        print(f"          {gained} gained, {lost} lost")

# %%
names = ("raw", "control", "clean")
figure, axes = plt.subplots(figsize=(6, 3))
for seed in SEEDS:
    shares = [sum(results[n, seed]) / len(unseen) for n in names]
    axes.plot(range(3), shares, "o-", alpha=0.6, label=f"seed {seed}")
axes.set(xticks=range(3), xticklabels=names, ylim=(0, 1))
axes.set(ylabel="share solved", title="trained on raw or cleaned rows")
axes.legend(frameon=False)
show_figure(
    "Share of test problems solved after training on raw rows, on as many "
    "random raw rows as there are clean ones, and on clean rows: one line "
    "for each seed."
)

# %% [markdown]
# Of 55 rows, 36 are left. Cleaning removed 7 answers that were not right, 6
# copies and 6 rows that touch the test. (4 of these 6 are leaked questions; the
# other 2 are near relatives from the same template.)
#
# Without the control, this would look like a success: raw → clean is +7.0 points
# (p = 0.21) with seed 0 and +33.0 points (p = 2.5e-7) with seed 1. Now the
# control: to train on 36 random *raw* rows already brings +7.0 (p = 0.25) and
# +23.0 points (p = 0.00012). What is left for "cleaner", control → clean, is 0.0
# (p = 1) and +10.0 points (p = 0.052). These are six tests. After Holm's
# correction of lesson 04, two stay below 0.05: raw → control and raw → clean,
# both with seed 1. So in this run no effect of *cleaner* rows is shown. An
# effect of *fewer* rows is shown with one seed of two. Fewer rows are seen more
# often in the same 16 steps, and the control differs in its draw, too; this run
# does not say which of these it was.
#
# And do not trust even this much: it is one basket and two seeds. To know more,
# draw several baskets, and take more seeds, rows and steps.
#
# So why clean? **A wrong answer** may teach its mistake, and how much that costs
# depends on how many there are: here 7 of 55. **A copy** counts one question
# twice. **A test question** in the training data is another matter: without
# decontamination, the score of the test cannot be believed, whatever it is. Here
# the leaked questions were kept out of the comparison. In a real project nobody
# tells you which ones they are. Of five leaked questions one had no right
# answer, and the other four were all found.

# %% [markdown]
# ## Mixing by weights
#
# Generated data is rarely trained on alone. Here conversations are mixed with
# problems that have worked solutions, three to one. `mix_datasets` refuses a
# mixture that asks a test question, so the clean rows are used.

# %%
from mathsft import mix_datasets, write_rows

turns = ("user", "assistant")
sources = {
    "generated": [(r["prompt"], r["completion"]) for r in clean],
    "written": [
        (sft_prompt(r["question"]), f"{r['solution']}\n#### {r['answer']}")
        for r in load_problems("tiny-gsm", split="validation", limit=40)
    ],
}

# %%
chats = {}
for name, pairs in sources.items():
    path = folder / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    talks = [
        [{"role": r, "content": t} for r, t in zip(turns, pair)]
        for pair in pairs
    ]
    write_rows([{"messages": talk} for talk in talks], path)
    chats[name] = load_problems(path)

# %%
weights = {"generated": 0.75, "written": 0.25}
mixture = mix_datasets(
    weights, datasets=chats, test=test, total=16, seed=SEED
)
print(Counter(mixture["source"]))

# %% [markdown]
# ## On a T4
#
# Runtime → Change runtime type → T4 GPU, then run all cells. With the profile
# `t4` the same cells serve Qwen2.5-0.5B-Instruct with its own chat template.
# Time, peak memory and scores: *not yet measured*. The server and the training
# share the card, so the server is stopped before the training starts.
#
# If it runs out of memory: a shorter `max_new_tokens`, then a smaller
# `per_device_train_batch_size`.
#
# Try next: draw other answers (`SEED = 1`) and see whether the three models
# change places; sample at a higher temperature; or deduplicate with
# `method="embedding"`.

# %% [markdown]
# ## Exercises
#
# Each exercise ends with a check. A box says whether you have solved it.
# Solutions are in `notebooks/solutions/10_data.ipynb`.
#
# **1.** A conversation has several turns. Each prompt of the user has the same
# length, and each answer too. Every request sends all messages so far again.
# What does the conversation cost? Prices are for a million tokens.

# %%
from mathsft import exercise


# %%
def dialogue_cost(prompt, answer, turns, input_price, output_price):
    return turns * (prompt * input_price + answer * output_price) / 1e6


# %% tags=["exercise"]
with exercise(1):
    draw = random.Random(1)
    for turns_ in (1, 1, 2, 3, 7):
        asked, given, *prices = (draw.randint(1, 99) for _ in range(4))
        talk, cost = 0, 0.0
        for _ in range(turns_):  # a conversation, message by message
            talk += asked
            cost += (talk * prices[0] + given * prices[1]) / 1e6
            talk += given
        mine = dialogue_cost(asked, given, turns_, *prices)
        assert abs(mine - cost) < 1e-12, f"{turns_} turns: not {mine}"


# %% [markdown]
# **2.** Deduplicate by hand: keep the first of the texts that differ only in
# case, in spacing, or in a point at the end.

# %%
def first_of_each(texts):
    return sorted(set(texts))


# %% tags=["exercise"]
with exercise(2):
    draw = random.Random(2)
    for _ in range(20):
        bases = draw.sample(["a b", "a c", "x - y", "x + y", "p", "q r"], 4)
        texts, kept = [], []
        for base in bases * 2:
            text = base.upper() if draw.random() < 0.5 else base
            text = text.replace(" ", "  ") + "." * draw.randint(0, 1)
            kept += [text] if len(texts) < 4 else []
            texts.append(text)
        mine = first_of_each(texts)
        assert mine == kept, f"{texts}: not {mine}"


# %% [markdown]
# **3.** Measure contamination: of all runs of n words in the questions, which
# share occurs in one of the rows?

# %%
def leaked_runs(questions, rows, n=8):
    found = [question in rows for question in questions]
    return sum(found) / len(found)


# %% tags=["exercise"]
with exercise(3):
    draw = random.Random(3)
    for n in (2, 3, 3):
        row = " ".join(draw.choices("abcd", k=9))
        asked = [" ".join(draw.choices("abcd", k=6)) for _ in range(3)]
        here = hits = 0
        for question_ in asked:
            words = question_.split()
            for first_ in range(len(words) - n + 1):
                here += 1
                hits += " ".join(words[first_ : first_ + n]) in row
        mine = leaked_runs(asked, [row], n=n)
        assert abs(mine - hits / here) < 1e-9, (asked, row, n)

# %% [markdown]
# **4. Change.** Leave out one step: choose `my_rows` from `rows` so that they
# went through some of the cleaning, but not through all of it (such as
# `verified`). Train with `trained_on(my_rows, "mine", 0)`, and compare with the
# clean rows of seed 0. Give the exact p.

# %% tags=["change"]
my_rows = []
my_results = []  # what trained_on returns
my_p = None  # of clean against mine

# %%
base, base_tokenizer = load_model(**recipe["model"])
before = worked_answers(base, base_tokenizer, unseen, **recipe["worked"])
before = [answer["correct"] for answer in before]  # the untrained model

# %% tags=["exercise"]
with exercise(4):
    texts = [row["prompt"] for row in my_rows]
    assert len(my_rows) > 8, "choose rows"
    assert set(texts) <= {row["prompt"] for row in rows}, "not from rows"
    assert texts != [row["prompt"] for row in clean], "these are clean"
    assert len(my_rows) < len(rows), "these are the raw rows"
    assert len(my_results) == len(unseen), "one result for each problem"
    trained = exact_p(before, my_results)
    assert trained[0] > trained[1], "not trained?"
    assert trained[2] < 0.05, "no different from the untrained model"
    assert my_p == exact_p(results["clean", 0], my_results)[2], "not p"

# %% [markdown]
# ## What we learned
#
# - A job of many requests needs a file that it can go on with, and an upper bound of its
#   cost. Here the killed job went on with the 38 answers of 55 that it did not have.
# - Verify, deduplicate and decontaminate, in this order, and count what each step removes.
#   Look at the pairs: a likeness of 0.83 can be another problem.
# - Compare cleaned data with as many random raw rows. Here raw → clean was +33.0 points with
#   seed 1 (p = 2.5e-7), but control → clean was +10.0 (p = 0.052), and 0.0 with seed 0.
# - Decontamination is not there to raise a score. It is there so that you can believe it.
#
# ## What next
#
# Lesson 11: your own data, and everything together.
