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
# # 09 · Solutions
#
# The exercises of `09_prompt_search.ipynb`, solved. This notebook runs on its own: the first
# cells create what the exercises use.

# %%
from mathsft import quiet

quiet()

# %%
from itertools import product
from random import Random

import peft
import torch

from mathsft import (
    exercise,
    load_model,
    load_problems,
    load_recipe,
    sft_prompt,
    soft_prompt,
)

# %%
recipe = load_recipe()
recipe["model"]["quantize"] = False
model, tokenizer = load_model(**recipe["model"])
rows = load_problems("tiny-gsm", limit=300).to_list()
test = load_problems("tiny-gsm", split="test", limit=60)

# %% [markdown]
# **1.** Half a cosine goes from 1 to -1; moved and stretched, from `first` to `last`.

# %%
from math import cos, pi


def my_cosine(step, steps, first, last):
    share = (1 + cos(pi * step / (steps - 1))) / 2
    return last + (first - last) * share


print([round(my_cosine(step, 5, 2.0, 0.3), 2) for step in range(5)])

# %% tags=["exercise", "nbval-check-output"]
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
# It stays near the first temperature for a while, and near the last one too.
#
# **2.** From ids to text, to ids.

# %%
def my_survives(question, ids):
    text = question + tokenizer.decode(ids)
    return tokenizer(text).input_ids == tokenizer(question).input_ids + ids


print(my_survives("How many now?", tokenizer("\n").input_ids))

# %% tags=["exercise", "nbval-check-output"]
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
# After a question mark, the new line is not a token of its own: both are one.
#
# **3.** Each place can take every other token; all places together, any token each.

# %%
def my_counts(places, words):
    return places * (words - 1), words**places


print(my_counts(3, 795))

# %% tags=["exercise", "nbval-check-output"]
with exercise(3):
    for places_, words_ in ((1, 5), (2, 4), (3, 3), (2, 6)):
        every = list(product(range(words_), repeat=places_))
        one_off = [p for p in every if sum(a != 0 for a in p) == 1]
        counted = my_counts(places_, words_)
        good = counted == (len(one_off), len(every))
        assert good, f"{places_} places, {words_} words: not {counted}"

# %% [markdown]
# The tiny model has 2,382 swaps of a prompt of three tokens, and half a billion prompts.
#
# **4.** The same call with another `num_tokens`.

# %% tags=["change"]
mine = {}
for count in (1, 40):
    mine[count] = soft_prompt(
        load_model(**recipe["model"])[0], tokenizer, rows,
        num_tokens=count, prompt=sft_prompt("{question}"),
        target="{solution}", steps=24, learning_rate=0.1, seed=0,
    )  # fmt: skip
better = 40


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


# %% tags=["exercise", "nbval-check-output"]
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
