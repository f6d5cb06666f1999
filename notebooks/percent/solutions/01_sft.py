# %% [markdown]
# # 01 · Solutions
#
# The exercises of `01_sft.ipynb`, solved. This notebook runs on its own: the
# first cells create what the exercises use.

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
import random

import torch

from mathsft import (
    add_adapter,
    exercise,
    load_model,
    load_problems,
    load_recipe,
    quiet,
    run_dir,
    sft_trainer,
    tokenize_problems,
)

quiet()
recipe = load_recipe("tiny")

# %%
_, tokenizer = load_model("tiny")
train = load_problems("tiny-gsm", limit=500)
test = load_problems("tiny-gsm", split="test", limit=40)
documents, _ = tokenize_problems(train, tokenizer, max_length=256)
max_length = 256
passed = [len(d["input_ids"]) - 1 for d in documents]


# %%
def mask_from(end):
    i = torch.arange(len(end))
    return (i <= i[:, None]) & (i[:, None] < torch.tensor(end))


# %%
def batch_fill(lengths, batch):
    # A batch is as long as its longest row.
    parts = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    return sum(lengths) / sum(max(part) * len(part) for part in parts)


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


# %% [markdown]
# **1.** One question can have *several* answers in the same row. Each answer may
# see the question and itself, but no other answer. Write
# `tree_end(question, answers)`: `question` is the number of the question's
# tokens, `answers` lists the numbers of tokens of the answers, which follow in
# this order. Return the list `end` for the rule above, one number per token.

# %%
def tree_end(question, answers):
    end = [question + sum(answers)] * question
    last = question
    for size in answers:
        last += size
        end += [last] * size
    return end


mask_from(tree_end(3, [2, 2])).int()

# %% tags=["exercise", "nbval-check-output"]
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
# The `end` of a token is the index just past the last token that may see it.
# All answers see the question, so the question's tokens end with the row. Only
# an answer's own tokens see it, so its tokens end just past its last one.
# Lesson 02 builds on this tree.

# %% [markdown]
# **2.** It is easy to read the wrong answer from a worked text. Write
# `my_answer` so that it returns the *last number* of a text: digits without
# commas, without a currency sign, with a zero before a leading point. For these
# three texts: `"1200"`, `"48"` and `"0.25"`.

# %%
import re

samples = ["She earns 3 * 400 = $1,200.", "24 + 24 = $48.", "So it is .25"]


def my_answer(text):
    number = re.findall(r"\d[\d,]*(?:\.\d+)?|\.\d+", text)[-1]
    number = number.replace(",", "")
    return "0" + number if number.startswith(".") else number


[my_answer(text) for text in samples]

# %% tags=["exercise", "nbval-check-output"]
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
# Look for numbers, not words. A comma groups thousands only between digits, and
# a full stop belongs to the number only if a digit follows. The package's
# `extract_answer` also understands signs, fractions and percent.

# %% [markdown]
# **3.** Padding depends on which rows share a batch. If you sorted the rows by
# length first, how full would the batches be? Write
# `sorted_fill(lengths, batch)`, and compare `sorted_fill(passed, batch)` with
# the shares above.

# %%
def sorted_fill(lengths, batch):
    return batch_fill(sorted(lengths), batch)


print(f"as they come: {batch_fill(passed, 8):.1%} full")
print(f"sorted:       {sorted_fill(passed, 8):.1%} full")

# %% tags=["exercise", "nbval-check-output"]
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
# Sorted rows need almost no padding, even without packing. The price: a batch
# then holds problems of one length only, all short or all long, and the batches
# are no longer random. (Many trainers sort within random groups, as a
# compromise.)

# %% [markdown]
# **4. Change one thing.** How small may the adapter be? `trained_with` trains a
# new adapter on 150 problems. Its default is rank 16. What will the loss on
# problems that it has not seen be with rank 1, a sixteenth of the weights?
# Write down your guess, train with rank 1 into `my_model`, then compare with
# rank 16.

# %%
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


# %% tags=["change"]
my_model = trained_with(rank=1)
for rank, one in ((1, my_model), (16, trained_with(rank=16))):
    trained = sum(p.numel() for p in one.parameters() if p.requires_grad)
    print(f"rank {rank:2}: {trained:7,} weights trained,", end=" ")
    print(f"loss {loss_of(one, held_out):.2f}")
with my_model.disable_adapter():
    print(f"untrained: loss {loss_of(my_model, held_out):.2f}")

# %% tags=["exercise", "nbval-check-output"]
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

# %% [markdown]
# Rank 1 has a sixteenth of the weights and learns far less in these few steps.
# That is one short run at one learning rate: it does not show how rank 1 would
# do with more steps or a larger rate. Try both.
