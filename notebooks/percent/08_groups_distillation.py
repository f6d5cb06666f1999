# %% [markdown]
# # 08 · Stored attempts, and teachers
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/08_groups_distillation.ipynb)
#
# In lesson 07 the model wrote new attempts for every step. That is slow: most of
# the time goes into writing. Can attempts be judged once, stored, and used like
# any other data? And what if there is no judge, but a model that already knows
# how: a teacher?
#
# You will learn
# - **distillation**: learning from a teacher's probabilities, in one cell, with
#   TRL's numbers;
# - forward and reverse KL divergence, and what each of them asks for;
# - how a prompt is trained into the weights, without a single label;
# - whether a teacher's probabilities are worth more than its texts here;
# - **GPO**: learning from stored groups of attempts with any rewards;
# - what stored attempts cannot show, and a rate that is too high.
#
# **Time.** The last cell before the exercises prints the CPU time of the run whose
# outputs you see, with the embedded tiny model. On a T4 the lesson loads
# Qwen2.5-0.5B-Instruct and GSM8K from the hub instead; that is not yet measured.

# %% [markdown]
# **Words.** The *student* is the model that is trained. The *teacher* is a model
# that is not trained; the student learns to be like it. *Off-policy*: the text
# that both read comes from somewhere else, such as the teacher. *On-policy*: the
# student wrote it. A *group* is a prompt with several answers and a reward for
# each.

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
import time

import torch

PROFILE = None  # "tiny", "t4", "a100"; None: chosen for this machine
SEED = 0
recipe, BEGUN = load_recipe(PROFILE), time.process_time()
TINY = recipe["model"]["name"] == "tiny"
if TINY:
    recipe["model"]["quantize"] = False  # it is small enough
    recipe["distillation"]["num_train_epochs"] = 4
else:
    recipe["model"]["name"] += "-Instruct"
QUICK = int(os.environ.get("MATHSFT_QUESTIONS") or 512)  # a quick look
QUESTIONS = STORED = QUICK // 8
STEPS, PASSES, START = (10, 12, 20) if QUICK >= 512 else (1, 6, 20)

# %% [markdown]
# ## A prompt into weights
#
# The base model of this course solves nearly all of its problems, if it is asked
# in the form of the text that it has read: the question, then a new line. (A chat
# model's own form is its chat template.)
#
# **Predict.** The course's format has one line break more: two instead of one. What share
# of the test does the base solve then?
#
# <details>
# <summary>Answer</summary>
#
# Hardly any of it, as the next output shows. The model has never seen two line breaks in
# this place. To it that is another kind of text, and it writes something else.
#
# </details>

# %%
from mathsft import (
    add_adapter,
    load_model,
    load_problems,
    sft_prompt,
    wilson_interval,
    worked_answers,
)

train = load_problems(**{**recipe["train"], "limit": 4000})
test = load_problems(**recipe["test"])
test = test.select(range(min(150, len(test))))  # each model answers them
few, pool = train.select(range(8)), train.select(range(8, len(train)))
base, tokenizer = load_model(**recipe["model"])


# %%
def own_form(question):
    if TINY:
        return f"{question}\n"
    turn = {"role": "user", "content": question}
    return tokenizer.apply_chat_template(
        [turn], tokenize=False, add_generation_prompt=True
    )


def solved(model, prompt=sft_prompt):
    """Which test problems the model solves, greedily."""
    answers = worked_answers(
        model, tokenizer, test, prompt=prompt, **recipe["worked"]
    )
    return [answer["correct"] for answer in answers]


# %%
found = {
    "base, its own form": solved(base, own_form),
    "base, course's format": solved(base),
}
for name, right in found.items():
    print(f"{name:22} {wilson_interval(right)}")

# %% [markdown]
# Asked in its own form, the base solves 100.0 % [97.5, 100.0] of the test problems. In the course's
# format it solves 2.0 % [0.7, 5.7].
#
# So the knowledge is there, and only the form of the question hides it. Let the
# base teach itself. The **teacher** is the frozen base, asked in its own form. The
# **student** is the same base with an adapter, asked in the course's format. Both
# read the same answers, which the teacher has written. The student should find each
# next word as likely as the teacher does. It needs questions for that, and not one
# solution.

# %%
from mathsft import generate

questions = pool.select(range(QUESTIONS))["question"]
asked = [own_form(question) for question in questions]
written = generate(base, tokenizer, asked, **recipe["worked"])
lessons = [
    {"prompt": sft_prompt(q), "completion": one.text, "teacher_prompt": own}
    for q, own, (one,) in zip(questions, asked, written)
    if one.ended
]
print(len(lessons), "texts;", repr(lessons[0]["completion"]))

# %% [markdown]
# ### The loss: how far apart are two models?
#
# At each place of an answer, the teacher gives every word $w$ of the vocabulary a
# probability $p(w)$, and the student $q(w)$. Their distance is the **forward KL
# divergence** ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)) or the **reverse**
# one ([MiniLLM](https://arxiv.org/abs/2306.08543)):
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_w p(w)\log\frac{p(w)}{q(w)}, \qquad
# \mathrm{KL}(q \,\|\, p) = \sum_w q(w)\log\frac{q(w)}{p(w)}$$
#
# - forward: the words are weighted by the *teacher*. It is large if the student leaves out
#   a word that the teacher finds likely. So the student must cover everything;
# - reverse: the words are weighted by the *student*. It is large if the student says
#   what the teacher would not. So it may leave things out.
#
# The next cell makes that visible. The teacher (grey) has two favourites. The student is
# too simple for that: it can only be one bump. We try all places and widths of the bump
# and keep the one with the smallest divergence.
#
# **Predict.** Where does each of the two students put its bump?
#
# <details>
# <summary>Answer</summary>
#
# Forward KL: one wide bump over both favourites, with much weight between them, where the
# teacher has nearly none. Reverse KL: a narrow bump on one favourite, the larger one.
#
# </details>

# %%
import matplotlib.pyplot as plt

from mathsft import show_figure

words = torch.arange(40.0)


def bump(middle, width):
    return (-(((words - middle) / width) ** 2) / 2).softmax(-1)


teacher = 0.6 * bump(10, 2.5) + 0.4 * bump(28, 2.5)
students = [bump(m, w) for m in range(40) for w in range(1, 16)]
nearest = {
    "forward KL": lambda q: (teacher * (teacher / q).log()).nansum(),
    "reverse KL": lambda q: (q * (q / teacher).log()).nansum(),
}

# %%
_, axes = plt.subplots(figsize=(6, 2.8))
axes.fill_between(words, teacher, color="gray", alpha=0.4, label="teacher")
for name, divergence in nearest.items():
    best = min(students, key=divergence)
    axes.plot(words, best, label=f"student, {name}")
    print(f"{name}: smallest value {divergence(best).item():.2f} nats")
axes.set(xlabel="word", ylabel="probability")
axes.set_title("the nearest student of one bump")
axes.legend(fontsize=9)
show_figure(
    "The teacher has two peaks. With forward KL the student is one "
    "wide bump over both, with reverse KL a narrow one on one."
)


# %% [markdown]
# SFT on the teacher's text knows one word for each place. Here the loss sees all
# words. Now for two language models:

# %%
def distributions(model, prompt, answer):
    """log p of every word at each place of an answer: (places, words)."""
    ids = [*tokenizer(prompt).input_ids, *answer]
    logits = model(torch.tensor([ids], device=model.device)).logits[0]
    return logits[-len(answer) - 1 : -1].float().log_softmax(-1)


def forward_kl(student, teacher):
    return (teacher.exp() * (teacher - student)).sum(-1)


def answer_ids(prompt, text, ended=True):
    """The tokens of an answer, and the stop token that ends it."""
    begun = len(tokenizer(prompt).input_ids)
    stop = [tokenizer.eos_token_id] * ended
    return [*tokenizer(prompt + text).input_ids[begun:], *stop]


# %%
def distances(student, rows):
    """The forward KL at every place of the rows' answers."""
    values = []
    for row in rows:
        answer = answer_ids(row["prompt"], row["completion"])
        with torch.no_grad(), student.disable_adapter():
            theirs = distributions(student, row["teacher_prompt"], answer)
        ours = distributions(student, row["prompt"], answer)
        values.append(forward_kl(ours, theirs))
    return torch.cat(values)


# %% [markdown]
# That is all. Now the package: `Distillation` is an objective like the others.
# Its teacher is the model with its adapter off, unless you give another one. It
# compares the two block by block, so the two full tables of probabilities never
# exist: with a large vocabulary they would be the largest thing in memory.
#
# **Predict.** What is the loss if the student reads the *teacher's* prompt, before any
# training?
#
# <details>
# <summary>Answer</summary>
#
# 0. The adapter changes nothing yet, so both are the same model and read the same.
#
# </details>

# %%
from mathsft import Distillation, make_trainer

student = add_adapter(base, seed=SEED)
trainer = make_trainer(
    student, tokenizer, lessons, Distillation(packing=False),
    eval_rows=lessons[:8], output_dir=run_dir("08_prompt") / "kl",
    seed=SEED, **recipe["distillation"],
)  # fmt: skip
with torch.no_grad():
    mine = distances(student.eval(), lessons[:8]).mean().item()
theirs = trainer.evaluate()["eval_loss"]
print(f"by hand {mine:.5f}, trainer {theirs:.5f} nats for each token")
assert abs(mine / theirs - 1) < (1e-4 if TINY else 0.1)

# %%
same = [{**one, "prompt": one["teacher_prompt"]} for one in lessons[:2]]
with torch.no_grad():
    value = distances(student, same).mean().item()
print(f"with the teacher's own prompt: {value:.5f} nats")

# %% [markdown]
# ### The same loss in TRL
#
# TRL has it as *generalised knowledge distillation* (GKD,
# [Agarwal et al.](https://arxiv.org/abs/2306.13649)). One number $\beta$ leads from forward
# KL ($\beta = 0$) over the Jensen–Shannon divergence to reverse KL ($\beta = 1$):
#
# $$\beta\,\mathrm{KL}(p \,\|\, m) + (1-\beta)\,\mathrm{KL}(q \,\|\, m), \qquad m = \beta p + (1-\beta) q$$
#
# Here $m$ is the mixture of teacher $p$ and student $q$. (At 0 and 1 this formula itself is
# 0; KL is what it tends to, divided by $\beta$ or $1-\beta$.) TRL's `GKDTrainer` gives
# teacher and student the same prompt, so it cannot do the run of this lesson. Its loss can
# be compared, on one answer that both have read after their own prompts:

# %%
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # trl.experimental may change
from trl.experimental.gkd import GKDTrainer

row = lessons[0]
ids = torch.tensor(answer_ids(row["prompt"], row["completion"]))
with torch.no_grad():
    q = distributions(student, row["prompt"], ids.tolist())
    with student.disable_adapter():
        p = distributions(student, row["teacher_prompt"], ids.tolist())
print("loss        beta      TRL     ours")
for loss, beta in (("forward_kl", 0.0), ("jsd", 0.5), ("reverse_kl", 1.0)):
    theirs = GKDTrainer.generalized_jsd_loss(
        q[None], p[None], beta=beta, reduction="sum"
    )
    ours = Distillation(loss_type=loss).compared(ids.to(q.device), q, p)[0]
    print(f"{loss:11} {beta:4} {theirs.item():8.4f} {ours.sum():8.4f}")
    torch.testing.assert_close(theirs, ours.sum(), rtol=1e-4, atol=1e-5)

# %% [markdown]
# The values are sums over the answer's tokens, in nats. In a training run of TRL, the
# settings are `GKDConfig(beta=…, lmbda=0.0)` (`lmbda` is the share of answers that the
# student writes itself). TRL 1 also has a `DistillationTrainer`; Colab's version has not.
#
# Now train:

# %%
trainer.train()
found["prompt in weights"] = solved(student)
print(wilson_interval(found["prompt in weights"]))

# %% [markdown]
# From 2.0 % to 86.0 % [79.5, 90.7], with 64 questions and no label, in 32 steps. The form of the
# question is now in the weights ([Snell et al. 2022](https://arxiv.org/abs/2209.15189)
# do the same with long prompts). So before you collect solutions, ask what the model can
# do if it is asked in another way. Lesson 01 spent 1,200 worked solutions on this.
#
# ## Probabilities, or texts?
#
# The teacher's texts alone are data, too. SFT on the same texts needs no teacher
# during training. Here it gets the same rows, steps and rate.
#
# **Predict.** Which learns more: from all probabilities at each place, or from one word?
#
# <details>
# <summary>Answer</summary>
#
# It depends on the teacher, and on how long both train. If the teacher is nearly sure of each
# word, its probabilities say hardly more than its text. Here they did say more: 86.0 % against
# 74.0 % of the test problems. The test below compares both on the same problems.
#
# </details>

# %%
from mathsft import SFT

texts = [{k: row[k] for k in ("prompt", "completion")} for row in lessons]
other, _ = load_model(**recipe["model"])
other = add_adapter(other, seed=SEED)
trainer = make_trainer(
    other, tokenizer, texts, SFT(packing=False), seed=SEED,
    output_dir=run_dir("08_prompt") / "sft", **recipe["distillation"],
)  # fmt: skip
trainer.train()
found["SFT on its texts"] = solved(other)

# %%
from scipy.stats import binomtest


def versus(old, new):
    gained = sum(n and not o for o, n in zip(old, new))
    lost = sum(o and not n for o, n in zip(old, new))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return f"{gained} gained, {lost} lost, p = {p:.2g}"


print(wilson_interval(found["SFT on its texts"]))
told = versus(found["SFT on its texts"], found["prompt in weights"])
print("SFT → probabilities:", told)

# %% [markdown]
# SFT on the texts reached 74.0 % [66.4, 80.4]. In this run, the probabilities gave more (19
# gained, 1 lost, p = 4e-05). But this is one run, of four passes. An earlier run with five passes
# showed no difference between the two, so what shows here may only be speed: after more steps
# the texts may do as well. Try `recipe["distillation"]["num_train_epochs"] = 5`.
# The texts are cheaper: the teacher writes them once, and is not needed any more.
# (`logps/teacher` in `trainer.state.log_history` of a distillation is the mean of the
# teacher's log p: the nearer to 0, the surer it is.)
#
# ## The student writes, the teacher reads
#
# A teacher can do something that a text cannot: it reads what *this student* writes, and
# says at each token what should have come. The student writes its own mistakes, so it
# learns what to do after them
# ([Agarwal et al. 2024](https://arxiv.org/abs/2306.13649)). Let the student begin
# with less: eight of the teacher's texts, 12 times each.

# %%
from mathsft import sft_trainer

FEW = {**recipe["sft"], "num_train_epochs": START, "packing": False}
FEW |= {"max_steps": -1, "lr_scheduler_type": "constant"}


def learned(rows, name, **changes):
    """A new student after a few rows, many times each."""
    model, _ = load_model(**recipe["model"])
    model = add_adapter(model, seed=SEED)
    settings = {**FEW, **changes, "output_dir": run_dir(name)}
    sft_trainer(model, tokenizer, rows, **settings).train()
    return model


small = learned(texts[:8], "08_eight", num_train_epochs=PASSES)
found["eight of its texts"] = solved(small)
print(wilson_interval(found["eight of its texts"]))

# %% [markdown]
# Now the student answers new questions, four times each, and the teacher reads the
# answers after its own prompt. The loss is **reverse** KL: what the student writes
# should be what the teacher could have written.

# %%
from mathsft import rollout_trainer

more = pool.select(range(100, 500))["question"]
rows = [
    {"prompt": sft_prompt(q), "teacher_prompt": own_form(q)} for q in more
]
settings = {**recipe["dr_grpo"], **recipe["rollout"], "max_steps": STEPS}
settings |= {"num_generations": 4, "per_device_train_batch_size": 8}
trainer = rollout_trainer(
    small, tokenizer, rows,
    Distillation(on_policy=True, loss_type="reverse_kl"),
    output_dir=run_dir("08_on_policy"), seed=SEED, **settings,
)  # fmt: skip
_ = trainer.train()

# %%
found["… and on-policy"] = solved(small)
print(wilson_interval(found["… and on-policy"]))
told = versus(found["eight of its texts"], found["… and on-policy"])
print("eight texts → on-policy:", told)

# %% [markdown]
# Eight texts of the teacher gave 46.7 % [38.9, 54.6]. Ten steps later, with eight new questions in each
# and no text of the teacher, the student solves 59.3 % [51.3, 66.9] (31 gained, 12 lost,
# p = 0.0054).
# This is one run with one seed.
#
# 64 of the teacher's texts led to 74.0 %. If a teacher can write good texts, begin with
# those. On-policy learning is for what texts do not show: the student's own mistakes. It
# also works if the teacher can only *read*. Teacher and student must agree on the form of
# an answer: this teacher ends with "So it is 11.", and the student learned that from its
# eight texts.
#
# ## Attempts that were judged once
#
# Now suppose that there is no teacher, but a judge of answers, as in lessons 05 and 07.
# The start is the same as there: a model that has seen eight worked solutions.

# %%
from mathsft import load_adapter, save_adapter

model = learned(few, "08_few")
start = save_adapter(
    model, run_dir("08_few") / "adapter", tokenizer=tokenizer
)
found["eight solutions"] = solved(model)
print(wilson_interval(found["eight solutions"]))


def from_start():
    base, _ = load_model(**recipe["model"])
    return load_adapter(base, start, is_trainable=True)


# %% [markdown]
# The model answers each problem eight times, and the judge scores every answer. This
# happens once. `store_attempts` writes a file with one row for each problem: `prompt`,
# `completions` and `rewards`. (If it is interrupted, it continues.) The file is read
# like any other data. The attempts could come from any model, and the rewards could be
# any numbers.

# %%
from mathsft import FinalAnswer, store_attempts

path = run_dir("08_stored") / "attempts.jsonl"
path.unlink(missing_ok=True)  # of an earlier run
some = pool.select(range(1000, 1000 + STORED))
store_attempts(
    model, tokenizer, some, FinalAnswer(), output=path, seed=SEED,
    **recipe["sample"],
)  # fmt: skip
groups = load_problems(path)
rewards = [reward for group in groups["rewards"] for reward in group]
print(f"{sum(rewards) / len(rewards):.1%} of the attempts are right")

# %% [markdown]
# ### GPO, by hand
#
# **GPO** (group policy optimisation, from
# [effective_llm_alignment](https://github.com/VikhrModels/effective_llm_alignment))
# compares the answers of a group with each other, as GRPO does
# ([DeepSeekMath](https://arxiv.org/abs/2402.03300)):
#
# $$A_i = \frac{r_i - \bar r}{\sigma + 10^{-4}}$$
#
# - $r_i$ is the reward of answer $i$, $\bar r$ the mean reward of its group;
# - $\sigma$ is the standard deviation of the group's rewards, that of the *population*:
#   divided by $G$, the number of answers. (TRL's GRPO divides by $G - 1$ inside it.)

# %% tags=["nbval-check-output"]
example = torch.tensor([1.0, 0.0, 0.0, 0.0])
for name, correction in (("population", 0), ("G - 1", 1)):
    spread = example.std(correction=correction) + 1e-4
    shown = [f"{a:+.3f}" for a in (example - example.mean()) / spread]
    print(f"{name:10}", *shown)

# %% [markdown]
# But its loss has no ratio to the model that wrote the answers, because nobody may
# know that model. It is the probability itself:
#
# $$\frac{1}{G}\sum_{i=1}^{G} \frac{1}{|y_i|}\sum_t -p(y_{i,t})\,A_i$$
#
# - $y_{i,t}$ is token $t$ of answer $i$, and $|y_i|$ is the answer's number of tokens;
# - $p(y_{i,t})$ is the probability that the policy gives to it *now*.
#
# With respect to $\log p$, the slope is $-A\,p$.
#
# **Predict.** What does that mean for a token that the model finds very unlikely?
#
# <details>
# <summary>Answer</summary>
#
# It is hardly pushed, up or down. A bad answer that the model would not give anyway
# is left alone, which is good. A good answer that it would not give is left alone
# too: GPO sharpens what the model already does.
#
# </details>

# %%
p = torch.linspace(0.005, 1, 100)
_, axes = plt.subplots(figsize=(6, 2.6))
axes.axhline(1, ls="--", color="gray", label="policy gradient")
axes.plot(p, p, color="C0", label="GPO")
axes.set(xlabel="probability of the token now", ylabel="push on log p")
axes.set_title("how hard a token is pushed (advantage 1)")
axes.legend(fontsize=9)
show_figure(
    "A policy gradient pushes each token equally hard. GPO's push "
    "is the token's probability: near 0 for unlikely tokens."
)


# %%
def gpo_loss(model, group):
    """GPO's loss of one stored group."""
    r, loss = torch.tensor(group["rewards"]), 0.0
    advantages = (r - r.mean()) / (r.std(correction=0) + 1e-4)
    answers = zip(group["completions"], group["ended"], advantages)
    for text, ended, advantage in answers:
        answer = answer_ids(group["prompt"], text, ended)
        each = distributions(model, group["prompt"], answer)
        p = each[range(len(answer)), answer].exp()
        loss -= (p * advantage).mean().item() / len(r)
    return loss


# %%
from mathsft import GPO

STORED_RUNS = run_dir("08_stored")


def train_stored(model, rows, objective, name, **changes):
    settings = {**recipe[objective.name], **changes}
    trainer = make_trainer(
        model, tokenizer, rows, objective, output_dir=STORED_RUNS / name,
        eval_rows=groups.select(range(4)) if name == "gpo" else None,
        seed=SEED, **settings,
    )  # fmt: skip
    if name == "gpo":
        print("trainer", round(trainer.evaluate()["eval_loss"], 5))
    trainer.train()
    return trainer


# %%
policy = from_start()
with torch.no_grad():
    losses = [gpo_loss(policy.eval(), groups[n]) for n in range(4)]
print("by hand", round(sum(losses) / 4, 5))
train_stored(policy, groups, GPO(), "gpo")
found["GPO"] = solved(policy)
print("GPO:", wilson_interval(found["GPO"]))

# %% [markdown]
# Read in one file of plain PyTorch:
# [minimal/gpo.py](https://github.com/mathsft/mathsft/blob/main/minimal/gpo.py).

# %% [markdown]
# And the same attempts for DPO: each right one is better than each wrong one.

# %%
from mathsft import DPO, pairs_from_groups

pairs = pairs_from_groups(groups, keep=4)
policy = from_start()
train_stored(policy, pairs, DPO(), "dpo")
found["DPO"] = solved(policy)
print("DPO:", wilson_interval(found["DPO"]))

# %% [markdown]
# Both learned from the same 512 attempts, once. GPO ended at 56.7 % [48.7, 64.3] and DPO at
# 66.7 % [58.8, 73.7]; the start solves 53.3 % [45.4, 61.1].
# Which of these differences are more than luck? See the table at the end.
#
# ## A rate that is too high
#
# Stored attempts are those of the *old* model. With every step the model moves away
# from it, and nothing new tells whether that is good. Here is GPO at five times the
# rate, without a warm-up.
#
# **Predict.** At this rate the loss will fall faster. Will more test problems be solved?
#
# <details>
# <summary>Answer</summary>
#
# Not necessarily, and the loss cannot tell. It only asks for likely good attempts and
# unlikely bad ones *among those in the file*. Nothing in the file shows what the model
# writes in their place.
#
# </details>

# %%
broken = from_start()
hot = train_stored(
    broken, groups, GPO(), "hot", warmup_steps=0,
    learning_rate=5 * recipe["gpo"]["learning_rate"],
)  # fmt: skip
losses = [e["loss"] for e in hot.state.log_history if "loss" in e]
print("loss, step by step:", *(f"{loss:.3f}" for loss in losses))
found["GPO, rate × 5"] = solved(broken)
print(wilson_interval(found["GPO, rate × 5"]))

# %%
text = worked_answers(
    broken, tokenizer, test.select(range(1)), **recipe["worked"]
)[0]["text"]
print(text[:160])

# %% [markdown]
# The model now solves 39.3 % [31.9, 47.3] of the test problems. Yet the loss fell, from
# −0.047 at the first step to −0.107 at the last.
# In lesson 07 the new attempts show a collapse at the second step. Here nothing does,
# unless you let the model write. So evaluate early, and use small rates, few passes, or a
# KL penalty (`GPO(beta=0.1)`).
#
# ## All together

# %%
figure, axes = plt.subplots(figsize=(6, 3.2))
for place, right in enumerate(reversed(found.values())):
    share = wilson_interval(right)
    axes.plot(share.accuracy, place, "o", color="C0")
    axes.hlines(place, share.low, share.high, color="C0")
axes.set_yticks(range(len(found)), list(reversed(found)))
axes.set(xlabel="test problems solved", xlim=(-0.03, 1.03))
axes.set_title(f"shares of {len(test)} problems, 95 % intervals")
show_figure(
    "Shares of solved test problems with intervals, one line for "
    "each model of this lesson, in the order of the lesson."
)

# %%
first = found["eight solutions"]
for name in ("GPO", "DPO", "GPO, rate × 5"):
    print(f"eight solutions → {name}:\n  {versus(first, found[name])}")
print("GPO → DPO:\n  " + versus(found["GPO"], found["DPO"]))

# %% [markdown]
# Compared with the start, DPO gained (p = 0.00082). For GPO no gain shows (p = 0.27), and at
# five times the rate it lost (p = 0.0031). In this run DPO was better than GPO (p = 0.011). But
# that is no fair race: DPO's rate is twice as high, and this is one seed.
# Lesson 07 shows what fresh attempts do from the same start. Attempts that were stored are
# cheaper, and they are soon used up.
#
# ## Keep the adapter

# %%
folder = save_adapter(
    student, run_dir("08_prompt") / "adapter", tokenizer=tokenizer
)
again, _ = load_model(**recipe["model"])
again = load_adapter(again, folder)
with torch.no_grad():
    pair = [distances(m.eval(), lessons[:1]) for m in (student, again)]
torch.testing.assert_close(*pair, rtol=1e-2, atol=1e-2)
print("the loaded adapter gives the same distances as the trained one")
print(f"CPU time so far: {time.process_time() - BEGUN:.0f} seconds")

# %% [markdown]
# ## On a T4
#
# In Colab choose Runtime → Change runtime type → T4 GPU, then Runtime → Run all. The same
# cells, with the profile `t4`, then load Qwen2.5-0.5B-Instruct and GSM8K. The teacher is
# the chat model, asked by its chat template. Time, peak memory and scores: *not yet
# measured*. [docs/scaling.md](https://github.com/mathsft/mathsft/blob/main/docs/scaling.md)
# estimates what training costs on a T4; it has no estimate for runs that write answers.
#
# If the GPU is out of memory, change the recipe in the parameters cell, in this order:
# 1. `per_device_train_batch_size` 1 in `recipe["distillation"]` and `recipe["gpo"]`, and
#    `gradient_accumulation_steps` as many times larger, so that a step stays the same;
# 2. a smaller `batch_size` in `recipe["worked"]`, `["sample"]` and `["rollout"]`: fewer
#    answers are written at once;
# 3. a smaller `max_new_tokens` in `recipe["rollout"]`: then long answers are cut.
#
# Then restart the runtime and run all cells again.
#
# **Try next:**
# - `GPO(ratio=True)` takes the clipped ratio of lesson 07 in place of $p$. Nobody kept the
#   old probabilities, so the trainer computes them once, before the first step;
# - `Distillation(loss_type="jsd")` lies between forward and reverse KL;
# - another `SEED`: all runs of this lesson are single runs.
#
# ## Exercises
#
# Each check shows "not solved yet" until you solve it. Solutions are in
# `notebooks/solutions/08_groups_distillation.ipynb`.
#
# **1.** Write reverse KL, from log-probabilities (places, words). Which of two
# students does it prefer, if the teacher finds two words equally likely: one that is
# sure of one of the two words, or one that spreads over four?

# %%
from mathsft import exercise


def reverse_kl(student, teacher):
    return torch.zeros(len(student))


# %% tags=["exercise"]
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
# **2.** How strongly does GPO push a token? Write `gpo_slope`: the derivative of
# $-p A$ with respect to the token's log-probability.

# %%
def gpo_slope(lp, advantage):
    return 0.0


# %% tags=["exercise"]
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
# **3.** Rewards are 1 and 0, and each right answer makes a pair with each wrong one.
# Write `wins(rewards)`: for each answer, how often it is chosen minus how often it
# is rejected. How does that compare with $r - \bar r$?

# %%
def wins(rewards):
    return [0 for _ in rewards]


# %% tags=["exercise"]
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
# **4. Change.** Train the prompt into the weights again, with one change: a quarter of
# the questions (16, with more passes: the same number of steps), or another divergence
# (`"reverse_kl"`, `"jsd"`). Write it into the first line and run the cell. It takes ten to
# twenty seconds of one core. How many test problems does your student solve, compared with
# `found["prompt in weights"]`?

# %% tags=["change"]
my_loss, my_questions, my_passes = "forward_kl", 0, 0
my_student, _ = load_model(**recipe["model"])
my_student = add_adapter(my_student, seed=SEED)
if my_questions:
    settings = {**recipe["distillation"], "max_steps": -1}
    settings |= {"num_train_epochs": my_passes}
    make_trainer(
        my_student, tokenizer, lessons[:my_questions],
        Distillation(loss_type=my_loss, packing=False), seed=SEED,
        output_dir=run_dir("08_prompt") / "mine", **settings,
    ).train()  # fmt: skip
    now = solved(my_student)
    print(wilson_interval(now))
    print(versus(found["prompt in weights"], now))

# %% tags=["exercise"]
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
# ## What we learned
#
# - A prompt can be trained into the weights with nothing but questions: 86.0 % [79.5, 90.7]
#   of the test problems in the course's format, 2.0 % [0.7, 5.7] before.
# - Off-policy, a teacher's probabilities gave more than its texts after the same 32 steps (19
#   gained, 1 lost, p = 4e-05). More steps may close that gap.
# - On-policy, the teacher only reads: from 46.7 % [38.9, 54.6] to 59.3 % [51.3, 66.9]
#   (p = 0.0054). It must know the form in which the student answers.
# - Forward KL makes a student cover all that its teacher does, reverse KL lets it leave
#   things out.
# - GPO compares the answers of a stored group, with any rewards. In training it needs
#   neither a judge nor the model that wrote them. No gain shows in this run (p = 0.27); DPO
#   on the same attempts gained (p = 0.00082).
# - Stored attempts say nothing about what the model writes now. At five times the rate,
#   GPO's loss fell, and the model solved fewer problems than before (p = 0.0031).
#
# All of these are single runs with one seed. Try another `SEED` before you believe a
# difference of a few points. Lesson 09 searches for the prompt itself.
