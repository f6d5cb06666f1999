"""Tokens: the environment wins over .env, nothing is needed, values are never returned."""

from pathlib import Path

import pytest

from mathsft.settings import load_settings, quiet, run_dir


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
    import os

    (tmp_path / ".env").write_text("HF_TOKEN=from-file\nWANDB_API_KEY=\n")
    below = tmp_path / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)
    assert load_settings() == ["HF_TOKEN"]
    assert os.environ["HF_TOKEN"] == "from-file"
    assert "WANDB_API_KEY" not in os.environ


def test_the_environment_wins_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

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
    import os

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
