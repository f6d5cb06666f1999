"""A model card: what a model is, made of what, how it was trained, and what it scores.

The card is the README.md of the model's folder. huggingface_hub writes its front matter (Mitchell
et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mathsft.evaluation.compare import Comparison, compare_some
from mathsft.evaluation.result import Result
from mathsft.files import read_json, read_text, write_whole
from mathsft.models.adapter_files import read_config
from mathsft.models.model_files import TINY, holds_adapter, holds_model, refuse_mixed
from mathsft.recipes import load_recipe
from mathsft.record import CONFIG, ENVIRONMENT
from mathsft.sharing.card_parts import (
    data_lines,
    licence_lines,
    loading_lines,
    local_file,
    scores_lines,
    settings_lines,
    versions_lines,
    what_lines,
)

CARD = "README.md"
_OURS = "<!-- written by mathsft.write_model_card -->"
_TEMPLATE = "[More Information Needed]"  # of the card that peft puts beside an adapter


def write_model_card(
    folder: str | Path,
    *,
    results: Sequence[Result] = (),
    base: Sequence[Result] | Result = (),
    run: str | Path | None = None,
    name: str | None = None,
    license: str | None = None,
    notes: str = "",
) -> Path:
    """Write the card of an adapter or of a merged model, ``folder/README.md``.

    Args:
        folder: an adapter's or a model's folder.
        results: this model's results, from `evaluate` or `worked_result`.
        base: results of the base model on the same tasks. Each of ``results`` is compared with
            that of its task, question by question.
        run: the folder of the training run, whose record gives data, settings and versions;
            default: the folder that holds ``folder``, if a run is recorded there.
        name: the model's name; default: the run's, else the folder's.
        license: the licence's name on the hub, such as "apache-2.0". Default: the card says that
            none is chosen, which is for you to do: the base's and the data's licences matter.
        notes: a text of your own, such as what the model is for and what it must not be used for.

    Paths of this machine are shortened to their last part. The card that peft writes is replaced,
    and so is an earlier one of this function.

    Raises:
        ValueError: the folder holds no adapter and no model; its README.md is somebody's own text;
            a result is of other questions than its base, or equals it.
        FileNotFoundError: ``run`` has no record.
    """
    folder = Path(folder)
    refuse_mixed(folder)
    if not (holds_adapter(folder) or holds_model(folder)):
        raise ValueError(f"{folder} holds no adapter and no model: give the folder of one")
    if (folder / CARD).exists() and not written_by_program(folder):
        raise ValueError(f"{folder / CARD} is your own text: move it away, or keep it as the card")
    recipe, record = _recorded(folder, run)
    given = [base] if isinstance(base, Result) else list(base)
    compared = _compared(results, given)
    title = name or (folder.parent.name if folder.name in ("adapter", "model") else folder.name)
    source, known = _base(folder, recipe)
    data = _front_matter(title, folder, source if known else None, recipe, results, license)
    text = "\n".join(
        [
            f"---\n{data.to_yaml().strip()}\n---\n\n{_OURS}\n\n# {title}\n",
            *what_lines(folder, source, record),
            *([notes.strip(), ""] if notes.strip() else []),
            *data_lines(recipe, record),
            *settings_lines(recipe, record),
            *scores_lines(results, given, compared),
            *loading_lines(folder, source),
            *versions_lines(record, results),
            *licence_lines(license),
        ]
    )
    ModelCard(text)  # raises if the front matter cannot be read
    return write_whole(folder / CARD, text)


def written_by_program(folder: Path) -> bool:
    """Whether the folder's README.md is ours or peft's, so that nothing of a person is lost."""
    text = read_text(folder / CARD)
    return _OURS in text or _TEMPLATE in text


def has_card(folder: Path) -> bool:
    """Whether the folder has a README.md that says something: peft's own does not."""
    path = folder / CARD
    return path.exists() and bool(text := read_text(path).strip()) and _TEMPLATE not in text


def _recorded(folder: Path, run: str | Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's recipe and environment; empty ones if no run is recorded."""
    place = folder.resolve().parent if run is None else Path(run)
    if not (place / CONFIG).is_file() or not (place / ENVIRONMENT).is_file():
        if run is not None:
            raise FileNotFoundError(f"{run} has no {CONFIG} and {ENVIRONMENT}: it holds no run")
        return {}, {}
    record = read_json(place / ENVIRONMENT)
    state = place / "trainer_state.json"
    steps = read_json(state)["global_step"] if state.is_file() else None
    return load_recipe(place), {**record, "steps": steps}


def _base(folder: Path, recipe: Mapping[str, Any]) -> tuple[str, bool]:
    """What the base is called, and whether that is a name on the hub."""
    found = recipe.get("model", {}).get("name")
    if holds_adapter(folder):
        found = found or read_config(folder).base_model_name_or_path
    if not found:
        return "", False
    path = Path(str(found))
    if str(found) == "tiny" or path.parts[-3:] == TINY.parts[-3:]:
        return "tiny", False
    if path.is_absolute() or path.exists():
        return path.name, False
    return str(found), str(found).count("/") == 1


def _compared(results: Sequence[Result], base: Sequence[Result]) -> list[Comparison]:
    """Each result against the base's of its task; p is corrected among those of one task."""
    found: list[Comparison] = []
    for first in base:
        ours = [one for one in results if one.task == first.task]
        some, refused = compare_some([first, *ours], base=first)
        if refused:
            raise ValueError(refused[0])
        found += some
    return found


def _front_matter(
    title: str,
    folder: Path,
    base: str | None,
    recipe: Mapping[str, Any],
    results: Sequence[Result],
    license: str | None,
) -> ModelCardData:
    sources = [recipe.get(name, {}).get("source") for name in ("train", "choices_train")]
    hub = [str(one) for one in sources if one and str(one).count("/") == 1 and not local_file(one)]
    scores = [
        EvalResult(
            task_type="text-generation", dataset_type=one.task, dataset_name=one.task,
            metric_type="accuracy", metric_value=round(one.mean().accuracy, 4),
            metric_name=f"{one.metric}, n = {len(one.questions)}",
        )
        for one in results
    ]  # fmt: skip
    return ModelCardData(
        base_model=base,
        datasets=hub or None,
        eval_results=scores or None,
        library_name="peft" if holds_adapter(folder) else "transformers",
        license=license,
        model_name=title,
        pipeline_tag="text-generation",
        tags=["mathsft", *(["lora"] if holds_adapter(folder) else [])],
    )
