"""Tokens: the environment wins over .env, nothing is needed, values are never returned."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mathsft import settings
from mathsft.settings import load_settings, prepare_tracking, quiet, run_dir, tracker


@pytest.fixture(autouse=True)
def _no_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "WANDB_ENTITY"):
        monkeypatch.setenv(name, "restored after the test")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_no_token_is_fine() -> None:
    assert load_settings() == []


def test_a_dotenv_above_the_notebook_is_found_and_only_names_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=from-file\nWANDB_API_KEY=\n")
    below = tmp_path / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)
    assert load_settings() == ["HF_TOKEN"]
    assert os.environ["HF_TOKEN"] == "from-file"
    assert "WANDB_API_KEY" not in os.environ


def test_the_environment_wins_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=from-file\n")
    monkeypatch.setenv("HF_TOKEN", "from-environment")
    load_settings()
    assert os.environ["HF_TOKEN"] == "from-environment"


def test_the_example_names_exactly_the_tokens_that_are_read() -> None:
    from dotenv import dotenv_values

    from mathsft import settings

    example = Path(__file__).parent.parent / ".env.example"
    values = dotenv_values(example)
    assert tuple(values) == settings._TOKENS
    assert not any(values.values())


def test_runs_lie_in_the_checkout_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MATHSFT_RUNS", raising=False)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert run_dir("a") == tmp_path / "runs" / "a"
    monkeypatch.setenv("MATHSFT_RUNS", str(tmp_path / "elsewhere"))
    assert run_dir("a") == tmp_path / "elsewhere" / "a"
    assert run_dir("a").is_dir()


def test_only_the_known_tokens_are_taken_from_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=a\nMATHSFT_UNRELATED=b\n")
    load_settings()
    assert "MATHSFT_UNRELATED" not in os.environ


def test_quiet_keeps_the_bars_of_downloads() -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    quiet()
    assert not are_progress_bars_disabled()
    assert not logging.is_progress_bar_enabled()
    logging.enable_progress_bar()


class _Secrets(types.SimpleNamespace):
    """Replaces google.colab.userdata, which exists only in Colab."""

    SecretNotFoundError = type("SecretNotFoundError", (Exception,), {})
    NotebookAccessError = type("NotebookAccessError", (Exception,), {})
    TimeoutException = type("TimeoutException", (Exception,), {})


def colab(monkeypatch: pytest.MonkeyPatch, answers: dict[str, object]) -> list[str]:
    """Fake a Colab with secrets ``answers`` (a text, or an error); return the names asked for."""
    asked: list[str] = []

    def get(name: str) -> object:
        asked.append(name)
        answer = answers.get(name, _Secrets.SecretNotFoundError)
        if isinstance(answer, type):
            raise answer
        return answer

    module = types.ModuleType("google.colab")
    module.userdata = _Secrets(get=get)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return asked


def test_colab_secrets_come_last_and_may_be_absent_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WANDB_ENTITY=from-file\n")
    asked = colab(
        monkeypatch, {"HF_TOKEN": "from-colab", "WANDB_API_KEY": _Secrets.NotebookAccessError}
    )
    assert load_settings() == ["HF_TOKEN", "WANDB_ENTITY"]
    assert os.environ["HF_TOKEN"] == "from-colab"
    assert asked == ["HF_TOKEN", "WANDB_API_KEY", "MATHSFT_API_KEY"]


def test_if_colab_does_not_answer_it_is_asked_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = colab(monkeypatch, dict.fromkeys(("HF_TOKEN",), _Secrets.TimeoutException))
    assert load_settings() == []
    assert asked == ["HF_TOKEN"]  # each further one would take ten seconds


@pytest.fixture
def _no_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_SILENT", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.setenv(name, "restored after the test")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


@pytest.mark.usefixtures("_no_wandb")
def test_wandb_is_taken_where_there_is_a_key_and_tensorboard_by_one_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert tracker() == "none"
    assert tracker("tensorboard") == "tensorboard"
    assert tracker("wandb") == "wandb"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    assert tracker() == "wandb"
    (tmp_path / ".netrc").write_text("not a netrc\n")
    assert tracker() == "none"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert tracker() == "wandb"
    assert tracker("none") == "none"
    with pytest.raises(ValueError, match="did you mean 'tensorboard'"):
        tracker("tensorbord")


@pytest.mark.usefixtures("_no_wandb")
def test_a_tracker_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings.metadata, "distributions", lambda **_: iter(()))
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert tracker() == "none"
    for name in ("wandb", "tensorboard"):
        with pytest.raises(ImportError, match=f"{name} is not installed: pip install"):
            tracker(name)
        with pytest.raises(ImportError, match=f"{name} is not installed: pip install"):
            prepare_tracking(name, str(tmp_path))
    prepare_tracking("none", str(tmp_path))


@pytest.mark.usefixtures("_no_wandb")
def test_wandb_without_a_key_records_offline_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_tracking("none", "runs/a")
    assert "WANDB_MODE" not in os.environ
    prepare_tracking(["wandb"], "runs/a")
    assert os.environ["WANDB_MODE"] == "offline"
    assert "recorded offline, in runs/a/wandb" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "disabled")
    prepare_tracking("wandb", "runs/b")
    assert os.environ["WANDB_MODE"] == "disabled"
    monkeypatch.setenv("WANDB_MODE", "offline")  # as our own line above had set it
    prepare_tracking(None, "runs/b")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    capsys.readouterr()
    prepare_tracking("all", "runs/b")
    assert "WANDB_MODE" not in os.environ  # there was no key then, there is one now
    assert os.environ["WANDB_DIR"] == "runs/b"
    assert "%tensorboard --logdir 'runs/b'" in capsys.readouterr().out


SECRET_RUN = """
import os
from mathsft import *
print(load_settings())
describe()
model, tokenizer = load_model("tiny", quantize=True, lora=True)
rows = load_problems("tiny-mathqa", limit=40)
folder = run_dir("secret")
keeping = persist(folder, os.environ["MIRROR"])
trainer = multiple_choice_trainer(
    model, tokenizer, rows, output_dir=folder, max_steps=2, max_length=256, logging_steps=1,
    report_to=["wandb", "tensorboard"], callbacks=[keeping], learning_rate=1e-2,
)
trainer.train(resume_from_checkpoint=True)
save_adapter(model, folder / "adapter")
results = run_dir("results")
result = evaluate("tiny", "mathqa_tiny", peft=folder / "adapter", limit=8, folder=results)
write_report(results, results / "report.html")
print(trainer.args, model.config, result)
try:
    load_model("no/such-model")
except OSError as error:
    print(error)
"""


@pytest.mark.slow
def test_no_token_is_in_anything_that_a_run_prints_or_writes(tmp_path: Path) -> None:
    """The tokens are in .env; every byte of the run, its copies and its output is searched."""
    secrets = {"HF_TOKEN": "hf_" + "Qz7" * 11, "WANDB_API_KEY": "5e" * 20, "WANDB_ENTITY": "q" * 17}
    (tmp_path / ".env").write_text("".join(f"{k}={v}\n" for k, v in secrets.items()))
    (tmp_path / "mirror").mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in (*secrets, "WANDB_DIR")}
    kept |= {"WANDB_MODE": "offline", "MATHSFT_RUNS": str(tmp_path / "runs")}
    kept |= {"MIRROR": str(tmp_path / "mirror"), "HF_HUB_OFFLINE": "1", "MATHSFT_PROFILE": "tiny"}
    done = subprocess.run(
        [sys.executable, "-c", SECRET_RUN], cwd=tmp_path, env=kept, capture_output=True,
        timeout=300, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"['HF_TOKEN', 'WANDB_API_KEY', 'WANDB_ENTITY']" in done.stdout
    written = {"output": done.stdout + done.stderr}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != ".env":
            written[str(path.relative_to(tmp_path))] = path.read_bytes()
    kinds = ("wandb/", "tfevents", "training_args.bin", "mirror/", "report.html", "results/")
    for kind in kinds:
        assert any(kind in name for name in written), kind
    found = [
        (name, token)
        for name, data in written.items()
        for token, value in secrets.items()
        if value.encode() in data
    ]
    # The entity is not secret: wandb's own file must say whose run it is.
    assert [hit for hit in found if hit[1] != "WANDB_ENTITY"] == []
