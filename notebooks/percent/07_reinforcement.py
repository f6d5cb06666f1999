# %% [markdown]
# # 07 · Learning from one's own attempts
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/07_reinforcement.ipynb)
#
# Lesson 05 sampled attempts, made pairs of them, and trained. Here the model
# learns *while* it attempts: it answers a few problems, a reward says which
# answers are right, one small step makes the right ones likelier, and the next
# answers come from the changed model. The start is the same as in lesson 05:
# eight worked solutions.
#
# You will learn
# - **expert iteration**: keep what is right, train on it, repeat;
# - a **policy gradient** by hand, in one cell, and why it needs a baseline;
# - the group's **advantage**, **clipping** and the **KL penalty**, drawn;
# - Dr. GRPO by hand, in this package and in TRL, with the same numbers;
# - what such a run can and cannot teach: pass@8 by kind of problem;
# - two ways to go wrong, and the number that shows it first.
#
# **Time.** The last cell before the exercises prints the CPU time of the run
# whose outputs you see, with the embedded tiny model. On a T4 the lesson loads
# Qwen2.5-0.5B-Instruct and GSM8K from the hub instead; that is not yet measured.

# %% [markdown]
# **Words.** The *policy* is the model that is trained. A *rollout* is an answer
# that it writes during training. The *reward* is a number for a rollout, here 1
# or 0. A *group* holds the rollouts of one prompt. The *advantage* of a rollout
# says how much better it is than its group. *On-policy*: the rollouts come from
# the model as it is now.

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
if recipe["model"]["name"] == "tiny":
    recipe["model"]["quantize"] = False  # it is small enough
    recipe["test"]["limit"] = min(200, recipe["test"]["limit"])
    recipe["dr_grpo"]["max_steps"] = min(12, recipe["dr_grpo"]["max_steps"])
    recipe["worked"]["batch_size"] = 200  # one batch is the fastest
else:
    recipe["model"]["name"] += "-Instruct"
QUICK = int(os.environ.get("MATHSFT_QUESTIONS") or 512)  # a quick look
{key: recipe[key] for key in ("dr_grpo", "rollout")}

# %% [markdown]
# ## The start: eight worked solutions
#
# As in lesson 05, the model sees eight solutions, 20 times each.

# %%
from mathsft import load_problems

train = load_problems(**{**recipe["train"], "limit": 4000})
test = load_problems(**recipe["test"])
few, pool = train.select(range(8)), train.select(range(8, len(train)))
print("in both:", len(set(train["question"]) & set(test["question"])))

# %%
from mathsft import add_adapter, load_model, save_adapter, sft_trainer

PASSES = 20
FEW = {**recipe["sft"], "num_train_epochs": PASSES, "packing": False}
FEW |= {"max_steps": -1, "lr_scheduler_type": "constant"}
model, tokenizer = load_model(**recipe["model"])
model = add_adapter(model, seed=SEED)
trainer = sft_trainer(
    model, tokenizer, few, output_dir=run_dir("07_few"), **FEW
)
trainer.train()
start = save_adapter(
    model, run_dir("07_few") / "adapter", tokenizer=tokenizer
)

# %%
from mathsft import load_adapter


def from_start():
    base, _ = load_model(**recipe["model"])
    return load_adapter(base, start, is_trainable=True)


# %%
from mathsft import wilson_interval, worked_answers


def solved(model, problems=test):
    """Which problems the model solves, greedily."""
    answers = worked_answers(model, tokenizer, problems, **recipe["worked"])
    return [answer["correct"] for answer in answers]


found = {"start": solved(model)}
print("after eight solutions:", wilson_interval(found["start"]))

# %% [markdown]
# ## The reward
#
# The reward is 1 if an answer is right *and* ended by itself, and 0 otherwise.
# Before a reward trains a model, it should judge answers that we know: right ones,
# wrong ones, and tricks (lesson 06). `check_judge` does that; a share above 0
# would be an error.

# %% tags=["nbval-check-output"]
from mathsft import FinalAnswer, check_judge

reward = FinalAnswer()
check_judge(reward, pool.select(range(50)))

# %% [markdown]
# ## Expert iteration
#
# The simplest way to learn from attempts needs nothing new: sample, keep what is
# right, and train on it as in lesson 01. It is known as *expert iteration*, or
# *rejection sampling fine-tuning* ([STaR](https://arxiv.org/abs/2203.14465),
# [ReST](https://arxiv.org/abs/2308.08998)).

# %%
from mathsft import sample_groups, sft_prompt


def attempts(model, problems, seed=SEED):
    """For each problem its prompt, the model's answers, and rewards."""
    prompts = [sft_prompt(question) for question in problems["question"]]
    groups = sample_groups(
        model, tokenizer, prompts, seed=seed, **recipe["sample"]
    )
    for prompt, right, group in zip(prompts, problems["answer"], groups):
        texts = [one.text for one in group]
        ended = [one.ended for one in group]
        scores = reward(texts, answer=[right] * len(group), ended=ended)
        yield prompt, texts, scores


# %%
EXPERT = {**recipe["sft"], "num_train_epochs": 2, "max_steps": -1}
EXPERT |= {"learning_rate": recipe["dr_grpo"]["learning_rate"]}
EXPERT |= {"adam_beta2": 0.99, "warmup_steps": 3}
EXPERT["per_device_train_batch_size"] = 4
SIZE = min(32, QUICK // 8)


def expert_round(model, problems, number):
    rows = [
        {"prompt": prompt, "completion": text}
        for prompt, texts, scores in attempts(model, problems, number)
        for text in list(
            dict.fromkeys(t for t, s in zip(texts, scores) if s)
        )[:2]  # at most two different right answers to a problem
    ]
    folder = run_dir("07_expert") / str(number)
    sft_trainer(model, tokenizer, rows, output_dir=folder, **EXPERT).train()


# %%
expert = from_start()
for number in range(2):
    part = range(number * SIZE, (number + 1) * SIZE)
    expert_round(expert, pool.select(part), number)
found["expert iteration"] = solved(expert)
print("two rounds:", wilson_interval(found["expert iteration"]))

# %% [markdown]
# Two rounds of 32 problems went from 51.0 % to 78.0 % of the test problems. This is one
# run; the test below asks whether it is more than chance.
#
# Expert iteration throws the wrong answers away. A policy gradient uses them too.
#
# ## A policy gradient
#
# We want to raise the expected reward $J = \mathbb{E}_{y \sim \pi(\cdot \mid x)}[r(y)]$.
# Its gradient is minus that of the loss
#
# $$-\frac{1}{G}\sum_{i=1}^{G} A_i \log \pi(y_i \mid x), \qquad A_i = r_i - \bar r$$
#
# - $x$ is a prompt, and $y_1 \dots y_G$ are the $G$ rollouts of its group;
# - $\pi(y_i \mid x)$ is the probability that the policy gives to rollout $y_i$: the
#   product of the probabilities of its tokens;
# - $r_i$ is its reward, $\bar r$ the mean reward of the group, $A_i$ the advantage.
#
# In words: make an answer likelier in proportion to its advantage. That is REINFORCE
# ([Williams 1992](https://doi.org/10.1007/BF00992696)), and $\bar r$ is its *baseline*.
# A baseline removes noise: without it, every right answer would be pushed up, also for a
# problem that the model always solves. (A group's own mean shortens the expected gradient
# by the factor $(G-1)/G$. Exercise 1 undoes that.)
#
# **Predict.** One group has one right answer among eight, another six, a third eight.
# In which group is a right answer pushed up most? In which is a *wrong* one pushed down
# most? And what does the third group teach?
#
# <details>
# <summary>Answer</summary>
#
# A right answer counts most if it is rare: 1 − 1/8. A wrong one counts most if the others
# are right. In the third group all advantages are 1 − 1 = 0. A group whose rewards are
# all equal has **no signal**, whether all are right or all are wrong.
#
# </details>

# %%
import matplotlib.pyplot as plt

from mathsft import GRPO, DrGRPO, show_figure

_, panels = plt.subplots(1, 3, figsize=(6, 2.8), sharey=True)
for panel, right in zip(panels, (1, 6, 8)):
    rewards = [1.0] * right + [0.0] * (8 - right)
    plain, scaled = (o.advantages([rewards])[0] for o in (DrGRPO(), GRPO()))
    colours = ["C0" if r else "C1" for r in rewards]
    panel.bar(range(1, 9), plain, color=colours)
    panel.plot(range(1, 9), scaled, "kx", label="GRPO")
    panel.set(title=f"{right} of 8 right", xticks=(1, 4, 8))
panels[0].set(ylabel="advantage", xlabel="attempt")
panels[2].legend(fontsize=9)
show_figure(
    "Advantages of eight attempts. A rare right one is pushed up "
    "far, a rare wrong one down far; equal ones not at all."
)

# %% [markdown]
# Blue bars are right answers, orange ones wrong. The bars are $r - \bar r$; the crosses
# are divided by the standard deviation of the group's rewards, as **GRPO** does
# ([DeepSeekMath](https://arxiv.org/abs/2402.03300)). That makes the steps of very easy
# and very hard problems longer. **Dr. GRPO** ([Liu et al.](https://arxiv.org/abs/2503.20783))
# leaves it out, and we do so too.
#
# ### Clipping
#
# After a step, the stored rollouts are those of an older policy $\pi_{\text{old}}$. So
# each token gets a ratio, and PPO ([Schulman et al.](https://arxiv.org/abs/1707.06347)),
# GRPO and most others clip it:
#
# $$\ell_t = -\min\bigl(\rho_t A,\; \text{clip}(\rho_t, 1-\epsilon, 1+\epsilon)\,A\bigr),
# \qquad \rho_t = \frac{\pi(y_t \mid x, y_{<t})}{\pi_{\text{old}}(y_t \mid x, y_{<t})}$$
#
# - $y_t$ is token $t$ of a rollout, $y_{<t}$ what stands before it;
# - $\rho_t$ says how much likelier the token has become since it was sampled;
# - $\epsilon$, here 0.2, says how far it may move; $\ell_t$ is the token's loss.

# %%
ratio = torch.linspace(0.4, 1.6, 121)
_, panels = plt.subplots(1, 2, figsize=(6, 2.8))
for panel, A in zip(panels, (1.0, -1.0)):
    clipped = torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)
    panel.plot(ratio, -ratio * A, "--", color="gray", label="not clipped")
    panel.plot(ratio, -clipped, color="C0" if A > 0 else "C1")
    panel.axvspan(0.8, 1.2, color="gray", alpha=0.15)
    panel.set(xlabel="ratio", title=f"advantage {A:+.0f}")
panels[0].set_ylabel("loss of a token")
panels[0].legend(fontsize=9)
plt.tight_layout()
show_figure(
    "The clipped loss is flat above a ratio of 1.2 if the "
    "advantage is positive, below 0.8 if it is negative."
)


# %% [markdown]
# Where the line is flat there is no gradient. A right answer's token that is already
# much likelier gets no further push up, and a wrong one's that is already much less
# likely gets none down. The way back is always open. In the first step after sampling
# $\rho_t = 1$, and nothing is clipped.
#
# ### How tokens are added up, and the KL penalty
#
# Dr. GRPO's loss of a group is a sum over all tokens of all its answers. It is divided
# by the number of answers times the longest allowed length $L$:
#
# $$\frac{1}{G\,L}\sum_{i=1}^{G}\sum_{t} \bigl(\ell_{i,t} + \beta\,(e^{d_{i,t}} - d_{i,t} - 1)\bigr),
# \qquad d_{i,t} = \log\pi_{\text{ref}} - \log\pi$$
#
# - $\ell_{i,t}$ is the clipped loss of token $t$ of answer $i$;
# - $d_{i,t}$ compares the token's log-probability with that of the *reference*
#   $\pi_{\text{ref}}$, the model before this training. The bracket behind $\beta$
#   estimates the KL divergence from it: how far the policy has moved;
# - $\beta$ is the weight of that penalty. Here it is 0, as in TRL's default.
#
# Its relatives change one piece each. **GRPO** takes the mean over each answer's own tokens.
# **RLOO** ([Ahmadian et al.](https://arxiv.org/abs/2402.14740)) compares an answer with the
# mean of the *others*. **DAPO** ([Yu et al.](https://arxiv.org/abs/2503.14476)) leaves more
# room upwards and replaces groups without signal. **GSPO**
# ([Zheng et al.](https://arxiv.org/abs/2507.18071)) takes one ratio for a whole answer.
#
# ## By hand

# %%
def logprobs(model, prompt, answer):
    """log p of each token of an answer: a plain pass, no padding."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    every = model(ids).logits[0].float().log_softmax(-1)
    places = range(len(prompt), ids.shape[1])
    return torch.stack([every[i - 1, ids[0, i]] for i in places])


# %%
LONGEST = recipe["rollout"]["max_new_tokens"]


def group_loss(model, prompt, answers, rewards, clip=0.2):
    """Dr. GRPO's loss of a group, in the first step after sampling."""
    loss = 0.0
    for answer, r in zip(answers, rewards):
        advantage = r - sum(rewards) / len(rewards)
        lp = logprobs(model, prompt, answer)
        ratio = (lp - lp.detach()).exp()  # 1, but it has a gradient
        clipped = ratio.clamp(1 - clip, 1 + clip)
        loss -= torch.minimum(ratio * advantage, clipped * advantage).sum()
    return loss / (len(answers) * LONGEST)


# %% [markdown]
# That is the whole method. Now the same through the package. `rollout_trainer`
# samples, calls the reward, and trains the objective. Its rate begins at 0 in a
# warm-up, so one step changes nothing, and both can look at the same weights:

# %%
from mathsft import rollout_trainer


def make(model, name, objective=None, judge=reward, **changes):
    settings = {**recipe["dr_grpo"], **recipe["rollout"], **changes}
    settings["per_device_train_batch_size"] = min(
        settings["per_device_train_batch_size"], max(2, QUICK // 32)
    )
    return rollout_trainer(
        model, tokenizer, pool, objective or DrGRPO(), judge,
        output_dir=run_dir("07_rl") / name, seed=SEED, **settings,
    )  # fmt: skip


policy = from_start()
trainer = make(policy, "one", max_steps=1)
trainer.train()
first = trainer.state.log_history[0]


# %%
def by_hand(model, groups):
    """The mean loss over groups, and the length of its gradient."""
    model.zero_grad()
    model.eval()
    total = 0.0
    for prompt, answers, rewards in groups:
        if len(set(rewards)) == 1:
            continue  # no signal: every advantage is 0
        loss = group_loss(model, prompt, answers, rewards) / len(groups)
        loss.backward()
        total += loss.item()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return total, torch.nn.utils.get_total_norm(grads).item()


# %%
groups = [
    (g.prompt_ids, [one.input_ids for one in g.completions], g.rewards)
    for g in trainer.last_attempts
]
mine = by_hand(policy, groups)
print(f"by hand: loss {mine[0]:.5f}, gradient {mine[1]:.5f}")
print(
    f"trainer: loss {first['loss']:.5f}, gradient {first['grad_norm']:.5f}"
)
close = 1e-3 if model.dtype == torch.float32 else 0.1
assert abs(mine[1] / first["grad_norm"] - 1) < close

# %% [markdown]
# The trainer lays all answers to a prompt out in one tree, so the prompt passes
# once. Groups without signal do not pass at all, as by hand. The gradient is the same.

# %%
silent = sum(not group.has_signal for group in trainer.last_attempts)
print(f"{silent} of {len(groups)} groups have no signal")
for name in ("reward", "completions/ended", "entropy"):
    print(f"{name:18} {first[name]:.3f}")

# %% [markdown]
# Read in one file of plain PyTorch, sampling included:
# [minimal/grpo.py](https://github.com/mathsft/mathsft/blob/main/minimal/grpo.py).
#
# ## The same step in TRL
#
# TRL's names are the field's. Its `GRPOTrainer` takes the same reward unchanged. We let it
# make one step at rate 0, note which attempts it judged and which advantages it used, and
# compute everything from these attempts ourselves:

# %%
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

config = GRPOConfig(
    str(run_dir("07_rl") / "trl"), loss_type="dr_grpo", beta=0.0,
    scale_rewards="none", epsilon=0.2, num_generations=8,
    max_completion_length=LONGEST, per_device_train_batch_size=16,
    max_steps=1, learning_rate=0.0, logging_steps=1, bf16=False,
    disable_dropout=True, gradient_checkpointing=False, seed=SEED,
    use_cpu=not torch.cuda.is_available(), report_to="none",
)  # fmt: skip

# %%
judged, used = [], []
eos = FinalAnswer(eos_token_id=tokenizer.eos_token_id)


def noted(prompts, completions, completion_ids, answer, **_):
    scores = eos(completions, completion_ids=completion_ids, answer=answer)
    judged.extend(zip(prompts, completion_ids, scores))
    return scores


class Noting(GRPOTrainer):
    def compute_loss(self, model, inputs, *args, **more):
        used.extend(inputs["advantages"].tolist())
        return super().compute_loss(model, inputs, *args, **more)


# %%
rows = Dataset.from_list([
    {"prompt": sft_prompt(row["question"]), "answer": row["answer"]}
    for row in pool.select(range(16))
])  # fmt: skip
other = from_start()
theirs = Noting(
    other, reward_funcs=noted, args=config, train_dataset=rows,
    processing_class=tokenizer,
)  # fmt: skip
_ = theirs.train()

# %%
groups = []
for n in range(0, len(judged), 8):
    prompts, answers, scores = zip(*judged[n : n + 8])
    groups.append((tokenizer(prompts[0]).input_ids, answers, scores))
scores = [list(group[2]) for group in groups]
mine = [a for own in DrGRPO().advantages(scores) for a in own]
log = next(e for e in theirs.state.log_history if "grad_norm" in e)
loss, norm = by_hand(other, groups)
print("             TRL     ours")
print(f"largest A {max(used):7.4f}  {max(mine):7.4f}")
print(f"loss      {log['loss']:7.4f}  {loss:7.4f}")
print(f"gradient  {log['grad_norm']:7.4f}  {norm:7.4f}")
got, ours = torch.tensor([sorted(used), sorted(mine)])
torch.testing.assert_close(got, ours, rtol=close, atol=1e-6)
assert abs(log["loss"] - loss) < 1e-3
assert abs(norm - log["grad_norm"]) <= close * norm

# %% [markdown]
# All sixteen advantages, the loss and the gradient are the same. (TRL rounds the
# loss before it shows it.)
#
# ## Training
#
# **Predict.** The run below has 12 steps of sixteen problems, eight attempts each. The
# start solves about half of the test. Will the reward of the attempts rise steadily?
# And what happens to the *entropy*, which says how unsure the model is of the next token?
#
# <details>
# <summary>Answer</summary>
#
# The reward rises, but it jumps: each point is another sixteen problems, and some are
# harder. The entropy falls. The model becomes surer of what it writes, so its eight
# attempts become more alike. That has a price: fewer groups with signal.
#
# </details>

# %%
trainer = make(policy, "dr_grpo")
trainer.train()
found["Dr. GRPO"] = solved(policy)
print("Dr. GRPO:", wilson_interval(found["Dr. GRPO"]))


# %%
def curves(trainer, names=("reward", "completions/ended", "entropy")):
    log = [e for e in trainer.state.log_history if "reward" in e]
    size = (6, 1.4 * len(names))
    _, panels = plt.subplots(len(names), 1, figsize=size, sharex=True)
    for panel, name in zip(panels, names):
        steps = [entry["step"] for entry in log]
        panel.plot(steps, [entry[name] for entry in log], ".-")
        panel.set_title(name.replace("completions/", ""), fontsize=10)
    panels[-1].set_xlabel("step")
    plt.tight_layout()


curves(trainer)
show_figure(
    "Three curves over the steps: the reward of the attempts, the "
    "share that ended, and the entropy in nats per token."
)

# %%
log = [e for e in trainer.state.log_history if "reward" in e]
for name in ("reward", "completions/ended", "entropy"):
    values = [entry[name] for entry in log]
    some = min(5, len(values))
    first, last = sum(values[:some]) / some, sum(values[-some:]) / some
    print(f"{name:18} {first:.2f} → {last:.2f}", end="")
    print(f"  lowest {min(values):.2f}")

# %% [markdown]
# The printed lines compare the means of the first and the last five steps: the reward
# went from 0.30 to 0.40, and the entropy from 0.28 to 0.24 nats per token. In every step, at
# least 98 % of the attempts ended.
#
# ## Is it more than more training?
#
# The control: the same eight solutions, one more pass for each step of Dr. GRPO, so 12
# passes. All models are compared on the same problems, as in lessons 04 and 05.
#
# **Predict.** Can more passes over the same eight solutions do what attempts do?
#
# <details>
# <summary>Answer</summary>
#
# Hardly: eight solutions say nothing new after 20 passes. Attempts are new text for
# each new problem, and only the right ones are followed. In this run the control
# solves 58.5 %, Dr. GRPO 72.0 %.
#
# </details>

# %%
control = from_start()
trainer = sft_trainer(
    control, tokenizer, few, output_dir=run_dir("07_few"),
    **{**FEW, "num_train_epochs": min(PASSES, len(log))},
)  # fmt: skip
trainer.train()
found["more SFT"] = solved(control)

# %%
from scipy.stats import binomtest


def versus(old, new):
    gained = sum(n and not o for o, n in zip(old, new))
    lost = sum(o and not n for o, n in zip(old, new))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return f"{gained} gained, {lost} lost, p = {p:.1e}"


for name, right in found.items():
    print(f"{name}:\n  {wilson_interval(right)}")
    if name != "start":
        print("  " + versus(found["start"], right))
pair = found["expert iteration"], found["Dr. GRPO"]
print("expert iteration → Dr. GRPO:\n  " + versus(*pair))

# %% [markdown]
# For more passes over the same eight solutions no gain shows: 58.5 % (37 gained, 22 lost,
# p = 0.067). Attempts gained: 78.0 % by expert iteration (p = 9.0e-11) and 72.0 % by Dr. GRPO
# (p = 1.3e-09). Between these two no difference shows (21 gained, 33 lost, p = 0.13). It
# would be no fair race: they attempted different numbers of problems.
#
# For comparison: SFT on 1,200 worked solutions is measured in lesson 01. Here nobody
# wrote more than eight.
#
# ### Three seeds, and the other methods
#
# One run is one run. `benchmarks/reinforcement.py` repeats the comparison with three
# seeds for the start and the rollouts, and runs the relatives. Its runs are longer than
# the one above (40 steps, or five rounds of expert iteration), and its test has 300
# problems. These are its kept results, in per cent:

# %%
seeds = {  # seeds 0, 1, 2; benchmarks/RESULTS.md
    "start": (51.3, 48.7, 57.7),
    "more SFT": (60.3, 60.7, 56.0),
    "expert iteration": (89.0, 85.7, 78.3),
    "Dr. GRPO": (94.7, 93.3, 81.7),
    "GRPO": (84.3, 91.7, 76.0),
    "RLOO": (95.3, 93.7, 83.0),
}
_, axes = plt.subplots(figsize=(6, 2.8))
for place, values in enumerate(reversed(seeds.values())):
    for value, mark in zip(values, "os^"):
        axes.plot(value, place, mark, color="C0", alpha=0.8)
axes.set_yticks(range(len(seeds)), list(reversed(seeds)))
axes.set(xlim=(40, 100), xlabel="per cent solved", title="three seeds")
show_figure(
    "Three points for each method. Start and more SFT lie below 61 "
    "per cent, all methods that use attempts above 75."
)

# %% [markdown]
# With each seed, every method that learns from attempts is far above the control. Beyond
# that, read little into the figure. A seed changes more than a method does: Dr. GRPO alone
# spans 81.7 to 94.7 %. Dr. GRPO and RLOO are not separated at all. GRPO is below both with
# each of the three seeds; three pairs are too few to call that a difference.
#
# ## What it can teach: pass@8
#
# A policy gradient can only make likelier what the model sometimes does. So look at
# the *start*, by kind of problem: how often is at least one of eight attempts right?
# Here the kind is the number of steps in the worked solution.

# %%
some = test.select(range(min(48, len(test), QUICK // 5)))
steps = [len(text.splitlines()) for text in some["solution"]]
rewards = {
    name: [scores for *_, scores in attempts(model, some)]
    for name, model in (("start", from_start()), ("Dr. GRPO", policy))
}
best = {n: [max(v) == 1 for v in vs] for n, vs in rewards.items()}

# %%
print("              start      Dr. GRPO")
print("steps   n   one  of 8    one  of 8")
for kind in sorted(set(steps)):
    line = f"{kind:5} {steps.count(kind):3}"
    for values in rewards.values():
        here = [v for v, k in zip(values, steps) if k == kind]
        one = sum(map(sum, here)) / sum(map(len, here))
        eight = sum(map(max, here)) / len(here)
        line += f"  {one:4.0%} {eight:5.0%} "
    print(line)
for name, right in best.items():
    print(f"pass@8, {name}:\n  {wilson_interval(right)}")
print("  " + versus(*best.values()))

# %% [markdown]
# "one" is the share of single attempts that are right, "of 8" the share of problems with
# a right one among eight. At the start, 56.2 % [42.3, 69.3] of these 48 problems were
# solved at least once in eight attempts: there was something to make likelier. Afterwards it
# is 77.1 % [63.5, 86.7] (11 gained, 1 lost, p = 0.0063): what is learned from one problem
# helps with another. The rows of the table have few problems each, so do not compare them
# with each other.
#
# If pass@8 is near 0 for a kind of problem, hardly any attempt is rewarded, and there is
# hardly anything to make likelier. Then a model needs examples first (SFT), easier problems,
# or a teacher (lesson 08).
#
# ## Two ways to go wrong
#
# **A reward that pays for something else.** "Longer reasoning is better": suppose the
# reward adds up to half a point for length, and forgets to ask whether an answer ended.
#
# **Predict.** The longest answers get 0.5, a right one gets 1. Which of the two will the
# model learn first?
#
# <details>
# <summary>Answer</summary>
#
# Length: every token pays a little, whatever it says, so every group has signal. A right
# answer pays more, but the model must find it first.
#
# </details>

# %%
from mathsft import Weighted


def longer(completions, completion_ids, **_):
    return [len(ids) / LONGEST for ids in completion_ids]


tempting = Weighted([FinalAnswer(require_ended=False), longer], [1.0, 0.5])
tempted = from_start()
size = "per_device_train_batch_size"
SHORT = {size: max(1, recipe["dr_grpo"][size] // 4)}  # problems per step
SHORT["max_steps"] = min(recipe["dr_grpo"]["max_steps"], 6)
trainer = make(tempted, "longer", judge=tempting, **SHORT)
trainer.train()

# %%
names = ("reward", "completions/mean_length", "completions/ended")
curves(trainer, names)
show_figure(
    "Reward and mean length of the attempts end higher than they "
    "began; nearly all attempts still end."
)
log = [e for e in trainer.state.log_history if "reward" in e]
for name in names:
    print(f"{name:24} {log[0][name]:6.2f} → {log[-1][name]:6.2f}")
print("test:", wilson_interval(solved(tempted)))

# %% [markdown]
# In six steps the mean attempt grew from 22.69 to 32.97 tokens, and the reward went from
# 0.45 to 0.83. How much of that is learning? The sum does not tell: a part of it was
# bought with length alone, and each step has four other problems. The test says 56.0 %
# [49.1, 62.7], and the start had 51.0 % [44.1, 57.8].
#
# The model does what is paid, not what was meant. So look at the parts of a reward one by
# one, and keep a measure that no reward touches.
#
# **A rate that is too high.** The run for right answers again, with four times the rate, no
# warm-up, and a quarter of the problems in a step.
#
# **Predict.** If this goes wrong, which number tells you first: the loss, or the reward?
#
# <details>
# <summary>Answer</summary>
#
# The reward. If no attempt is right, all advantages are 0, and so is the loss. A loss of
# exactly 0 looks like the end of the work, and it is the end of all learning.
#
# </details>

# %%
broken = from_start()
hot = make(
    broken, "collapse", warmup_steps=0,
    learning_rate=4 * recipe["dr_grpo"]["learning_rate"], **SHORT,
)  # fmt: skip
_ = hot.train()


# %%
def story(trainer):
    print("step reward ended silent entropy    loss")
    for e in trainer.state.log_history:
        if "reward" in e:
            print(
                f"{e['step']:4} {e['reward']:6.2f}"
                f" {e['completions/ended']:5.0%}"
                f" {e['frac_reward_zero_std']:6.0%}"
                f" {e['entropy']:7.2f} {e['loss']:7.4f}"
            )


story(hot)
print(hot.last_attempts[0].completions[0].text[:80])
short = test.select(range(min(60, len(test))))
print(wilson_interval(solved(broken, short)))

# %% [markdown]
# ("silent" is the share of groups without signal.) One step that was too long was
# enough. After it, 9 % of the attempts ended, and none was right. All groups are without
# signal, all advantages are 0, and so is the loss: no attempt is rewarded any more, so nothing
# pulls the model back. The trainer notices after three such steps and stops.
#
# Where do you see it first? In the reward and the share that ended, at the *second* step.
# Adam's first steps are as long as the rate allows, whatever the gradient. So a warm-up
# makes them short. Exercise 4 lets you try what would have saved this run.
#
# ## Keep the adapter

# %%
folder = save_adapter(
    policy, run_dir("07_rl") / "adapter", tokenizer=tokenizer
)
base, _ = load_model(**recipe["model"])
again = load_adapter(base, folder)
prompt, answer = groups[0][0], groups[0][1][0]
with torch.no_grad():
    pair = [logprobs(one.eval(), prompt, answer) for one in (policy, again)]
torch.testing.assert_close(*pair, rtol=1e-2, atol=1e-2)
print("the loaded adapter gives the same scores as the trained one")
print(f"CPU time so far: {time.process_time() - BEGUN:.0f} seconds")

# %% [markdown]
# ## On a T4
#
# In Colab choose Runtime → Change runtime type → T4 GPU, then Runtime → Run all. The same
# cells, with the profile `t4`, then load Qwen2.5-0.5B-Instruct and GSM8K. Time, peak memory
# and scores: *not yet measured*.
# [docs/scaling.md](https://github.com/mathsft/mathsft/blob/main/docs/scaling.md)
# estimates what training costs on a T4; it has no estimate for a run that writes its own
# answers, and writing may well take longer than training.
#
# If the GPU is out of memory, change the recipe in the parameters cell, in this order:
# 1. a smaller `recipe["rollout"]["batch_size"]`: fewer answers are written at once;
# 2. `per_device_train_batch_size` 1 in `recipe["dr_grpo"]`, and
#    `gradient_accumulation_steps` twice as many, so that a step stays the same;
# 3. a smaller `max_new_tokens` in `recipe["rollout"]`: then long answers are cut;
# 4. a smaller `num_generations`: then fewer groups have signal.
#
# Then restart the runtime and run all cells again.
#
# **Try next:**
# - `objective=GRPO()` in `make`, and look at the curves;
# - `num_iterations=2`: two updates on the same attempts, so that clipping matters;
# - `resample=2`: groups without signal are replaced, as in DAPO.
#
# ## Exercises
#
# Each check shows "not solved yet" until you solve it. Solutions are in
# `notebooks/solutions/07_reinforcement.ipynb`.
#
# **1.** RLOO compares an answer with the mean of the *other* answers of its group.
# Write its advantages.

# %%
from mathsft import exercise


def rloo_advantages(rewards):
    return [0.0 for reward in rewards]


# %% tags=["exercise"]
with exercise(1):
    from mathsft import RLOO

    draw = torch.Generator().manual_seed(7)
    for size in (2, 3, 8):
        rewards = torch.randn(size, generator=draw).tolist()
        mine = rloo_advantages(rewards)
        assert len(mine) == size, "one advantage for each reward"
        assert any(mine), "is an answer as good as the others?"
        for a, b in zip(mine, RLOO().advantages([rewards])[0]):
            assert abs(a - b) < 1e-6, f"of {size} answers: leave one out"


# %% [markdown]
# **2.** When does clipping remove the gradient of a token? Write `clipped_slope`: the
# derivative of $-\min(\rho A, \text{clip}(\rho, 1-\epsilon, 1+\epsilon) A)$ with
# respect to the token's log-probability, where $\rho = e^{\log p - \log p_{old}}$.

# %%
def clipped_slope(ratio, advantage, epsilon=0.2):
    return -advantage


# %% tags=["exercise"]
with exercise(2):
    draw = torch.Generator().manual_seed(8)
    for value in (torch.rand(40, generator=draw) + 0.5).tolist():
        for advantage in (-1.5, 0.7):
            lp = torch.tensor(value).log().requires_grad_()
            ratio = lp.exp()
            clipped = ratio.clamp(0.7, 1.3) * advantage
            (-torch.minimum(ratio * advantage, clipped)).backward()
            mine = float(clipped_slope(value, advantage, epsilon=0.3))
            told = f"ratio {value:.2f}, advantage {advantage}"
            assert abs(mine - lp.grad.item()) < 1e-5, told


# %% [markdown]
# **3.** Each attempt at a problem is right with chance p. How likely is it that a group
# has signal, so that it teaches something? For which p is that most likely?

# %%
def chance_of_signal(p, attempts=8):
    return 1.0


best_p = ...

# %% tags=["exercise"]
with exercise(3):
    draw = torch.Generator().manual_seed(9)
    for size in (2, 4, 8):
        for p in torch.rand(3, generator=draw).tolist():
            right = (torch.rand(40_000, size, generator=draw) < p).sum(1)
            share = ((right > 0) & (right < size)).float().mean().item()
            told = f"{size} attempts, p = {p:.2f}"
            assert abs(chance_of_signal(p, size) - share) < 0.02, told
    grid = [n / 100 for n in range(1, 100)]
    assert best_p in grid, "best_p is a chance between 0 and 1"
    highest = max(map(chance_of_signal, grid))
    assert chance_of_signal(best_p) > highest - 1e-9, "not the best p"

# %% [markdown]
# **4. Change.** The run that collapsed had four times the rate and no warm-up. Save it:
# write into `CHANGES` the rate, the warm-up, or both, and run the cell. It trains six
# steps, in under 20 seconds of one core. Which change is enough, and which of the runs
# is better than the start? (Try a step more or less of warm-up before you believe it.)

# %% tags=["change"]
RATE = recipe["dr_grpo"]["learning_rate"]
CHANGES = {}  # for example {"warmup_steps": 2} or {"learning_rate": RATE}
saved = broken
if CHANGES:
    saved = from_start()
    run = {"learning_rate": 4 * RATE, "warmup_steps": 0, **CHANGES}
    trainer = make(saved, "saved", **{**SHORT, **run})
    trainer.train()
    story(trainer)
    print(wilson_interval(solved(saved, short)))

# %% tags=["exercise"]
with exercise(4):
    ids = tokenizer(sft_prompt(test[0]["question"])).input_ids
    answer = tokenizer(" 12 + 7 = 19.").input_ids
    with torch.no_grad():
        new, old = (
            logprobs(m.eval(), ids, answer) for m in (saved, from_start())
        )
    moved = (new - old).abs().max().item()
    assert moved > 0.01, "these are the weights of the start: train"
    hidden = pool.select(range(3000, 3040))
    share = sum(solved(saved, hidden)) / len(hidden)
    assert share > 0.2, f"it solves {share:.0%} of 40 other problems"

# %% [markdown]
# ## What next
#
# Attempts that were judged once can be kept and used again, and a teacher can say more
# than "right" or "wrong": lesson 08.
