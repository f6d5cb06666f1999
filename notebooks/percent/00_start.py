# %% [markdown]
# # 00 · Meet the model
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mathsft/mathsft/blob/main/notebooks/00_start.ipynb)
#
# This course trains small language models, and measures what each way of
# training changes. You need some Python, and no machine learning. In this first
# lesson you meet the model that all other lessons use, and take its three most
# important parts into your own hands.
#
# You will learn
# - what a language model computes, and how to get an **answer** out of it;
# - what a **log-likelihood** is, worked out by hand for three tokens;
# - **LoRA**: how to train a model by adding a few numbers beside it, in twelve
#   lines, equal to the library's;
# - **NF4**: how a weight fits into four bits, worked out by hand for one row of
#   weights, equal to the library's.
#
# **How to read it.** The badge above opens the lesson in Colab, Google's
# notebook service; the first cell below is only for that. A question marked
# **Predict** is for you: think of an answer, then click on "Answer".
#
# **Time and memory.** With a second lesson beside it on two CPU cores, this one
# took less than a minute, and about a gigabyte. Half of the time goes into
# loading the libraries.

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
from mathsft import describe, quiet

quiet()
describe()

# %% [markdown]
# This printed what your machine has, and what the course chose for it. The words
# will be explained when they are needed.

# %% [markdown]
# ## The model
#
# It is called `tiny`, and it came with the package: nothing is downloaded. Each
# model should have a *model card* that says where it comes from. This is what
# tiny's card says:

# %%
from pathlib import Path
from textwrap import fill

import mathsft

card = Path(mathsft.__file__).parent / "models/tiny/README.md"
for line in card.read_text(encoding="utf-8").splitlines():
    if line.startswith(
        ("| architecture", "| token", "| text", "| training")
    ):
        print(fill(line.strip("| ").replace(" | ", ": "), 44), "\n")

# %% [markdown]
# Four *layers* read a text one after the other. Each takes 192 numbers for every
# token and passes on 192 new ones. You need none of the other words here yet.
#
# The text that tiny learned from was made by a program. All of
# it is simple arithmetic, in sentences and in sums. No person wrote it, and
# nothing else is in it. A *token* is a piece of text: a word, a digit, a full
# stop. Tiny has read some millions of them, each once. That first, long training
# run is called *pre-training*, and a model that has had only this is a *base
# model*.
#
# "Qwen2" is a design that is in wide use. Tiny has the same design and far
# fewer numbers, so the same code runs larger models, too
# ([Qwen2.5 report](https://arxiv.org/abs/2412.15115)). Load it:

# %%
import torch

from mathsft import load_model

SEED = 0
torch.manual_seed(SEED)
torch.set_printoptions(linewidth=44)  # fits a phone
model, tokenizer = load_model("tiny", dtype="float32", device="cpu")
model.requires_grad_(False)  # nothing is trained until we say so
weights = sum(p.numel() for p in model.parameters())
print(f"{weights:,} weights, {len(tokenizer)} tokens")

# %% [markdown]
# The *weights* are the numbers that training sets. They are all that a model
# has learned.
#
# ## Ask it something
#
# Change the question and run the two cells again, as often as you like.

# %% tags=["parameters"]
QUESTION = "Ben has 7 boxes with 6 pens in each box. How many pens now?"

# %%
from mathsft import generate


def ask(question):
    prompt = question + "\n"  # the form of the problems it has read
    ((answer,),) = generate(model, tokenizer, [prompt], max_new_tokens=60)
    return answer.text


print(ask(QUESTION))

# %% [markdown]
# **Predict.** You have seen what its text was made of. What will it answer to
# "What is the capital of France?"
#
# <details>
# <summary>Answer</summary>
#
# Another piece of arithmetic. The model has read nothing else, and it has no way
# to say "I do not know": it always continues the text with something that looks
# like the texts it has read. Run the next cell.
#
# </details>

# %%
print(ask("What is the capital of France?"))

# %% [markdown]
# A language model *continues text*. Whether the continuation is true, or has
# anything to do with your question, is another matter. Look at the first answer
# again: is the number right? Is it about the right person and the right thing?
#
# ## What happens inside
#
# The text is cut into tokens first. The model works with their numbers only:

# %% tags=["nbval-check-output"]
text = "Sam buys 8 boxes of shells. 8 * 3 = 24"
ids = tokenizer(text)["input_ids"]
print(ids)
print([tokenizer.decode([i]) for i in ids])


# %% [markdown]
# Common words are one token with the space before them. A number is cut into
# digits. (Which pieces become tokens was decided by counting:
# [byte-pair encoding](https://arxiv.org/abs/1508.07909).)
#
# For a text, the model returns one number for each token that it knows, the
# *logits* $z$: the higher, the better this token fits as the next one. It does
# so after *every* token of the text. In the code, `[0, -1]` takes the first (and
# only) text, and there the place after its last token. The *softmax* makes
# probabilities of them, which are positive and add up to 1:
#
# $$p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}$$
#
# Here $p_i$ is the probability of token $i$, and $j$ runs over all tokens.
#
# **Predict.** The text is "Sam buys 8". Which next tokens should be likely? Will
# one of them be far ahead of the others?
#
# <details>
# <summary>Answer</summary>
#
# Tiny has read about baskets, jars, bags, packs and boxes. After "Sam buys 8"
# nothing says which one it will be, so several get about the same probability. A
# good model is not always sure: it is as unsure as its texts were.
#
# </details>

# %%
def next_logits(text):
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    return model(input_ids=ids).logits[0, -1]  # after the last token


def softmax(logits):
    powers = (logits - logits.max()).exp()  # same result, no overflow
    return powers / powers.sum()


probabilities = softmax(next_logits("Sam buys 8"))
print(f"{len(probabilities)} probabilities, sum {probabilities.sum():.4f}")

# %%
from matplotlib import pyplot as plt

from mathsft import show_figure

best = probabilities.topk(8)
names = [repr(tokenizer.decode([i])) for i in best.indices.tolist()]
plt.figure(figsize=(6, 3))
bars = plt.barh(names, best.values)
plt.bar_label(bars, fmt="%.3f", padding=3)
plt.gca().invert_yaxis()
plt.xlim(0, 1.2 * best.values.max())
plt.xlabel("probability")
plt.title('The next token after "Sam buys 8"')
show_figure(
    "Bars of the eight likeliest next tokens after 'Sam buys 8'. Five words"
    " for containers have similar probabilities, the sign * a smaller one;"
    " the last two are near zero."
)


# %% [markdown]
# The sixth bar is the sign `*`. Look at the first answer above: tiny also writes
# sums into its sentences.
#
# To write, take a token, add it to the text, and ask again. If we take the
# likeliest token each time, we write *greedily*. The end-of-text token stops the
# loop. This is all that `generate` does, except that it is faster:

# %%
def write(text, steps=60):
    ids = tokenizer(text)["input_ids"]
    start = len(ids)
    for _ in range(steps):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        token = logits.argmax().item()
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


assert write(QUESTION + "\n") == ask(QUESTION)
print("by hand and by the package: the same text")

# %% [markdown]
# ## How likely is a text?
#
# The lessons often ask the other way round: *given* a continuation, how likely
# does the model find it? Its tokens come one after the other, so we multiply
# their probabilities. A product of many small numbers soon becomes too small for
# a computer. So one adds logarithms instead. The sum is the *log-likelihood* of
# the tokens $y_1 \dots y_n$ after a text $x$:
#
# $$\log p(y \mid x) = \sum_{t=1}^{n} \log p(y_t \mid x, y_1 \dots y_{t-1})$$
#
# Read the bar $\mid$ as "after". The logarithm is the natural one, and its unit
# is called a *nat*. A log-likelihood is never above 0. At 0, the model would be
# certain of the text.

# %%
text, continuation = "Sam buys 8", " boxes of shells"
total = 0.0
for token in tokenizer(continuation)["input_ids"]:
    p = softmax(next_logits(text))[token].item()
    total += torch.tensor(p).log().item()
    piece = tokenizer.decode([token])
    print(f"{piece!r:10} p = {p:.4f}  log p = {torch.tensor(p).log():.4f}")
    text += piece
print(f"log-likelihood {total:.4f}, probability {2.718281828**total:.4f}")

# %% [markdown]
# Three tokens, three probabilities, one sum. The package computes it in one pass
# over the whole text, and all lessons use this one function. A label of -100
# says: this token is only read, and gets no score. `TokenForest` only packs the
# tokens for the model; its name makes sense in lesson 02. Another library,
# transformers, returns a `loss`: minus the log-likelihood, *averaged* over the
# scored tokens. So we multiply by minus their number:

# %%
from mathsft import TokenForest, sequence_logprobs

x = tokenizer("Sam buys 8")["input_ids"]
y = tokenizer(continuation)["input_ids"]
sequence = {"input_ids": x + y, "labels": [-100] * len(x) + y}
forest = TokenForest([sequence], share=False)
batch = forest.tensors(pad_token_id=tokenizer.pad_token_id)
ours = sequence_logprobs(model, batch).sum.item()

inputs = {k: torch.tensor([v]) for k, v in sequence.items()}
theirs = -len(y) * model(**inputs).loss.item()
print(f"by hand      {total:.4f}")
print(f"package      {ours:.4f}")
print(f"transformers {theirs:.4f}")
assert max(abs(ours - total), abs(theirs - total)) < 1e-4

# %% [markdown]
# **Predict.** What is more likely after "Sam buys 8": `" boxes"` or the longer
# `" boxes of shells"`? Do you need to run anything to know?
#
# <details>
# <summary>Answer</summary>
#
# The shorter one, and you need to run nothing. Each further token multiplies by
# a probability, which is at most 1. So a longer text never becomes more likely
# than its own beginning. Keep this in mind for lesson 02, which compares answers
# of different lengths.
#
# </details>
#
# ## LoRA: train a little beside the model
#
# Most of the weights are in *linear layers*. Each is a matrix $W$: the layer
# takes a list of numbers $x$ and returns $Wx$. To train a model is to change its
# matrices a little, many times. But for each number that it changes, a training
# run keeps several more in memory. [LoRA](https://arxiv.org/abs/2106.09685)
# leaves $W$ as it is and adds a product of two thin matrices:
#
# $$y = W x + \frac{\alpha}{r} \, B A x$$
#
# $A$ has $r$ rows, $B$ has $r$ columns, and only these two are trained. $r$ is
# the *rank*, and $\alpha / r$ a factor that we choose. The product $BA$ has the
# same shape as $W$, with far fewer numbers to train. $A$ starts with random
# numbers and $B$ with zeros. The pair is called an *adapter*.

# %%
out, into, r = 192, 512, 16  # one of tiny's layers, drawn to scale
ax = plt.figure(figsize=(6, 3)).gca()
plt.title(f"LoRA: {out} x {into} plus rank {r}, to scale")
boxes = (
    (0, 0, into, out, "#bbbbbb", "W, frozen"),
    (600, 0, r, out, "#2a78b8", "B"),
    (680, (out - r) / 2, into, r, "#d9822b", "A"),
)
for left, low, wide, high, colour, name in boxes:
    ax.add_patch(plt.Rectangle((left, low), wide, high, color=colour))
    ax.text(left + wide / 2, low + high + 9, name, ha="center")
ax.text(555, out / 2, "+", ha="center", va="center", size=18)
ax.set(xlim=(-10, 1210), ylim=(-20, 250), aspect="equal")
plt.axis("off")
show_figure(
    "A large grey box W, a plus sign, a thin upright box B and a thin flat"
    " box A: LoRA's two matrices are small beside the frozen one."
)


# %%
class LoRA(torch.nn.Module):
    def __init__(self, layer, r, alpha):
        super().__init__()
        self.layer, self.scale = layer, alpha / r
        out, into = layer.weight.shape
        self.A = torch.nn.Parameter(torch.randn(r, into) / into**0.5)
        self.B = torch.nn.Parameter(torch.zeros(out, r))

    def forward(self, x):
        change = x @ self.A.T @ self.B.T
        return self.layer(x) + self.scale * change


# %% [markdown]
# In the formula $x$ is a column. In PyTorch each token is a *row*, so the order
# is turned round: `x @ A.T @ B.T` is $BAx$.
#
# Next we put it into one place. `layers.1.mlp.down_proj` is the name of *one*
# matrix. The word *layer* is used for two things: tiny has four large layers
# (this is the second: they are counted from 0), and in each of them are several
# linear layers, such as `down_proj`.
#
# **Predict.** Put a new adapter into the model, without any training. How do
# the model's logits change?
#
# <details>
# <summary>Answer</summary>
#
# Not at all. $B$ is zero, so $BAx$ is zero. Training starts from exactly the
# model that we had. (If $A$ were zero too, nothing could ever change: each of
# them would get no direction to move in.)
#
# </details>

# %%
LAYER = "layers.1.mlp.down_proj"
plain = model.model.get_submodule(LAYER)
before = next_logits("Sam buys 8")

lora = LoRA(plain, r=4, alpha=8)
model.model.set_submodule(LAYER, lora)
change = (next_logits("Sam buys 8") - before).abs().max()
print("a new adapter changes the logits by", change.item())

# %% [markdown]
# ## Train it
#
# We show the model a hundred solved problems in a form that it has never seen,
# the course's own. For each problem: compute the *loss*, which is minus the
# log-likelihood per token of the solution; let PyTorch compute the *gradient*,
# the direction in which each number of A and B would raise the loss; and let the
# optimiser move them a little the other way. The *rate* says how far.

# %% tags=["nbval-check-output"]
from mathsft import load_problems, tokenize_problems

train = load_problems("tiny-gsm", split="train", limit=100)
test = load_problems("tiny-gsm", split="test", limit=40)
documents, _ = tokenize_problems(train, tokenizer, max_length=256)
held_out, _ = tokenize_problems(test, tokenizer, max_length=256)
print(tokenizer.decode(held_out[0]["input_ids"]))


# %%
def loss_of(document):
    inputs = {
        k: torch.tensor([document[k]]) for k in ("input_ids", "labels")
    }
    return model(**inputs).loss


def fit(lora, rate=0.01):
    optimiser = torch.optim.AdamW([lora.A, lora.B], lr=rate)
    for document in documents:
        loss_of(document).backward()
        optimiser.step()
        optimiser.zero_grad()


@torch.no_grad()
def per_token(documents):  # log-likelihood per token of each solution
    return torch.tensor([-loss_of(d).item() for d in documents])


# %% [markdown]
# **Predict.** The 40 problems of `held_out` are not among the hundred. Will
# their solutions become more likely too, or only those that were trained on?
#
# <details>
# <summary>Answer</summary>
#
# They become much more likely too, as the next cell shows. The hundred problems
# have in common *how* a solution is written, and that is what the adapter can
# learn from them. Always measure on texts that were not trained on: only they
# tell you what was learned, and what was just memorised.
#
# </details>

# %%
def told(name, values):
    half = 1.96 * values.std().item() / len(values) ** 0.5
    print(f"{name:8} {values.mean():.2f} ± {half:.2f} nats per token")


base = per_token(held_out)  # B is still zero: this is the base model
fit(lora)
tuned = per_token(held_out)
told("before", base)
told("after", tuned)
print("likelier:", (tuned > base).sum().item(), "of", len(base))

# %% [markdown]
# (± gives the 95 % interval of the mean. If you drew 40 such problems again and
# again, about 95 of 100 such intervals would contain the true mean. Later
# lessons use such intervals, too. They do not cover another random start of the
# adapter.) A hundred examples and one
# adapted layer of tiny's many changed this a lot. Did the answers change, too?

# %%
from mathsft import sft_prompt

question = test[0]["question"]
print(question, "\n")
print("with the adapter:   ", repr(write(sft_prompt(question))))
model.model.set_submodule(LAYER, plain)
print("without the adapter:", repr(write(sft_prompt(question))))

# %% [markdown]
# `sft_prompt` writes the question in the course's form. With the adapter, the
# model writes almost in the new form: one `#` is missing. But look at the
# number: a solution that is more likely is not yet a right answer. Lesson 01
# trains all layers, on more problems, and counts the right answers.
#
# ## The same with PEFT
#
# [PEFT](https://github.com/huggingface/peft) is the library that most people use
# for this. `LoraConfig` has the same names: `r`, `lora_alpha`, and which layers.
# We give it our A and B. The logits must be equal:

# %%
from peft import LoraConfig, get_peft_model

fresh, _ = load_model("tiny", dtype="float32", device="cpu")
config = LoraConfig(
    r=4, lora_alpha=8, target_modules=r".*layers\.1\.mlp\.down_proj"
)
peft_model = get_peft_model(fresh, config).eval()
state = {"lora_A": lora.A, "lora_B": lora.B}
for name, parameter in peft_model.named_parameters():
    for ours in state:
        if ours in name:
            parameter.data.copy_(state[ours])
trained, everything = peft_model.get_nb_trainable_parameters()
print(f"{trained:,} of {everything:,} numbers would be trained")

# %%
x = torch.tensor([held_out[0]["input_ids"]])
with torch.no_grad():
    theirs = peft_model(input_ids=x).logits
    without = model(input_ids=x).logits
    model.model.set_submodule(LAYER, lora)
    ours = model(input_ids=x).logits
    model.model.set_submodule(LAYER, plain)
apart, change = (ours - theirs).abs(), (ours - without).abs()
print(f"ours and PEFT's differ by at most {apart.max():.0e}")
print(f"the adapter changes logits by up to {change.max():.1f}")
torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## What does r = 16 mean?
#
# It depends on the model. A layer with `into` inputs and `out` outputs has
# `into * out` weights. Its adapter has only `r * (into + out)`. Lesson 01 adapts
# all linear layers of tiny with r = 16; on a GPU, the course uses Qwen2.5-0.5B,
# which has about half a billion weights. To count, we need its sizes only, from
# its published `config.json`, and none of its weights: on the device "meta"
# PyTorch makes a model without numbers.
#
# **Predict.** In which of the two models is the adapter the larger *share*?
#
# <details>
# <summary>Answer</summary>
#
# In tiny, by far. For a square layer of width $n$ the share is
# $2rn / n^2 = 2r/n$: the wider the layer, the smaller the share. Tiny's width is 192, and
# Qwen2.5-0.5B's is 896. So "r = 16" is a large change for a small model.
#
# </details>

# %%
from transformers import AutoModelForCausalLM, Qwen2Config


def count(config, r=16):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    layers = empty.model.layers.modules()
    linear = [m for m in layers if isinstance(m, torch.nn.Linear)]
    adapter = sum(r * sum(layer.weight.shape) for layer in linear)
    return sum(p.numel() for p in empty.parameters()), adapter


qwen = Qwen2Config(
    hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
    num_attention_heads=14, num_key_value_heads=2, vocab_size=151_936,
    tie_word_embeddings=True,
)  # fmt: skip

# %% tags=["nbval-check-output"]
from mathsft import add_adapter

print("model    weights      adapter    share")
for name, config in (("tiny", fresh.config), ("0.5B", qwen)):
    weights, adapter = count(config)
    share = adapter / weights
    print(f"{name:5} {weights:11,} {adapter:10,}   {share:5.1%}")

fresh, _ = load_model("tiny", dtype="float32", device="cpu")
adapted = add_adapter(fresh, r=16, lora_alpha=32)
trained, everything = adapted.get_nb_trainable_parameters()
print(f"PEFT: {trained:,} of {everything:,}: {trained / everything:.1%}")

# %% [markdown]
# The last line is PEFT's, for tiny. Its number of trained weights is ours. Its
# share is a little smaller because PEFT divides by all weights *including* the
# adapter: 11.2 % instead of 12.6 %.
#
# ## NF4: a weight in four bits
#
# [QLoRA](https://arxiv.org/abs/2305.14314) is a usual way to train on one small
# GPU. Half of it is LoRA, which you have just seen. The other half is to store
# the frozen matrices in less memory. A weight usually takes 32 or 16 bits. Four
# bits can name only $2^4$ values. So take a block of 64 weights, divide it by
# its largest absolute value $s$, and replace each result by the nearest of 16
# fixed levels $q_0 \dots q_{15}$:
#
# $$\hat w = s \, q_k, \qquad k = \arg\min_j \left| \frac{w}{s} - q_j \right|,
# \qquad s = \max_{\text{block}} |w|$$
#
# ($\arg\min_j$ is the $j$ for which the distance is smallest.)
# Only $k$ (four bits) is stored for each weight, and $s$ for each block.
#
# **Predict.** Should the levels have equal distances, or lie closer together
# somewhere?
#
# <details>
# <summary>Answer</summary>
#
# Closer together near 0, because most weights of a network are near 0, roughly
# in a bell curve (the normal distribution). QLoRA puts its levels at *quantiles*
# of it, which cut the area under the curve into about equal parts, so that each
# level is used about equally often. Hence the name, 4-bit NormalFloat. The
# price: larger errors for the few large weights.
#
# </details>

# %% tags=["nbval-check-output"]
quantile = torch.distributions.Normal(0.0, 1.0).icdf
END = 0.9677083  # the outermost quantile that the authors use
above = quantile(torch.linspace(END, 0.5, 9)[:-1])  # 8 positive levels
below = -quantile(torch.linspace(END, 0.5, 8)[:-1])  # 7 negative ones
levels = torch.cat([below, torch.zeros(1), above]).sort().values
levels = levels / levels.abs().max()


def to_nf4(weights):
    blocks = weights.reshape(-1, 64)
    s = blocks.abs().amax(dim=1, keepdim=True)
    k = ((blocks / s)[:, :, None] - levels).abs().argmin(dim=2)
    return (s * levels[k]).reshape(weights.shape), k


print(levels)

# %%
matrix = model.model.layers[0].self_attn.q_proj.weight
row = matrix[0]  # 192 weights: three blocks
rounded, k = to_nf4(row)
error = rounded - row
print(f"s of their block {row[:64].abs().max():.4f}")
print("three weights   ", row[:3])
print("their levels    ", k[0, :3])
print("what is restored", rounded[:3])
print(f"mean error {error.abs().mean():.4f}", end=", ")
print(f"mean weight {row.abs().mean():.4f} (absolute values)")

# %% [markdown]
# Follow the first of the three weights: divide it by $s$, take the nearest
# level, here number 4 (counted from 0), which is -0.2844, and multiply by $s$
# again. The next picture does this for the whole row.

# %%
s = row.reshape(-1, 64).abs().amax(dim=1).repeat_interleave(64)
figure, (top, low) = plt.subplots(2, sharex=True, figsize=(6, 4))
top.hist(row / s, bins=40, color="#bbbbbb")
for level in levels.tolist():
    for ax in (top, low):
        ax.axvline(level, color="#2a78b8", linewidth=0.8)
top.set_title("One row of weights, and NF4's 16 levels")
top.set_ylabel("weights")
low.scatter(row / s, error / s, s=9, color="#d9822b")
low.set_ylabel("error / s")
low.set_xlabel("weight / s (lines: the levels)")
show_figure(
    "Above, a histogram of 192 scaled weights, most of them near zero, and"
    " 16 vertical lines that are denser near zero. Below, the rounding"
    " error of each weight: a saw-tooth that is zero at each line and"
    " higher where the lines are far apart."
)

# %% [markdown]
# Each tooth of the saw is the way from one level to the next. The error is
# largest in the middle between two levels, and the wide gaps are outside, where
# few weights are.
#
# The library for this is
# [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes). With
# transformers, you load a whole model through it. Compare one whole matrix:

# %%
from bitsandbytes.functional import dequantize_4bit
from transformers import BitsAndBytesConfig

config = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=False, bnb_4bit_compute_dtype=torch.float32,
)  # fmt: skip
small = AutoModelForCausalLM.from_pretrained(
    model.name_or_path, quantization_config=config, dtype=torch.float32
)
stored = small.model.layers[0].self_attn.q_proj.weight
theirs = dequantize_4bit(stored.data, stored.quant_state).cpu()
ours, _ = to_nf4(matrix)
print(f"largest difference: {(ours - theirs).abs().max():.0e}")
torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

# %% [markdown]
# Equal, for all weights of the matrix. `bnb_4bit_use_double_quant=True`, which
# the later lessons use, also stores the scales $s$ in fewer bits (see exercise
# 2). And does the model still say the same?

# %%
inputs = {k: torch.tensor([v]) for k, v in sequence.items()}
on_device = {k: v.to(small.device) for k, v in inputs.items()}
with torch.no_grad():
    full = -len(y) * model(**inputs).loss.item()
    four = -len(y) * small(**on_device).loss.item()
print(f'log-likelihood of "{continuation}" after "Sam buys 8"')
print(f"32 bits {full:.4f}\n 4 bits {four:.4f}")

# %% [markdown]
# Close, and not equal. Four bits are a rounding of the model. If a number
# matters, compare models at the same precision.
#
# *Precision* is the number of bits. **QLoRA** is the two halves together: the
# matrices frozen in NF4, and LoRA adapters in full precision (16 or 32 bits)
# beside them. That is how lesson 01 trains.
#
# ## On a T4
#
# A T4 is a GPU that Colab often lends for free. This lesson needs no GPU: tiny
# runs on the CPU of the machine, on Colab too. Later lessons use a GPU if there
# is one. In Colab: Runtime → Change runtime type → T4 GPU. Time, peak memory and
# scores of this lesson on such a machine: not yet measured.
#
# If Colab says "out of memory", another notebook is probably still open:
# Runtime → Manage sessions, and end it. The later lessons say which setting to
# lower first.
#
# Try next:
# - `load_model("Qwen/Qwen2.5-0.5B")` in place of tiny (a download of about a
#   gigabyte), and ask it for the capital of France;
# - the bars after "17 * 6 = ", and after "17 * 6 = 1": where is tiny sure?
# - other levels in `to_nf4`, for example 16 equal steps from -1 to 1. Is the
#   mean error larger?
#
# ## Exercises
#
# Each exercise ends with a check. It says "not solved yet" until you solve it,
# and the rest of the notebook runs all the same. Solutions are in
# `notebooks/solutions/00_start.ipynb`.
#
# **1.** Write `my_log_likelihood(logits, ids)`: `logits` has one row for each
# token of `ids`, the row that predicts it. Return the log-likelihood of `ids`.

# %%
from mathsft import exercise


def my_log_likelihood(logits, ids):
    return 0.0


# %% tags=["exercise"]
with exercise(1):
    draw = torch.Generator().manual_seed(21)
    for size in (3, 7):
        logits = 4 * torch.randn(size, 50, generator=draw)
        ids = torch.randint(50, (size,), generator=draw).tolist()
        found = float(my_log_likelihood(logits, ids))
        loss = torch.nn.CrossEntropyLoss(reduction="sum")
        expected = -loss(logits, torch.tensor(ids)).item()
        assert abs(found - expected) < 1e-3, (
            f"{size} tokens: {found:.3f} instead of {expected:.3f}"
        )


# %% [markdown]
# **2.** How many bits does a weight take, its part of the scale included? Write
# `my_bits(block, second=None)`. Each `block` weights share a scale of 32 bits.
# With *double quantisation*, a scale takes only 8 bits, and each `second` scales
# share one more number of 32 bits.

# %%
def my_bits(block, second=None):
    return 4


# %% tags=["exercise"]
with exercise(2):
    for block, second in ((64, None), (64, 256), (128, None), (32, 512)):
        n = block * (second or 1)  # weights that share all their scales
        scales = 32 if second is None else 8 * second + 32
        expected = (4 * n + scales) / n
        found = my_bits(block, second)
        assert abs(found - expected) < 1e-9, (
            f"block={block}, second={second}: {found} is not right. Count"
            f" the bits of {n} weights and of their scales together"
        )

# %% [markdown]
# **3. Change.** The adapter below sits in another layer, has rank 1, and trains
# for a few seconds. It gains less than 1 nat per token on new problems. Change
# *one* thing so that it gains more than 2: the rank, the rate, or the layer (a
# layer has `self_attn.q_proj`, `self_attn.o_proj`, `mlp.up_proj`,
# `mlp.down_proj` and others; layers are 0 to 3). Predict first which one
# matters. Not every change helps.

# %% tags=["change"]
from contextlib import redirect_stdout
from io import StringIO

torch.manual_seed(SEED)
my_layer, my_rank, my_rate = "layers.0.self_attn.q_proj", 1, 0.01

my_plain = model.model.get_submodule(my_layer)
my_lora = LoRA(my_plain, r=my_rank, alpha=2 * my_rank)
model.model.set_submodule(my_layer, my_lora)
fit(my_lora, rate=my_rate)
told("before", base)
told("after", per_token(held_out))
model.model.set_submodule(my_layer, my_plain)

# %% tags=["exercise"]
with exercise(3):
    with redirect_stdout(StringIO()):
        rows = load_problems("tiny-gsm", split="test", limit=20, seed=5)
    unseen, _ = tokenize_problems(rows, tokenizer, max_length=256)
    model.model.set_submodule(my_layer, my_plain)
    untrained = per_token(unseen).mean()
    model.model.set_submodule(my_layer, my_lora)
    gain = (per_token(unseen).mean() - untrained).item()
    model.model.set_submodule(my_layer, my_plain)
    assert gain > 2, f"new problems gain {gain:.2f} nats per token"
    assert my_lora.layer is my_plain, "the layer itself must stay frozen"

# %% [markdown]
# Then go on with
# [lesson 01](https://github.com/mathsft/mathsft/blob/main/notebooks/01_sft.ipynb):
# it fine-tunes this model on a thousand worked solutions.
