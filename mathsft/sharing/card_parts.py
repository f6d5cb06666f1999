"""The parts of a model card, as lines of Markdown (`mathsft.sharing.model_card`)."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mathsft.evaluation.compare import Comparison
from mathsft.evaluation.result import Result
from mathsft.models.model_files import holds_adapter

DATA = ("train", "choices_train", "mix", "add_choices", "test", "choices")


def what_lines(folder: Path, base: str, record: Mapping[str, Any]) -> list[str]:
    """What the folder holds, and the hashes of its weights."""
    kind = "A LoRA adapter" if holds_adapter(folder) else "A whole model"
    named = f"`{base}`" + (", the model embedded in mathsft" if base == "tiny" else "")
    of = f"trained from {named}" if base else "whose base is not recorded"
    how = f" by `mathsft {record['command']}`" if record else ""
    files = ", ".join(
        f"`{path.name}` {sha256(path.read_bytes()).hexdigest()[:16]}"
        for path in sorted(folder.glob("*.safetensors"))
    )
    return [f"{kind}, {of}{how}.", "", f"Weights (the start of their SHA-256): {files}", ""]


def data_lines(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """The sections of the recipe that name data; the number and the hash of the rows."""
    lines = ["## Data", ""]
    if not recipe:
        return [*lines, "Not recorded: the model was not trained by a recipe.", ""]
    for name in DATA:
        if name in recipe:
            told = ", ".join(f"{key} {_public(value)}" for key, value in recipe[name].items())
            lines.append(f"- {name}: {told}")
            if path := local_file(recipe[name].get("source")):
                lines[-1] += f" (file, SHA-256 {sha256(path.read_bytes()).hexdigest()})"
    resolved = record["resolved"]
    lines.append(
        f"- {resolved['training_rows']:,} rows were trained; SHA-256 of their tokens: "
        f"{resolved['training_rows_sha256']}"
    )
    return [*lines, ""]


def settings_lines(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """A table of the run's settings, and of what the device decided."""
    lines = ["## Training", ""]
    if not recipe:
        return [*lines, "The settings are not recorded.", ""]
    lines += ["| setting | value |", "|---|---|", f"| optimiser steps | {record['steps']} |"]
    for section, keys in recipe.items():
        if section not in DATA:
            lines += [
                f"| {section}.{key} | {_public(value)} |"
                for key, value in keys.items()
                if value is not None and key != "output_dir"
            ]
    for key in ("dtype", "attn_implementation", "optim", "bf16", "fp16"):
        lines.append(f"| {key} | {record['resolved'].get(key)} |")
    for key in ("seed", "processes", "hardware", "date"):
        lines.append(f"| {key} | {record.get(key)} |")
    return [*lines, ""]


def scores_lines(
    results: Sequence[Result], base: Sequence[Result], compared: Sequence[Comparison]
) -> list[str]:
    """Each score with its interval, and each comparison with the base."""
    lines = ["## Scores", ""]
    if not results:
        return [*lines, "Not evaluated.", ""]
    lines += ["| task | model | score, 95 % interval | n |", "|---|---|---|---|"]
    for one in [*base, *results]:
        found = one.mean()
        shown = f"{found.accuracy:.1%} [{found.low:.1%}, {found.high:.1%}]"
        lines.append(f"| {one.task} ({one.metric}) | {one.name} | {shown} | {found.n:,} |")
    lines.append("")
    for pair in compared:
        verdict = "" if pair.p_holm < 0.05 else ": no difference shows"
        lines.append(f"- {pair}; p (Holm) = {pair.p_holm:.2g}{verdict}")
    if not compared:
        lines.append("Not compared with its base.")
    return [*lines, ""]


def loading_lines(folder: Path, base: str) -> list[str]:
    """How to load it."""
    lines = ["## How to load it", "", "```python"]
    if holds_adapter(folder):
        lines += [
            "from mathsft import load_adapter, load_model",
            "",
            f"model, tokenizer = load_model({base or 'BASE'!r})",
            'model = load_adapter(model, "THIS_FOLDER_OR_REPOSITORY")',
        ]
    else:
        lines += [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER_OR_REPOSITORY")',
            'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER_OR_REPOSITORY")',
        ]
    return [*lines, "```", "", "In a terminal: `mathsft chat THIS_FOLDER`.", ""]


def versions_lines(record: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """The versions of the training, and of the evaluation."""
    known = {**(results[0].versions if results else {}), **record.get("versions", {})}
    told = ", ".join(f"{name} {version}" for name, version in known.items() if version)
    python = f"Python {record['python']}, " if record.get("python") else ""
    return ["## Versions", "", f"{python}{told or 'not recorded'}", ""]


def licence_lines(license: str | None) -> list[str]:
    """The licence, or whose it is to choose one."""
    open_ = (
        "Not chosen yet. The base model's licence and those of the data say what is allowed; then "
        "`write_model_card(folder, license=…)` puts it here."
    )
    return ["## Licence", "", license or open_, ""]


def local_file(source: Any) -> Path | None:
    """The file that a source names; None for a data set."""
    path = Path(str(source)).expanduser() if source else None
    return path if path is not None and path.is_file() else None


def _public(value: Any) -> Any:
    """A setting for a table, without the folders of this machine."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_public(key)}: {_public(one)}" for key, one in value.items())
    if isinstance(value, str | Path) and Path(value).is_absolute():
        return Path(value).name
    return str(value).replace("|", "\\|").replace("\n", " ")
