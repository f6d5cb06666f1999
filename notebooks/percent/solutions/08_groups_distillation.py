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
# # 08 · Solutions
#
# The exercises of `08_groups_distillation.ipynb`, solved. This notebook runs on its own: the
# first cells create what the exercises use.

# %%
import torch

from mathsft import Distillation, exercise, quiet

quiet()


def forward_kl(student, teacher):
    return (teacher.exp() * (teacher - student)).sum(-1)


# %% [markdown]
# **1.** Reverse KL: the two models change places.

# %%
def reverse_kl(student, teacher):
    return (student.exp() * (student - teacher)).sum(-1)


print(reverse_kl(*torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()))

# %% tags=["exercise", "nbval-check-output"]
with exercise(1):
    draw = torch.Generator().manual_seed(11)
    package = Distillation(loss_type="reverse_kl")
    for words in (2, 5, 30):
        s, t = torch.randn(2, 4, words, generator=draw).log_softmax(-1)
        zero = torch.zeros(4).long()  # the text's tokens do not matter
        wanted = package.compared(zero, s, t)[0]
        mine = reverse_kl(s, t)
        assert mine.shape == (4,), "one number for each place"
        assert (mine > 0).all(), "two unlike models have a distance"
        wrong = (mine - wanted).abs().max()
        assert wrong < 1e-5, "the student's words count"

# %% [markdown]
# Which student does it prefer? Reverse and forward KL of both:

# %%
teacher = torch.tensor([[0.4999, 0.4999, 1e-4, 1e-4]]).log()
for name, q in (("sure", [0.97, 0.01, 0.01, 0.01]), ("spread", [0.25] * 4)):
    student = torch.tensor([q]).log()
    both = reverse_kl(student, teacher), forward_kl(student, teacher)
    print(name, *(f"{value.item():.2f}" for value in both))

# %% [markdown]
# Reverse KL prefers the student that is sure: what that student mostly writes, the teacher
# could have written too. Forward KL prefers the one that spreads, because it covers both
# words.
#
# **2.** The derivative of $-e^{\log p} A$.

# %%
from math import exp


def gpo_slope(lp, advantage):
    return -exp(lp) * advantage


print([round(gpo_slope(lp, 1.0), 3) for lp in (-7.0, -1.0, 0.0)])

# %% tags=["exercise", "nbval-check-output"]
with exercise(2):
    draw = torch.Generator().manual_seed(12)
    for value in torch.rand(20, generator=draw).tolist():
        for advantage in (-2.0, 0.6):
            lp = torch.tensor(value).log().requires_grad_()
            (-lp.exp() * advantage).backward()
            mine = float(gpo_slope(lp.item(), advantage))
            told = f"p = {value:.2f}, advantage {advantage}"
            assert abs(mine - lp.grad.item()) < 1e-5, told


# %% [markdown]
# The more likely a token, the stronger the push. The gradient of the logits has the factor
# 1 − p as well, so a token that is certain is not pushed either.
#
# **3.** Each right answer wins against all wrong ones.

# %%
def wins(rewards):
    right, wrong = rewards.count(1), rewards.count(0)
    return [wrong if r else -right for r in rewards]


print(wins([1, 1, 1, 0, 0]))

# %% tags=["exercise", "nbval-check-output"]
with exercise(3):
    from mathsft import DrGRPO

    draw = torch.Generator().manual_seed(13)
    for size in (2, 5, 8, 12):
        rewards = (torch.rand(size, generator=draw) < 0.4).int().tolist()
        mine = wins(rewards)
        assert len(mine) == size, "one number for each answer"
        wanted = DrGRPO().advantages([rewards])[0]
        for n, a in zip(mine, wanted):
            assert abs(n - size * a) < 1e-6, f"not for rewards {rewards}"

# %% [markdown]
# With all pairs, an answer counts G times its distance from the mean: the advantage again,
# without the division by the spread. So with rewards of 1 and 0, pairs and groups hold the same
# information. With other rewards, a pair forgets by how much an answer is better.
#
# **4.** A quarter of the questions, and 20 passes. First the lesson's teacher and
# its texts.

# %%
from mathsft import (
    add_adapter,
    generate,
    load_model,
    load_problems,
    load_recipe,
    make_trainer,
    run_dir,
    sft_prompt,
)

recipe = load_recipe("tiny")
recipe["model"]["quantize"] = False
train = load_problems(**{**recipe["train"], "limit": 4000})
pool = train.select(range(8, 4000))
test = load_problems(**recipe["test"]).select(range(100))

# %%
from mathsft import wilson_interval, worked_answers


def own_form(question):
    return f"{question}\n"


def distributions(model, prompt, answer):
    ids = [*tokenizer(prompt).input_ids, *answer]
    logits = model(torch.tensor([ids], device=model.device)).logits[0]
    return logits[-len(answer) - 1 : -1].float().log_softmax(-1)


def answer_ids(prompt, text):
    begun = len(tokenizer(prompt).input_ids)
    every = tokenizer(prompt + text).input_ids
    return [*every[begun:], tokenizer.eos_token_id]


# %%
def distances(student, rows):
    values = []
    for row in rows:
        answer = answer_ids(row["prompt"], row["completion"])
        with torch.no_grad(), student.disable_adapter():
            theirs = distributions(student, row["teacher_prompt"], answer)
        ours = distributions(student, row["prompt"], answer)
        values.append(forward_kl(ours, theirs))
    return torch.cat(values)


# %%
base, tokenizer = load_model(**recipe["model"])
questions = pool.select(range(16))["question"]
asked = [own_form(question) for question in questions]
written = generate(base, tokenizer, asked, **recipe["worked"])
lessons = [
    {"prompt": sft_prompt(q), "completion": one.text, "teacher_prompt": own}
    for q, own, (one,) in zip(questions, asked, written)
    if one.ended
]

# %%
my_loss, my_questions, my_passes = "forward_kl", 16, 20
my_student = add_adapter(base, seed=0)
settings = {**recipe["distillation"], "num_train_epochs": my_passes}
make_trainer(
    my_student, tokenizer, lessons[:my_questions],
    Distillation(loss_type=my_loss, packing=False), seed=0,
    output_dir=run_dir("08_prompt") / "mine", **settings,
).train()  # fmt: skip
answers = worked_answers(my_student, tokenizer, test, **recipe["worked"])
print(wilson_interval([answer["correct"] for answer in answers]))

# %% tags=["exercise", "nbval-check-output"]
with exercise(4):
    hidden = pool.select(range(3000, 3012))
    rows = [
        {"prompt": sft_prompt(q), "completion": s, "teacher_prompt": own}
        for q, s in zip(hidden["question"], hidden["solution"])
        for own in [own_form(q)]
    ]
    fresh, _ = load_model(**recipe["model"])
    fresh = add_adapter(fresh, seed=1)
    with torch.no_grad():
        old, new = (
            distances(m.eval(), rows).mean() for m in (fresh, my_student)
        )
    told = f"{new:.3f} nats from the teacher, untrained {old:.3f}"
    assert new < 0.6 * old, told

# %% [markdown]
# This is a single run. Compare its interval with that of the lesson's student, which had
# four times as many questions and a few steps less.
