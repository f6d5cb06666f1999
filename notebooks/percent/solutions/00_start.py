# %% [markdown]
# # 00 · Solutions
#
# The solutions of the exercises of lesson 00. The first cells repeat what they
# need from the lesson.

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
from mathsft import quiet

quiet()

# %%
import torch

from mathsft import exercise, load_model, load_problems, tokenize_problems

SEED = 0
model, tokenizer = load_model("tiny", dtype="float32", device="cpu")
model.requires_grad_(False)
train = load_problems("tiny-gsm", split="train", limit=100)
test = load_problems("tiny-gsm", split="test", limit=40)
documents, _ = tokenize_problems(train, tokenizer, max_length=256)
held_out, _ = tokenize_problems(test, tokenizer, max_length=256)


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


# %%
def told(name, values):
    half = 1.96 * values.std().item() / len(values) ** 0.5
    print(f"{name:8} {values.mean():.2f} ± {half:.2f} nats per token")


base = per_token(held_out)


# %% [markdown]
# **1.** The logarithm of the softmax, and of each row the token that came.

# %%
def my_log_likelihood(logits, ids):
    shifted = logits - logits.max(dim=1, keepdim=True).values
    logs = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    return sum(logs[t, token].item() for t, token in enumerate(ids))


# %% tags=["exercise", "nbval-check-output"]
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
# **2.** Each weight pays for a part of its scale. With blocks of 64 and 256 this
# is QLoRA's choice: double quantisation brings 4.5 bits down to 4.127.

# %%
def my_bits(block, second=None):
    if second is None:
        return 4 + 32 / block
    return 4 + 8 / block + 32 / (block * second)


print(my_bits(64), f"{my_bits(64, 256):.3f}")

# %% tags=["exercise", "nbval-check-output"]
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
# **3.** Here the place matters: the same rank 1 and the same rate, in the last
# layer's `down_proj`. The first cell shows what rank 16 does in the old place.
# One run each, so take it as a hint and not as a law.

# %%
torch.manual_seed(SEED)
my_layer, my_rank, my_rate = "layers.0.self_attn.q_proj", 16, 0.01

my_plain = model.model.get_submodule(my_layer)
my_lora = LoRA(my_plain, r=my_rank, alpha=2 * my_rank)
model.model.set_submodule(my_layer, my_lora)
fit(my_lora, rate=my_rate)
told("before", base)
told("after", per_token(held_out))
model.model.set_submodule(my_layer, my_plain)

# %% tags=["change"]
from contextlib import redirect_stdout
from io import StringIO

torch.manual_seed(SEED)
my_layer, my_rank, my_rate = "layers.3.mlp.down_proj", 1, 0.01

my_plain = model.model.get_submodule(my_layer)
my_lora = LoRA(my_plain, r=my_rank, alpha=2 * my_rank)
model.model.set_submodule(my_layer, my_lora)
fit(my_lora, rate=my_rate)
told("before", base)
told("after", per_token(held_out))
model.model.set_submodule(my_layer, my_plain)

# %% tags=["exercise", "nbval-check-output"]
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
