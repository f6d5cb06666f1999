"""Each objective over answers is trained by a YAML file, an option, or both, and recorded."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_lines import mathsft_

pytestmark = pytest.mark.usefixtures("runs")  # run folders are in a temporary folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Eight pairs, two to each prompt."""
    lines = [
        {"prompt": f"{n // 2} + 1 =", "chosen": f" {n // 2 + 1}", "rejected": f" {n + 5}"}
        for n in range(8)
    ]
    return written(tmp_path / "pairs.jsonl", lines)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Eight answers, four of them good."""
    lines = [
        {"prompt": f"{n} + 1 =", "completion": f" {n + 1 + n % 2}", "label": n % 2 == 0}
        for n in range(8)
    ]
    return written(tmp_path / "labelled.jsonl", lines)


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(folder: Path, objective: str, source: Path, **settings: Any) -> Path:
    """A YAML file that trains the tiny model for two steps."""
    path = folder / "mine.yaml"
    steps = {"max_steps": 2, "logging_steps": 1}
    sections = {
        "model": {"name": "tiny"},
        "train": {"source": str(source)},
        objective: {**settings, **steps},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def train(objective: str, *arguments: object) -> None:
    mathsft_("train", "--objective", objective, *arguments)


def recorded(run: Path, objective: str) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())[objective]


def logged(run: Path) -> list[dict[str, float]]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [line for line in history if "loss" in line]


LN2 = math.log(2)
# The loss of a model that is its own reference: z = 0. None: it depends on the model.
METHODS: list[tuple[str, dict[str, Any], float | None]] = [
    ("dpo", {}, LN2),
    ("dpo", {"loss_type": "sigmoid", "label_smoothing": 0.2}, LN2),
    ("dpo", {"loss_type": "robust", "label_smoothing": 0.2}, LN2),
    ("dpo", {"loss_type": "ipo", "beta": 0.5}, 1.0),
    ("dpo", {"loss_type": "hinge"}, 1.0),
    ("dpo", {"sft_weight": 0.5}, None),
    ("dpo", {"reference_free": True}, None),
    ("dpo", {"group_by_prompt": False}, LN2),
    ("cpo", {"cpo_alpha": 0.5, "loss_type": "hinge"}, None),
    ("simpo", {"beta": 2.5, "simpo_gamma": 1.0}, None),
    ("orpo", {"beta": 0.2}, None),
    ("smpo", {"lower_clip_percentile": None, "upper_clip_percentile": 0.98}, None),
]
METRICS = {
    "dpo": set(),
    "cpo": {"nll_loss"},
    "simpo": set(),
    "orpo": {"nll_loss", "log_odds_ratio"},
    "smpo": {"nll_loss", "margin"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "settings", "loss"), METHODS, ids=str)
def test_a_yaml_file_trains_each_objective_over_pairs(
    runs: Path, tmp_path: Path, pairs: Path, objective: str, settings: Any, loss: float | None
) -> None:
    train(objective, "--config", recipe(tmp_path, objective, pairs, **settings))
    run = runs / f"{objective}-1"
    assert settings.items() <= recorded(run, objective).items()
    first, second = logged(run)
    assert all(map(math.isfinite, (first["loss"], second["loss"])))
    assert loss is None or first["loss"] == pytest.approx(loss, abs=1e-3)
    wanted = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}
    assert wanted | METRICS[objective] <= first.keys()
    assert (run / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("paired", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_yaml_file_trains_kto_on_labelled_answers_and_on_pairs(
    runs: Path, tmp_path: Path, pairs: Path, labelled: Path, paired: bool
) -> None:
    settings = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    file = recipe(tmp_path, "kto", pairs if paired else labelled, **settings)
    train("kto", "--config", file)
    assert settings.items() <= recorded(runs / "kto-1", "kto").items()
    first, _ = logged(runs / "kto-1")
    assert first["loss"] == pytest.approx(0.5, abs=1e-3)  # (1.5 + 0.5) / 2 answers, times 1/2
    assert first["kl"] == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["--loss_type", "--dpo.loss_type"])
def test_an_option_wins_over_the_file_under_its_short_and_its_long_name(
    runs: Path, tmp_path: Path, pairs: Path, name: str
) -> None:
    file = recipe(tmp_path, "dpo", pairs, loss_type="hinge", beta=0.2)
    train("dpo", "--config", file, name, "ipo", "--sft_weight", "0.5")
    found = recorded(runs / "dpo-1", "dpo")
    assert {"loss_type": "ipo", "beta": 0.2, "sft_weight": 0.5}.items() <= found.items()
    train("dpo", "--config", runs / "dpo-1" / "config.yaml")
    assert logged(runs / "dpo-2") == [
        {**line, "tokens_per_second": again["tokens_per_second"]}
        for line, again in zip(logged(runs / "dpo-1"), logged(runs / "dpo-2"), strict=True)
    ]


OPTIONS = {
    "dpo": {
        "beta": 0.3, "loss_type": "robust", "label_smoothing": 0.1, "sft_weight": 1.0,
        "reference_free": True, "group_by_prompt": False,
    },
    "cpo": {"beta": 0.3, "loss_type": "sigmoid", "cpo_alpha": 0.0, "label_smoothing": 0.1},
    "simpo": {"beta": 2.5, "simpo_gamma": 1.2, "cpo_alpha": 0.5},
    "orpo": {"beta": 0.3, "group_by_prompt": False},
    "smpo": {
        "beta": 1.0, "loss_type": "ipo", "chosen_sft_ratio": 0.5, "target_margin": 0.1,
        "final_margin": 0.2, "min_log_prob": -3.0, "lower_clip_percentile": None,
        "upper_clip_percentile": 0.9,
    },
    "kto": {"beta": 0.3, "desirable_weight": 2.0, "undesirable_weight": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("objective", OPTIONS)
def test_each_setting_is_an_option(
    pairs: Path, capsys: pytest.CaptureFixture[str], objective: str
) -> None:
    given = [
        part
        for name, value in OPTIONS[objective].items()
        for part in (f"--{name}", json.dumps(value).strip('"'))
    ]
    with pytest.raises(SystemExit):
        train(objective, "--config", "tiny", "--train.source", pairs, *given, "--print_config")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert OPTIONS[objective].items() <= shown[objective].items()


def test_an_objective_s_help_shows_its_settings_and_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        train("simpo", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("simpo_gamma", "0.5 to 1.6 in the paper", "cpo_alpha", "above 0 it is CPO-SimPO"):
        assert text in shown


@pytest.mark.usefixtures("no_weights")
def test_check_shows_a_pair_s_two_answers_and_only_them(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("dpo", "--config", "tiny", "--train.source", pairs, "--check")
    shown = capsys.readouterr().out
    assert "pairs of one prompt together in 4 rows" in shown
    assert shown.split("\nrow 1, ")[1].split("\n\n")[0].splitlines() == [
        "2 answers",
        "0| +| |1| =⟦ ⟧⟦1⟧⟦<|endoftext|>⟧",
        "… ⟦5⟧⟦<|endoftext|>⟧",
    ]


@pytest.mark.usefixtures("no_weights")
def test_check_shows_a_labelled_answer_and_one_of_another_prompt(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("kto", "--config", "tiny", "--train.source", labelled, "--check")
    shown = capsys.readouterr().out
    assert "train: 8 rows with 16 answers" in shown
    assert shown.split("\nrow 2, ")[1].split("\n\n")[0].splitlines() == [
        "2 answers, desirable [False]",
        "1| +| |1| =⟦ ⟧⟦3⟧⟦<|endoftext|>⟧",
        "… ⟦1⟧⟦<|endoftext|>⟧",  # that of row 1
    ]


def said(capsys: pytest.CaptureFixture[str], run: Callable[[], None]) -> str:
    """What the command says when it ends with an error: one line."""
    with pytest.raises(SystemExit) as stop:
        run()
    shown = capsys.readouterr().err if stop.value.code == 2 else str(stop.value.code)
    assert shown.strip().count("\n") == 0
    return shown


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("objective", "given", "message"),
    [
        ("dpo", ["--loss_type", "sigmiod"], "did you mean 'sigmoid'?"),
        ("dpo", ["--label_smoothing", "0.7"], "label_smoothing=0.7: give a share of wrong labels"),
        (
            "dpo",
            ["--loss_type", "hinge", "--label_smoothing", "0.1"],
            "label_smoothing=0.1: loss_type='hinge' has none",
        ),
        ("dpo", ["--beta", "0"], "beta=0.0: give a number above 0"),
        ("dpo", ["--sft_weight", "-1"], "sft_weight=-1.0: give 0 or more"),
        ("dpo", ["--reference_free", "maybe"], "--dpo.reference_free: true or false is expected"),
        ("cpo", ["--loss_type", "simpo"], "--cpo.loss_type: unknown value 'simpo'"),
        ("cpo", ["--reference", "adapter_off"], "cpo compares with no reference"),
        ("smpo", ["--min_log_prob", "1"], "min_log_prob=1.0: give 0 or less"),
        ("orpo", ["--orpo.gamma", "1"], "orpo.gamma"),
        ("kto", ["--undesirable_weight", "0"], "undesirable_weight=0.0: give a number above 0"),
    ],
    ids=str,
)
def test_a_wrong_value_ends_with_one_line_before_weights_are_loaded(
    pairs: Path,
    capsys: pytest.CaptureFixture[str],
    objective: str,
    given: list[str],
    message: str,
) -> None:
    start = ("--config", "tiny", "--train.source", pairs, "--test", "null")
    assert message in said(capsys, lambda: train(objective, *start, *given))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "sigmiod"}, "did you mean 'sigmoid'?"),
        ({"label_smoothing": 0.7}, "label_smoothing=0.7"),
        ({"beta": 0}, "beta=0: give a number above 0"),
        ({"simpo_gamma": 1}, "simpo_gamma"),
    ],
    ids=str,
)
def test_a_wrong_value_in_a_file_is_named(
    tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str], settings: Any, message: str
) -> None:
    file = recipe(tmp_path, "dpo", pairs, **settings)
    assert message in said(capsys, lambda: train("dpo", "--config", file))


def test_a_reference_is_refused_if_the_settings_need_none(
    tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(tmp_path, "dpo", pairs, reference_free=True, reference="adapter_off")
    shown = said(capsys, lambda: train("dpo", "--config", file))
    assert "reference='adapter_off': dpo with reference_free uses no reference" in shown


@pytest.mark.usefixtures("no_weights")
def test_rows_of_another_kind_are_refused_and_say_what_is_needed(
    pairs: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("--config", "tiny", "--test", "null", "--train.source")
    shown = said(capsys, lambda: train("dpo", *start, labelled))
    assert "kind 'unpaired'; this objective trains preference (with chosen and rejected)" in shown
    shown = said(capsys, lambda: train("sft", *start, pairs))
    assert "row 0: a row of the kind 'preference'" in shown


@pytest.mark.usefixtures("no_weights")
def test_sft_trains_the_good_answers_of_labelled_ones(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("sft", "--config", "tiny", "--train.source", labelled, "--check")
    shown = capsys.readouterr().out
    assert "train: 4 documents" in shown
    assert "dropped: 4 labelled as a bad answer" in shown
    assert shown.count("\nrow ") == 3
    assert "0| +| |1| =⟦ ⟧⟦1⟧⟦<|endoftext|>⟧" in shown
