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
# # 10 · Solutions
#
# The exercises of `10_data.ipynb`, solved. This notebook runs on its own.

# %%
from mathsft import quiet

quiet()

# %%
import random

from mathsft import (
    add_adapter,
    exercise,
    load_model,
    load_problems,
    load_recipe,
    run_dir,
    sft_prompt,
    sft_trainer,
    worked_answers,
)

# %%
recipe = load_recipe()
recipe["model"]["quantize"] = False
SHORT = {**recipe["distillation"], "max_steps": 16}
SHORT |= {"learning_rate": 4e-3, "per_device_train_batch_size": 4}
SHORT |= {"logging_steps": 16}
folder = run_dir("10_solutions")
unseen = load_problems("tiny-gsm", split="test", limit=60)

# %%
rows = []  # the lesson's have been written by a model; these stand in
for n, row in enumerate(load_problems("tiny-gsm", limit=48)):
    answer = row["answer"] if n % 8 else "7"  # every eighth is wrong
    text = f"{row['solution']}\n#### {answer}"
    rows.append({
        "prompt": sft_prompt(row["question"]), "completion": text,
        "right": answer == row["answer"],
    })  # fmt: skip
verified = [row for row in rows if row["right"]]
clean = verified[:36]  # as if the others had been copies


# %%
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
from scipy.stats import binomtest


def exact_p(old, new):
    """Gained, lost, and McNemar's exact p of two lists of answers."""
    gained = sum(b and not a for a, b in zip(old, new))
    lost = sum(a and not b for a, b in zip(old, new))
    told = gained + lost
    return gained, lost, binomtest(gained, told).pvalue if told else 1.0


results = {("clean", 0): trained_on(clean, "clean", 0)}


# %% [markdown]
# **1.** Request k sends k prompts and the k − 1 answers before it.

# %%
def dialogue_cost(prompt, answer, turns, input_price, output_price):
    sent = sum(k * prompt + (k - 1) * answer for k in range(1, turns + 1))
    return (sent * input_price + turns * answer * output_price) / 1e6


print([round(dialogue_cost(100, 100, n, 1, 1) * 1e6) for n in (1, 2, 8)])

# %% tags=["exercise", "nbval-check-output"]
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
# The prompt tokens grow with the square of the number of turns. This is why the estimate of
# `generate_basket` counts every follow-up with all that stands before it.
#
# **2.** A dictionary keeps the first text of each normal form.

# %%
def first_of_each(texts):
    found = {}
    for text in texts:
        found.setdefault(" ".join(text.lower().split()).rstrip("."), text)
    return list(found.values())


print(first_of_each(["A b.", "a  B", "c"]))

# %% tags=["exercise", "nbval-check-output"]
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
# Only a point at the end is removed, and no sign inside: `2 - 3` and `2 + 3` are two problems.
#
# **3.** The rows' runs go into a set, and each run of the questions is looked up.

# %%
def runs(text, n):
    words = text.lower().split()
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def leaked_runs(questions, rows, n=8):
    known = {run for row in rows for run in runs(row, n)}
    asked = [run for question in questions for run in runs(question, n)]
    return sum(run in known for run in asked) / max(1, len(asked))


# %% tags=["exercise", "nbval-check-output"]
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
# A question of fewer than n words has no run. `remove_questions` compares such a question as a
# whole, and says how many there are.
#
# **4.** Only verified rows, with the copies still in.

# %% tags=["change"]
my_rows = verified
my_results = trained_on(my_rows, "mine", 0)
my_p = exact_p(results["clean", 0], my_results)[2]
print(sum(my_results), "of", len(my_results), "solved")

# %%
base, base_tokenizer = load_model(**recipe["model"])
before = worked_answers(base, base_tokenizer, unseen, **recipe["worked"])
before = [answer["correct"] for answer in before]  # the untrained model

# %% tags=["exercise", "nbval-check-output"]
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
# A p above 0.05 shows no difference. It does not show that there is none.
