"""What this machine can do, and the reason for each choice.

Every choice is made from the CUDA compute capability, a pair such as (7, 5). It is never
made from `torch.cuda.is_bf16_supported()`, which counts emulation and so says True on a T4.
"""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mathsft.checks import unknown_name

if TYPE_CHECKING:
    import torch

Capability = tuple[int, int]
BF16_FROM: Capability = (8, 0)  # Ampere; the first cards that multiply bfloat16 in hardware
PROFILES = ("tiny", "t4", "a100")  # the recipes that the lessons use
_PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "lm_eval"
)  # fmt: skip


@dataclass(frozen=True)
class DeviceDefaults:
    """The choices for one device; `reasons[field]` says why each was made.

    `fp16`, `bf16`, `use_cpu` and `optim` are `transformers.TrainingArguments` of the same name.
    `dtype` is both the dtype of the weights and the compute dtype of 4-bit layers.
    `quantisation` is the advice for this device ("nf4" or None); every device can quantise.
    """

    device: str
    capability: Capability | None
    dtype: torch.dtype
    attn_implementation: str
    quantisation: str | None
    optim: str
    fp16: bool
    bf16: bool
    use_cpu: bool
    reasons: dict[str, str] = field(repr=False)

    def trainer_arguments(self) -> dict[str, Any]:
        """The choices that are keyword arguments of `TrainingArguments`."""
        return {
            "fp16": self.fp16,
            "bf16": self.bf16,
            "use_cpu": self.use_cpu,
            "optim": self.optim,
        }


_MASKED_SDPA = (
    "sdpa: with the dense mask of packed rows it takes the memory-efficient kernel; the flash "
    "kernel takes no mask"
)
_CPU_REASONS = {
    "dtype": "float32: the precision that the others are compared with",
    "attn_implementation": "sdpa: the fused kernel that takes any boolean mask, also on a CPU",
    "quantisation": "none by default: NF4 is there to save memory; quantize=True works here too",
    "optim": "adamw_torch: the plain one, which the others are compared with",
    "mixed_precision": "fp16 and bf16 off: everything is float32 already",
}
_FUSED = "adamw_torch_fused: one kernel updates many weights, and no state is rounded to 8 bits"
_EIGHT_BITS = (
    "adamw_bnb_8bit: the states of all weights take a quarter of the memory. (bitsandbytes never "
    "returns the memory of its paged optimisers)"
)
_T4_REASONS = {
    "dtype": "float16: computed in hardware here; below 8.0 bfloat16 is emulated",
    "attn_implementation": _MASKED_SDPA,
    "quantisation": "nf4: a quarter of the weight memory leaves the 15 GB of a T4 to activations",
    "mixed_precision": "fp16=True: float16 gradients underflow unless GradScaler scales the loss",
}
_AMPERE_REASONS = {
    "dtype": "bfloat16: computed in hardware from 8.0 on, with the range of float32",
    "attn_implementation": _MASKED_SDPA,
    "quantisation": "none by default: a small model fits in bfloat16 without it; quantize=True "
    "works here too",
    "mixed_precision": "bf16=True: the range of float32, so no loss scaling is needed",
}


def device_defaults(
    capability: Capability | Literal["auto"] | None = "auto", *, adapter: bool = True
) -> DeviceDefaults:
    """The choices for a device.

    Args:
        capability: its CUDA compute capability, such as ``(7, 5)``. "auto" asks the current
            machine; None means no CUDA device, that is, a CPU. An Apple GPU counts as a CPU:
            `reasons["device"]` then says why.
        adapter: whether an adapter is trained, or all weights: this decides the optimiser. An
            adapter's states are small (70 MB for Qwen2.5-0.5B and r = 16), so they stay in float32
            and the fused AdamW updates them. The states of all weights take 4 GB then, too
            much for a T4, which keeps them in 8 bits.
    """
    import torch

    if capability == "auto":
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    if capability is None:
        return DeviceDefaults(
            device="cpu",
            capability=None,
            dtype=torch.float32,
            attn_implementation="sdpa",
            quantisation=None,
            optim="adamw_torch",
            fp16=False,
            bf16=False,
            use_cpu=True,
            reasons={"device": _why_cpu(), **_CPU_REASONS},
        )
    ampere = tuple(capability) >= BF16_FROM
    found = f"a CUDA device of compute capability {capability[0]}.{capability[1]}"
    optim = _FUSED if ampere or adapter else _EIGHT_BITS
    return DeviceDefaults(
        device="cuda",
        capability=(capability[0], capability[1]),
        dtype=torch.bfloat16 if ampere else torch.float16,
        attn_implementation="sdpa",
        quantisation=None if ampere else "nf4",
        optim=optim.partition(":")[0],
        fp16=not ampere,
        bf16=ampere,
        use_cpu=False,
        reasons={
            "device": found,
            "optim": optim,
            **(_AMPERE_REASONS if ampere else _T4_REASONS),
        },
    )


def _why_cpu() -> str:
    import torch

    if torch.backends.mps.is_available():
        return (
            "an Apple GPU (MPS) is here but not used: none of our numbers were checked on it; "
            "load_model(device='mps') uses it, in float32"
        )
    return "no CUDA device was found"


def default_profile() -> str:
    """Return "tiny" without CUDA, "t4" below capability 8.0, "a100" from there on.

    The environment variable ``MATHSFT_PROFILE`` overrides this: it holds one of these names, or
    the path of a recipe file (``.yaml``). Raises ValueError for a profile that does not exist.
    """
    chosen = os.environ.get("MATHSFT_PROFILE", "").strip()
    if chosen:
        if chosen.endswith(".yaml"):
            if not Path(chosen).is_file():
                raise ValueError(f"MATHSFT_PROFILE: there is no file {chosen} (from {Path.cwd()})")
        elif chosen not in PROFILES:
            raise ValueError(f"MATHSFT_PROFILE: {unknown_name('profile', chosen, PROFILES)}")
        return chosen
    capability = device_defaults().capability
    if capability is None:
        return "tiny"
    return "a100" if capability >= BF16_FROM else "t4"


def describe() -> None:
    """Print `description()`: for the first cell of a notebook."""
    print(description())


def description() -> str:
    """One short block: device, precision and why, free memory in GB (1e9 bytes), versions.

    Lines have at most 79 characters. Works when packages are missing, and shows no environment
    variable but the profile's name.
    """
    versions = ", ".join(f"{name} {installed_version(name)}" for name in _PACKAGES)
    tail = f"packages   Python {sys.version.split()[0]}, {versions}"
    try:
        choice = device_defaults()
    except ImportError:
        return _narrow(["device     unknown: PyTorch is not installed", tail])
    dtype = str(choice.dtype).removeprefix("torch.")
    lines = [
        f"device     {_device_name(choice)} ({choice.reasons['device']})",
        f"memory     {_free_memory(choice)}",
        f"profile    {default_profile()}",
        f"dtype      {dtype} ({choice.reasons['dtype']})",
        f"attention  {choice.attn_implementation}",
        f"quantise   {choice.quantisation or 'no'} ({choice.reasons['quantisation']})",
        f"optimiser  {choice.optim} ({choice.reasons['optim'].partition(': ')[2]})",
        tail,
    ]
    return _narrow(lines)


def _narrow(lines: list[str]) -> str:
    return "\n".join(textwrap.fill(line, 79, subsequent_indent=" " * 11) for line in lines)


def hardware() -> str:
    """The hardware in words: the GPU's name, or the CPU with its number of threads."""
    return _device_name(device_defaults())


def _device_name(choice: DeviceDefaults) -> str:
    import torch

    if choice.device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def _free_memory(choice: DeviceDefaults) -> str:
    import torch

    if choice.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB on the GPU"
    try:
        import psutil
    except ImportError:
        return "unknown (psutil is not installed)"
    memory = psutil.virtual_memory()
    return f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"


def installed_version(package: str) -> str:
    """The version of an installed package, or "(not installed)"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
