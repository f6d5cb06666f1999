"""The machines of `scaling.py`, and how long a training run takes on them.

Times are between two estimates. No card but an H100 was timed, with Qwen2.5-0.5B and before the
decoder layers were compiled:

- A pass took at least 0.12 s, and up to 0.18 s (0.26 s with 4-bit weights), whatever its size,
  because the host launches the kernels of 24 layers one by one.
- The largest batch, 16 rows of 512, reached 44,800 tokens a second: 9 % of the card's data sheet.

The shorter estimate takes the shorter launch time, or the card's full rate if that takes longer.
The longer one takes the longer launch time, or the rate's measured share if that takes longer.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from scaling_costs import config_of, one_pass, prices

LAUNCHES, LAYERS = (0.12, 0.18), 24  # seconds for a pass of so many layers
QUANTIZED = 0.26  # seconds at most with 4-bit weights, which are unpacked again in each pass
TOKENS = 44_800  # a second: LoRA in bfloat16, 16 rows of 512
H100 = 989e12  # operations a second of dense half-precision products, by its data sheet


@dataclass(frozen=True)
class Machine:
    """Cards of one kind, and the ways to train on them, the best first."""

    recipe: str  # its batches are used
    device: str  # its name in `estimate_memory`
    room: float  # GB of one card that a training run can use, as in `estimate_memory`
    peak: float  # operations a second of one card: half-precision products, by its data sheet
    cards: int
    ways: dict[str, dict[str, Any]]

    def hours(self, size: str, flops: float, passes: float, *, quantize: bool) -> list[float]:
        """The shorter and the longer estimate. ``passes``: batches of all cards together."""
        slowest = QUANTIZED if quantize else LAUNCHES[1]
        deep = config_of(size).num_hidden_layers / LAYERS
        bounds = [(LAUNCHES[0], 1.0), (slowest, measured_share())]
        return [
            max(launch * deep * passes, flops / (self.peak * share)) / self.cards / 3600
            for launch, share in bounds
        ]


@cache
def measured_share() -> float:
    """What the largest measured batch reached of the H100's data sheet, by counted operations."""
    work = one_pass("gsm8k", None, 16, 512)
    a_token = prices("0.5B", lora=True, checkpointing=False).of(work) / work.tokens
    return TOKENS * a_token / H100


_ONE = {"LoRA": {}, "QLoRA": {"quantize": True}, "full": {}}
_EIGHT = {
    "LoRA, DDP": {}, "LoRA, FSDP2": {"shards": 8}, "full, DDP": {}, "full, FSDP2": {"shards": 8},
}  # fmt: skip
MACHINES = {
    "T4": Machine("t4", "t4", 15, 65e12, 1, {way: _ONE[way] for way in ("QLoRA", "full")}),
    "A100": Machine("a100", "a100-80gb", 84, 312e12, 1, _ONE),
    "8 × A100": Machine("a100", "a100-80gb", 84, 312e12, 8, _EIGHT),
}
