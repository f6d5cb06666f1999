"""The harness's numbers, down to each prediction, from a fraction of the passes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_tasks import assert_same_samples, passes_counted, samples_of, task_over
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from model_files import qwen_config, trained
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2ForCausalLM

from mathsft.evaluation import harness
from mathsft.evaluation.harness import ForestLM
from mathsft.evaluation.requests import quiet_harness
from mathsft.models.adapters import load_adapter, merge_adapter, save_adapter
from mathsft.models.loading import load_model


@pytest.fixture(scope="module")
def rows(data_dir: Path) -> list[dict[str, Any]]:
    """Real MathQA rows, shuffled."""
    found = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    random.Random(0).shuffle(found)
    return found


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return load_model("tiny")


def stock(model: Any, tokenizer: Any, **arguments: Any) -> HFLM:
    with quiet_harness():
        return HFLM(pretrained=model, tokenizer=tokenizer, **{"batch_size": 8, **arguments})


def ours(model: Any, tokenizer: Any, **arguments: Any) -> ForestLM:
    with quiet_harness():
        return ForestLM(model, tokenizer=tokenizer, **arguments)


def ask(*pairs: tuple[str, str], kind: str = "loglikelihood") -> list[Instance]:
    return [Instance(kind, {}, pair, n) for n, pair in enumerate(pairs)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shots", "sampler"), [(0, "default"), (3, "default"), (3, "first_n")], ids=str
)
def test_real_mathqa_rows_score_as_the_harness_scores_them(
    tiny: Any, rows: Any, tmp_path: Path, shots: int, sampler: str
) -> None:
    config = task_over(
        tmp_path, "mathqa/mathqa.yaml", test=rows[:30], examples=rows[30:200], sampler=sampler
    )
    with passes_counted(tiny[0]) as plain:
        theirs = samples_of(stock(*tiny), config, num_fewshot=shots)
    for batch_size in (1, 8, "auto"):
        with passes_counted(tiny[0]) as forests:
            mine = samples_of(ours(*tiny, batch_size=batch_size), config, num_fewshot=shots)
        assert_same_samples(mine, theirs)
        assert sum(forests) < sum(plain) / 3


@pytest.mark.slow
def test_a_model_of_real_width_scores_as_the_harness_scores_it(rows: Any, tmp_path: Path) -> None:
    """Qwen2.5-0.5B's width, heads and vocabulary, two of its layers, random weights."""
    torch.manual_seed(0)
    model, tokenizer = Qwen2ForCausalLM(qwen_config(layers=2)).eval(), load_model("tiny")[1]
    task = task_over(tmp_path, "mathqa/mathqa.yaml", test=rows[:12], examples=rows[12:48])
    mine, theirs = (samples_of(make(model, tokenizer), task) for make in (ours, stock))
    assert_same_samples(mine, theirs)


def as_arc(row: dict[str, Any]) -> dict[str, Any]:
    """A MathQA row in the schema of ARC: a dozen tokens per choice.

    Longer choices would not do: at 500 nats float32 has steps of 6e-5, and the harness itself
    changes by 6e-5 when its batch size changes.
    """
    letters = "abcde"
    texts = [f"the answer is {row['Problem'][:24]} {letter}" for letter in letters]
    return {
        "question": row["Problem"],
        "choices": {"text": texts, "label": [*letters]},
        "answerKey": row["correct"],
    }


def as_mmlu(row: dict[str, Any]) -> dict[str, Any]:
    """A MathQA row in the schema of MMLU: four choices in the prompt, one letter to score."""
    choices = [c.strip() for c in row["options"].split(",")[:4]]
    return {"question": row["Problem"], "choices": choices, "answer": len(row["Problem"]) % 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("yaml", "schema"),
    [("arc/arc_easy.yaml", as_arc), ("mmlu/default/_default_template_yaml", as_mmlu)],
    ids=["long choices", "one-token choices"],
)
@pytest.mark.parametrize("shots", [0, 4])
def test_other_multiple_choice_tasks_score_as_the_harness_scores_them(
    tiny: Any, rows: Any, tmp_path: Path, yaml: str, schema: Any, shots: int
) -> None:
    test, examples = map(schema, rows[:20]), map(schema, rows[20:60])
    config = task_over(tmp_path, yaml, test=[*test], examples=[*examples])
    mine = samples_of(ours(*tiny), config, num_fewshot=shots)
    assert_same_samples(mine, samples_of(stock(*tiny), config, num_fewshot=shots))


def test_questions_that_have_the_same_examples_pass_them_once_a_row(tiny: Any, rows: Any) -> None:
    examples = "\n\n".join(f"Question: {row['Problem']}\nAnswer: 1" for row in rows[:5])
    pairs = [
        (f"{examples}\n\nQuestion: {row['Problem']}\nAnswer:", f" {n}")
        for row in rows[5:25]
        for n in range(5)
    ]
    shared = len(tiny[1](examples).input_ids)
    with passes_counted(tiny[0]) as forests, quiet_harness():
        ours(*tiny).loglikelihood(ask(*pairs))
    own = sum(len(tiny[1](context).input_ids) - shared for context, _ in pairs[::5])
    assert sum(forests) < 3 * shared + 1.5 * own + 200  # the probe of `check_isolation` has some 60


CONTEXTS = [
    "",
    "Question: 2 + 3 ?\nAnswer:",
    "Question: 2 + 3 ?\nAnswer: ",
    "a  \n",
    "<|endoftext|>x",
]


@pytest.mark.parametrize("limit", [1024, 16])
def test_any_requests_score_as_the_harness_scores_them_in_the_order_they_came(
    tiny: Any, limit: int
) -> None:
    """No context, context ending in spaces, stop token; equal, too long and single requests."""
    draw = random.Random(1)
    pairs = [
        (context, draw.choice([" 5", " 1 / 2", " rs . 40", " 5 6 7 8 9", "\n5"]))
        for context in CONTEXTS * 6
    ]
    pairs += [(f"only once {n}", " 7") for n in range(4)]
    draw.shuffle(pairs)
    with quiet_harness():
        mine = ours(*tiny, max_length=limit).loglikelihood(ask(*pairs))
        theirs = stock(*tiny, max_length=limit).loglikelihood(ask(*pairs))
    for (score, greedy), (expected, wanted) in zip(mine, theirs, strict=True):
        assert abs(score - expected) < 1e-4
        assert greedy == wanted


def test_what_the_model_would_write_is_marked_greedy(tiny: Any) -> None:
    model, tokenizer = tiny
    context = "Question: what is 2 + 3 ?\nAnswer:"
    ids = tokenizer(context, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    text = tokenizer.decode(written)
    with quiet_harness():
        found = ours(*tiny).loglikelihood(ask((context, text), (context, " never this")))
    assert [greedy for _, greedy in found] == [True, False]


def test_rolling_likelihoods_and_generated_answers_are_the_harness_s_own(
    tiny: Any, tmp_path: Path
) -> None:
    texts = [("one two three. " * n,) for n in (1, 40)]
    rolling = ask(*texts, kind="loglikelihood_rolling")
    with quiet_harness():
        mine, theirs = (make(*tiny).loglikelihood_rolling(rolling) for make in (ours, stock))
    assert mine == pytest.approx(theirs, abs=1e-4)
    row = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    config = task_over(tmp_path, "gsm8k/gsm8k.yaml", test=[row], examples=[row, row])
    config["generation_kwargs"] = {"until": ["Question:"], "max_gen_toks": 8, "do_sample": False}
    one, other = (samples_of(make(*tiny), config, num_fewshot=1) for make in (ours, stock))
    assert one[0]["resps"] == other[0]["resps"]


def test_a_model_that_mixes_branches_scores_each_request_by_itself_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    tokenizer = load_model("tiny")[1]
    config = AutoConfig.for_model(
        "mpt", d_model=32, n_heads=4, n_layers=2, vocab_size=len(tokenizer), max_seq_len=128
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    pairs = [(f"Question: {q}\nAnswer:", f" {c}") for q in "ab" for c in "123"]
    with quiet_harness():
        mine = ours(model, tokenizer).loglikelihood(ask(*pairs))
        theirs = stock(model, tokenizer).loglikelihood(ask(*pairs))
    assert mine == theirs
    assert "does not keep the sequences of a row apart" in capsys.readouterr().out


def test_a_pass_that_does_not_fit_is_halved(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [
        (f"Question: what is {q} + 1 ?\nAnswer:", f" {c}") for q in range(30) for c in range(5)
    ]
    with quiet_harness():
        expected = ours(*tiny).loglikelihood(ask(*pairs))
    passes: list[int] = []
    real = harness.option_scores

    def small(model: Any, batch: Any) -> Any:
        if len(batch["scored_tokens"]) > 40:
            raise torch.OutOfMemoryError("as a full GPU says")
        passes.append(len(batch["scored_tokens"]))
        return real(model, batch)

    monkeypatch.setattr(harness, "option_scores", small)
    with quiet_harness():
        found = ours(*tiny).loglikelihood(ask(*pairs))
    assert sum(passes) == len(pairs)
    assert max(passes) <= 40
    assert [s for s, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-4)
    monkeypatch.setattr(harness, "option_scores", fails)
    with quiet_harness(), pytest.raises(torch.OutOfMemoryError):
        ours(*tiny).loglikelihood(ask(*pairs))


def fails(model: Any, batch: Any) -> Any:
    raise torch.OutOfMemoryError("not even one question fits")


def test_its_cache_answers_without_the_model(
    tiny: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = task_over(tmp_path, "mathqa/mathqa.yaml", test=rows[:4], examples=rows[4:9])
    cache = str(tmp_path / "cache")
    first = samples_of(ours(*tiny), config, use_cache=cache)
    monkeypatch.setattr(harness, "option_scores", lambda *_: pytest.fail("the model was called"))
    again = samples_of(ours(*tiny), config, use_cache=cache)
    assert [s["resps"] for s in first] == [s["resps"] for s in again]


def test_a_4_bit_base_an_adapter_s_folder_and_a_merged_model_can_each_be_scored(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir)
    wrapped = trained(model, scale=0.2)
    save_adapter(wrapped, tmp_path / "adapter")
    whole = load_adapter(load_model(small_model_dir)[0], tmp_path / "adapter")
    merge_adapter(whole, tmp_path / "merged", tokenizer=tokenizer)
    pairs = ask(*[("### Question:\nTom has 4", f" {n}") for n in range(3)])

    def scored(name: Path, **arguments: Any) -> list[float]:
        with quiet_harness():
            return [score for score, _ in ForestLM(str(name), **arguments).loglikelihood(pairs)]

    tuned = scored(small_model_dir, peft=str(tmp_path / "adapter"))
    assert scored(tmp_path / "merged") == pytest.approx(tuned, abs=1e-4)
    base, four_bit = scored(small_model_dir), scored(small_model_dir, quantize=True)
    assert tuned != pytest.approx(base, abs=1e-3)
    assert four_bit != pytest.approx(base, abs=1e-3)
    both = scored(small_model_dir, quantize=True, peft=str(tmp_path / "adapter"))
    assert both != pytest.approx(four_bit, abs=1e-3)


def test_a_score_that_is_not_finite_stops_with_the_question(small_model_dir: Path) -> None:
    model, tokenizer = load_model(small_model_dir)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with quiet_harness(), pytest.raises(ValueError, match=r"' 5' after '2 \+ 3 =' is nan.*float32"):
        ours(model, tokenizer).loglikelihood(ask(("2 + 3 =", " 5"), ("2 + 3 =", " 6")))


def test_options_for_a_model_name_are_refused_for_a_loaded_model(tiny: Any, tmp_path: Path) -> None:
    for more in ({"peft": tmp_path}, {"quantize": True}):
        with pytest.raises(ValueError, match="load_adapter"):
            ForestLM(tiny[0], tokenizer=tiny[1], **more)
    with pytest.raises(ValueError, match="its tokenizer"):
        ForestLM(tiny[0])
    with pytest.raises(ValueError, match="unknown model argument 'load_in_4bit'"):
        ForestLM("tiny", load_in_4bit=True)
