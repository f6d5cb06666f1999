"""The choices for each kind of device depend only on its capability."""

from pathlib import Path

import pytest
import torch

from mathsft import device
from mathsft.device import default_profile, describe, description, device_defaults

T4, A100, H100 = (7, 5), (8, 0), (9, 0)


def test_a_cpu_computes_in_float32_without_mixed_precision() -> None:
    choice = device_defaults(None)
    assert choice.dtype is torch.float32
    assert choice.quantisation is None
    assert choice.trainer_arguments() == {
        "fp16": False,
        "bf16": False,
        "use_cpu": True,
        "optim": "adamw_torch",
    }


def test_a_t4_gets_float16_with_scaler_and_no_bfloat16_anywhere() -> None:
    choice = device_defaults(T4)
    assert choice.dtype is torch.float16
    assert choice.quantisation == "nf4"
    assert choice.trainer_arguments() == {
        "fp16": True,
        "bf16": False,
        "use_cpu": False,
        "optim": "adamw_torch_fused",
    }


@pytest.mark.parametrize("capability", [A100, (8, 6), H100, (12, 0)])
def test_ampere_and_later_get_bfloat16_without_scaler(capability: tuple[int, int]) -> None:
    choice = device_defaults(capability)
    assert choice.dtype is torch.bfloat16
    assert (choice.fp16, choice.bf16, choice.use_cpu) == (False, True, False)


def test_only_all_weights_on_a_t4_have_states_in_8_bits() -> None:
    """Those of an adapter are small, and Ampere's cards are large."""
    kept = {
        (card, adapter): device_defaults(card, adapter=adapter).optim
        for card in (None, T4, A100, H100)
        for adapter in (True, False)
    }
    assert {kept[None, True], kept[None, False]} == {"adamw_torch"}
    assert kept.pop((T4, False)) == "adamw_bnb_8bit"
    assert {optim for (card, _), optim in kept.items() if card} == {"adamw_torch_fused"}
    for card, adapter in kept:
        choice = device_defaults(card, adapter=adapter)
        assert choice.reasons["optim"].startswith(f"{choice.optim}: ")


def test_the_fused_optimiser_skips_an_overflow_as_the_plain_one_does() -> None:
    """Under GradScaler it is the kernel that skips the step, not the scaler."""
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for step in range(5):
            loss = model(torch.ones(2, 8) * (step + 1)).square().mean()
            before = model.weight.detach().clone()
            scaler.scale(loss * (float("inf") if step == 2 else 1)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert torch.equal(before, model.weight) == (step == 2)
        assert scaler.get_scale() == 2.0**9
        found.append(model.weight.detach())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("capability", [None, T4, A100, H100])
def test_every_choice_has_a_reason_and_runs_on_the_stack(
    capability: tuple[int, int] | None,
) -> None:
    from transformers.training_args import OptimizerNames

    choice = device_defaults(capability)
    decided = {"dtype", "attn_implementation", "quantisation", "optim"}
    assert set(choice.reasons) == decided | {"device", "mixed_precision"}
    assert all(len(reason) > 10 for reason in choice.reasons.values())
    assert choice.optim in list(OptimizerNames)
    assert choice.attn_implementation == "sdpa"


def test_emulated_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's answer on a T4, where it emulates the type.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: T4)
    assert device_defaults().dtype is torch.float16


def test_an_apple_gpu_counts_as_a_cpu_and_the_reason_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_defaults(None).dtype is torch.float32
    assert "MPS" in device_defaults(None).reasons["device"]


@pytest.mark.parametrize(
    ("capability", "profile"), [(None, "tiny"), (T4, "t4"), (A100, "a100"), (H100, "a100")]
)
def test_the_profile_follows_the_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, profile: str
) -> None:
    monkeypatch.delenv("MATHSFT_PROFILE", raising=False)
    choice = device_defaults(capability)
    monkeypatch.setattr(device, "device_defaults", lambda: choice)
    assert default_profile() == profile


def test_the_environment_overrides_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.touch()
    for chosen in ("a100", str(mine)):
        monkeypatch.setenv("MATHSFT_PROFILE", chosen)
        assert default_profile() == chosen
    monkeypatch.setenv("MATHSFT_PROFILE", "nowhere.yaml")
    with pytest.raises(ValueError, match=r"there is no file nowhere\.yaml \(from /"):
        default_profile()


def test_an_unknown_profile_names_the_known_and_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MATHSFT_PROFILE", "a10")
    with pytest.raises(ValueError, match=r"MATHSFT_PROFILE.*tiny, t4, a100.*'a100'"):
        default_profile()


def test_the_description_is_one_short_block_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    monkeypatch.setenv("MATHSFT_PROFILE", "tiny")
    describe()
    text = capsys.readouterr().out
    assert "planted" not in text
    assert torch.__version__.split("+")[0] in text
    assert "GB free" in text
    assert len(text.splitlines()) <= 12
    assert max(map(len, text.splitlines())) <= 79


def test_the_description_works_where_packages_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real_import = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] in {"torch", "psutil"}:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    def no_version(package: str) -> str:
        raise device.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(device.metadata, "version", no_version)
    text = description()
    assert "PyTorch is not installed" in text
    assert "peft (not installed)" in text
