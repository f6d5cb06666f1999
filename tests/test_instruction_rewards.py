"""Instructions are judged by the harness's own checkers, and always in the same way."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from mathsft.generation.instruction_rewards import InstructionFollowing
from mathsft.generation.reward_calls import RewardError, call_reward

NEEDED = "needs the harness's extra: lm_eval[ifeval]"
# A language's data in full: each row has the settings of all kinds, most of them None.
NONE = dict.fromkeys(("relation", "num_words", "language", "keyword", "prompt_to_repeat"))


@pytest.fixture
def punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nltk's sentence splitter, trained here on a few sentences; its real data need network."""
    pytest.importorskip("langdetect", reason=NEEDED)
    pytest.importorskip("immutabledict", reason=NEEDED)
    nltk = pytest.importorskip("nltk", reason=NEEDED)
    from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

    trained = PunktTrainer("Tom has 3 pens. He buys 2 more. How many has he now? ").get_params()
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])  # nltk reads and writes only here
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    save_punkt_params(trained, str(folder))


def judged(text: Any, *given: tuple[str, dict[str, Any]], **settings: Any) -> float:
    (value,) = call_reward(
        InstructionFollowing(**settings),
        completions=[text],
        prompts=["Write about pens."],
        instruction_id_list=[[name for name, _ in given]],
        kwargs=[[{**NONE, **values} for _, values in given]],
    )
    return float(value)


@pytest.mark.parametrize(
    ("name", "values", "follows", "fails"),
    [
        ("punctuation:no_comma", {}, "Pens and ink.", "Pens, ink."),
        ("keywords:existence", {"keywords": ["pen"]}, "A pen.", "Ink."),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b c", "a"),
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"},
         "One pen.", "One pen. Two pens. He has them."),
        ("change_case:english_lowercase", {}, "tom has three pens and he buys more", "Tom has"),
        ("detectable_format:json_format", {}, '{"pens": 3}', "pens: 3"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Write about pens."},
         "Write about pens. They are blue.", "They are blue."),
        ("language:response_language", {"language": "de"},
         "Das ist ein sehr guter Stift und er schreibt blau.", "This is a very good pen to write."),
    ],
)  # fmt: skip
def test_the_harness_checkers_decide(
    punkt: None, name: str, values: dict[str, Any], follows: str, fails: str
) -> None:
    assert judged(follows, (name, values)) == 1.0
    assert judged(fails, (name, values)) == judged("", (name, values)) == 0.0
    assert judged([{"role": "assistant", "content": follows}], (name, values)) == 1.0


def test_all_instructions_or_the_share_that_is_followed(punkt: None) -> None:
    two = (("punctuation:no_comma", {}), ("keywords:existence", {"keywords": ["pen"]}))
    assert (judged("Ink.", *two), judged("Ink.", *two, score="share")) == (0.0, 0.5)
    assert judged("A pen.", *two) == judged("A pen.", *two, score="share") == 1.0
    loose = "Sure, here it is:\nA pen."
    assert (judged(loose, *two), judged(loose, *two, strict=False)) == (0.0, 1.0)


def test_a_verdict_is_repeatable_and_the_global_random_state_stays(punkt: None) -> None:
    short = "Tom pen"  # without a seed it is Norwegian or Portuguese
    before = random.getstate()
    portuguese = ("language:response_language", {"language": "pt"})
    verdicts = {judged(short, portuguese) for _ in range(30)}
    assert len(verdicts) == 1
    assert random.getstate() == before
    import langdetect

    assert langdetect.DetectorFactory.seed is None


def test_what_the_harness_would_draw_at_random_is_an_error_that_names_the_row(punkt: None) -> None:
    name = "length_constraints:number_words"
    for given, message in (
        ((name, {"num_words": 3}), f"row 0 .*{name}' needs relation in kwargs"),
        ((name, {"relation": "at least", "num_words": 0}), "needs num_words"),
        (("punctuation:no_coma", {}), "unknown instruction .*did you mean 'punctuation:no_comma'"),
    ):
        with pytest.raises(RewardError, match=message):
            judged("a b c", given)
    with pytest.raises(RewardError, match="KeyError: 'xx'"):
        judged("a b c", ("language:response_language", {"language": "xx"}))
    with pytest.raises(RewardError, match="has 0 names and kwargs 0 mappings"):
        judged("a b c")
    with pytest.raises(RewardError, match="no column 'instruction_id_list'"):
        InstructionFollowing()(completions=["a"], kwargs=[[{}]])


def test_a_missing_package_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "immutabledict", None)
    with pytest.raises(RewardError, match=r"immutabledict' is missing.*\"lm_eval\[ifeval\]\""):
        judged("a", ("punctuation:no_comma", {}))


def test_missing_data_are_not_fetched(
    punkt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "none")])
    monkeypatch.setattr(nltk, "download", lambda *_: pytest.fail("data were fetched"))
    with pytest.raises(RewardError, match=r"punkt_tab' are missing.*nltk.downloader punkt_tab"):
        judged("a", ("punctuation:no_comma", {}))


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown score 'mean'"):
        InstructionFollowing(score="mean")  # type: ignore[arg-type]
