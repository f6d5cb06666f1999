# %% [markdown]
# # 02 · Solutions
#
# The exercises of `02_multiple_choice.ipynb`, solved. This notebook runs on its
# own: the first cells create what the exercises use.

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
from scipy.stats import binomtest
from torch.nn.functional import cross_entropy

# %%
from mathsft import (
    TokenForest,
    add_adapter,
    choice_logprobs,
    exercise,
    load_model,
    load_problems,
    load_recipe,
    multiple_choice_trainer,
    quiet,
    run_dir,
    wilson_interval,
    worked_answers,
)

# %%
quiet()
recipe = load_recipe("tiny")
_, tokenizer = load_model("tiny")
train = load_problems(**recipe["choices_train"])
test = load_problems(**{**recipe["choices"], "limit": 200})
written = load_problems(**{**recipe["test"], "limit": 60})
form = {"prompt": "{}\n".format}


# %%
def picks(scores):
    return [max(range(len(s)), key=s.__getitem__) for s in scores]


def right_ones(scores):
    return [p == n for p, n in zip(picks(scores), test["label"])]


# %%
def two_scores(model):
    logprobs = choice_logprobs(model, tokenizer, test)
    worked = worked_answers(
        model, tokenizer, written, **form, **recipe["worked"]
    )
    return logprobs, right_ones(logprobs), [w["correct"] for w in worked]


# %% [markdown]
# **1.** How many tokens does the model read for one question in the forest that
# shares everything it can? Choices that begin alike share these tokens, and no
# leaf is read. Write `tokens_read(question, choices)` for lists of token
# numbers. For the question `[0, 1]` with the choices `[5, 6, 7]` and
# `[5, 6, 8]` it is 4.

# %%
def tokens_read(question, choices):
    beginnings = set()
    for choice in choices:
        beginnings |= {tuple(choice[:n]) for n in range(1, len(choice))}
    return len(question) + len(beginnings)


print(tokens_read([0, 1], [[5, 6, 7], [5, 6, 8]]))
print(tokens_read(range(50), [[n, 6, 8] for n in range(5)]))
print(tokens_read(range(50), [[n, 6, 8] for n in range(10)]))

# %% tags=["exercise", "nbval-check-output"]
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
# Each different beginning of a choice is read once: `range(1, len(choice))`
# leaves out the whole choice, whose last token is the leaf. The last two lines
# show that twice as many choices cost far less than twice as much, since the
# question is read only once.

# %% [markdown]
# **2.** Longer choices have lower sums. So lm-evaluation-harness has a second
# score, `acc_norm`, which divides each sum by the number of characters in the
# choice. Write `normalized_scores(scores, choices)` that does this: `scores` is
# a tensor of sums, `choices` a list of texts.

# %%
def normalized_scores(scores, choices):
    lengths = torch.tensor([len(choice) for choice in choices])
    return scores / lengths


# %% tags=["exercise", "nbval-check-output"]
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
# `multiple_choice_trainer(..., normalization="characters")` trains this score.
# Spaces count as characters.

# %% [markdown]
# **3.** Would a rule that never reads the question pass the test? Write
# `share_of_longest(problems)`: the share of problems for which the choice with
# the most characters is the right one (if several are longest, take the first).
# Each problem has `"choices"` and `"label"`. Then try it on `test`: is it near
# chance?

# %%
def share_of_longest(problems):
    caught = 0
    for problem in problems:
        lengths = [len(choice) for choice in problem["choices"]]
        caught += lengths.index(max(lengths)) == problem["label"]
    return caught / len(problems)


print(f"{share_of_longest(test):.1%} of {len(test)}")

# %% tags=["exercise", "nbval-check-output"]
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
# Compare this with chance, 20 %, and its interval. If such a rule did much
# better, a model could learn it and never read the question. `add_choices` makes
# its choices so that rank, size and form do not tell.

# %% [markdown]
# **4. Change one thing.** What does a smaller learning rate change in a run of
# equal length: the choices, the price, or both? The function `trained_with`
# trains a new adapter in 60 steps, in full precision, with a softer softmax
# (`temperature=4`, which learns faster in a short run). Train it into
# `my_model` with a quarter of the rate, and print `two_scores` for both rates.
# Guess first: what happens to each score?

# %%
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


# %% tags=["change"]
my_rate = FULL_RATE / 4
my_model = trained_with(my_rate)
full_model = trained_with(FULL_RATE)
found = []
for rate, one in ((FULL_RATE, full_model), (my_rate, my_model)):
    _, *shares = two_scores(one)
    found.append(shares)
    print(f"rate {rate:.0e}")
    for name, right in zip(("choices", "worked"), shares):
        print(f"  {name}: {wilson_interval(right)}")
for name, full, mine in zip(("choices", "worked"), *found):
    only = [sum(a > b for a, b in zip(full, mine))]
    only.append(sum(a < b for a, b in zip(full, mine)))
    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    p = f"p = {p:.2f}" if p > 0.005 else "p < 0.01"
    print(f"{name}: {only[0]} right only with the full rate,")
    print(f"  {only[1]} only with the quarter, {p}")

# %% tags=["exercise", "nbval-check-output"]
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
# After 60 steps, the full rate has 43.5 % of the choices and a quarter of it
# 28.5 %. The paired test says p < 0.01, so these two adapters do differ: the
# smaller rate learned less. Neither cost a worked answer: 100.0 % of 60, at
# either rate. So a short run does not show whether a smaller rate lowers the
# price that the run of the lesson paid. It learns less in the same steps, and
# here there was no price to lower. This is one start: another one may leave
# the plateau later. Train with more `steps`, or with `temperature=1`, and see
# which score moves.
