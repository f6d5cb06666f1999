"""Choice scores and gradients equal those of one plain pass per choice, in any batch."""

import shutil
from pathlib import Path

import pytest
import torch
from gradients import adapted, assert_same_gradients
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mathsft.data.problems import load_problems
from mathsft.data.prompts import choice_context, choice_continuation
from mathsft.evaluation.harness import ForestLM
from mathsft.models.forest import TokenForest
from mathsft.models.likelihood import (
    choice_logprobs,
    encode_choices,
    encode_continuation,
)
from mathsft.models.loading import load_model
from mathsft.models.logprobs import sequence_logprobs


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path):
    return load_model(small_model_dir)


@pytest.fixture(scope="module")
def problems():
    return load_problems("tiny-mathqa", split="test", limit=12)


def plain_scores(model, tokenizer, problem) -> torch.Tensor:
    """Five differentiable passes, written as in lm-evaluation-harness."""
    scores = []
    context = choice_context(problem["question"])
    context_ids = tokenizer(context).input_ids
    for choice in problem["choices"]:
        whole = tokenizer(context + choice_continuation(choice)).input_ids
        ids = torch.tensor([*context_ids, *whole[len(context_ids) :]])
        logprobs = model(input_ids=ids[None, :-1]).logits[0].log_softmax(-1)
        scored = logprobs[torch.arange(len(ids) - 1), ids[1:]]
        scores.append(scored[len(context_ids) - 1 :].sum())
    return torch.stack(scores)


def test_scores_equal_one_pass_per_choice(loaded, problems) -> None:
    model, tokenizer = loaded
    ours = choice_logprobs(model, tokenizer, problems, batch_size=5)
    for problem, scores in zip(problems, ours, strict=True):
        plain = plain_scores(model, tokenizer, problem).tolist()
        assert scores == pytest.approx(plain, abs=1e-4)


def test_scores_do_not_depend_on_the_batch(loaded, problems) -> None:
    model, tokenizer = loaded
    one, many = (choice_logprobs(model, tokenizer, problems, batch_size=b) for b in (1, 12))
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_questions_may_differ_in_their_number_of_choices(loaded, problems) -> None:
    model, tokenizer = loaded
    mixed = [{**problems[0], "choices": problems[0]["choices"][:2]}, problems[1]]
    assert [len(s) for s in choice_logprobs(model, tokenizer, mixed)] == [2, 5]


def test_the_model_is_left_in_the_mode_it_was_in(loaded, problems) -> None:
    model, tokenizer = loaded
    model.train()
    choice_logprobs(model, tokenizer, problems.select(range(1)))
    assert model.training
    model.eval()


def test_a_score_that_is_not_finite_is_an_error_naming_the_problem(
    small_model_dir: Path, problems
) -> None:
    model, tokenizer = load_model(small_model_dir)
    model.train()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"problem 0: a score is not finite.*float32"):
        choice_logprobs(model, tokenizer, problems)
    assert model.training  # the mode is restored after an error, too


def test_a_problem_without_choices_or_with_an_empty_one_is_an_error(loaded, problems) -> None:
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="no choices"):
        choice_logprobs(model, tokenizer, [{**problems[0], "choices": []}])
    with pytest.raises(ValueError, match="adds no token"):
        encode_continuation(tokenizer, "Answer:", "")


def assert_exact(model, tokenizer, problems, *, max_length: int, order=None) -> None:
    """Compare with five plain passes: log-probabilities to 1e-4, adapter gradients to 1e-5.

    ``order`` is the order of the questions in the forest.
    """
    labels = torch.tensor([problem["label"] for problem in problems])
    plain = [plain_scores(model, tokenizer, problem) for problem in problems]
    sum(
        cross_entropy(scores[None], label[None])
        for scores, label in zip(plain, labels, strict=True)
    ).backward()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    wanted = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    model.zero_grad()
    order = range(len(problems)) if order is None else order
    groups = encode_choices(tokenizer, [problems[i] for i in order])
    forest = TokenForest.from_groups(groups, max_length=max_length)
    ours = sequence_logprobs(model, forest.tensors(pad_token_id=0)).sum
    assert ours.dtype == torch.float32
    scores = ours.split([len(group) for group in groups])
    for index, found in zip(order, scores, strict=True):
        assert (found - plain[index]).abs().max() < 1e-4
    sum(
        cross_entropy(found[None], labels[index][None])
        for index, found in zip(order, scores, strict=True)
    ).backward()
    assert_same_gradients(wanted, {name: p.grad for name, p in parameters.items()})
    model.zero_grad()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("how", ["plain", "checkpointing", "4-bit"])
def test_gradients_are_those_of_five_separate_passes(small_model_dir, problems, how, attention):
    kwargs = {"attn_implementation": attention}
    if how == "4-bit":
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    model = adapted(small_model_dir, dtype=torch.float32, **kwargs).train()
    if how == "checkpointing":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    tokenizer = AutoTokenizer.from_pretrained(small_model_dir)
    assert_exact(model, tokenizer, problems, max_length=512)


@pytest.mark.slow
def test_gradients_at_a_real_depth_are_those_of_five_separate_passes(problems):
    """The packaged model, with rows of one question, of a few, and of all."""
    model, tokenizer = load_model("tiny", lora={"lora_dropout": 0.0}, device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    for max_length in (100, 250, 1000):
        assert_exact(model.train(), tokenizer, problems, max_length=max_length)


words = st.sampled_from(["3", "30", "30 km", "a", "apples", "a pear", "1 / 2", "12.5", "é", "?"])
choices = st.lists(words, min_size=2, max_size=6, unique=True)
question = st.tuples(st.lists(words, min_size=1, max_size=12), choices, st.integers(0, 1))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(asked=st.lists(question, min_size=1, max_size=6), data=st.data())
def test_generated_questions_score_and_learn_as_in_separate_passes(small_model_dir, asked, data):
    """Choices of one or many tokens, one may begin another, and any number of choices."""
    problems = [
        {"question": " ".join(text), "choices": found, "label": label}
        for text, found, label in asked
    ]
    order = data.draw(st.permutations(range(len(problems))))
    max_length = data.draw(st.integers(150, 400))
    model = adapted(small_model_dir).train()
    tokenizer = AutoTokenizer.from_pretrained(small_model_dir)
    assert_exact(model, tokenizer, problems, max_length=max_length, order=order)


@pytest.mark.slow
def test_scores_of_real_questions_equal_separate_passes(small_model_dir, data_dir):
    rows = load_problems(data_dir / "mathqa" / "dev.json", limit=40)
    model, tokenizer = load_model(small_model_dir)
    with torch.no_grad():
        for problem, scores in zip(rows, choice_logprobs(model, tokenizer, rows), strict=True):
            plain = plain_scores(model, tokenizer, problem).tolist()
            assert scores == pytest.approx(plain, abs=1e-4)


text = st.text(alphabet="app les3.\n ", min_size=1, max_size=20).filter(str.strip)


def enclosed(tokenizer, single: str):
    """Make the tokenizer put special tokens around every text, by the template ``single``."""
    from tokenizers.processors import TemplateProcessing

    stop = tokenizer.eos_token
    around = TemplateProcessing(single=single, special_tokens=[(stop, tokenizer.eos_token_id)])
    tokenizer.backend_tokenizer.post_processor = around
    return tokenizer


@pytest.fixture(scope="module", params=["plain", "with a first token"])
def harness(small_model_dir: Path, request: pytest.FixtureRequest):
    from lm_eval.models.huggingface import HFLM

    model = AutoModelForCausalLM.from_pretrained(small_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(small_model_dir)
    if request.param != "plain":
        tokenizer = enclosed(tokenizer, f"{tokenizer.eos_token} $A")
    return HFLM(pretrained=model, tokenizer=tokenizer)


@settings(max_examples=200, deadline=None)
@given(context=text, continuation=text)
@example(context="Tom has 3 app", continuation="les left")  # a word merged across the boundary
@example(context="Answer: ", continuation="3")  # the space goes to the continuation
def test_tokens_are_split_as_the_harness_splits_them(harness, context, continuation):
    context_ids, continuation_ids = harness._encode_pair(context, continuation)
    if continuation_ids:
        ours = encode_continuation(harness.tokenizer, context, continuation)
        assert ours == (context_ids, continuation_ids)
    else:
        with pytest.raises(ValueError, match="adds no token"):
            encode_continuation(harness.tokenizer, context, continuation)


def test_a_merge_across_the_boundary_is_among_the_cases(harness):
    tokenizer = harness.tokenizer
    context, _ = encode_continuation(tokenizer, "Tom has 3 app", "les left")
    assert tokenizer("Tom has 3 apples left").input_ids[: len(context)] != context


def test_a_tokenizer_that_ends_every_text_scores_as_one_that_does_not(small_model_dir):
    plain = AutoTokenizer.from_pretrained(small_model_dir)
    ending = enclosed(AutoTokenizer.from_pretrained(small_model_dir), f"$A {plain.eos_token}")
    assert ending("Answer:").input_ids[-1] == plain.eos_token_id
    expected = encode_continuation(plain, "Answer:", " 3")
    assert encode_continuation(ending, "Answer:", " 3") == expected
    lm = ForestLM(str(small_model_dir), tokenizer=None)
    lm.tokenizer = ending
    assert lm.tok_encode("Answer:") == plain("Answer:").input_ids
    assert lm.tok_batch_encode(["Answer:"])[0].tolist() == [plain("Answer:").input_ids]


def test_equal_choices_are_scored_alike_and_none_is_left_out(loaded, problems):
    """The harness's own reading of MathQA has such rows: they are scored unchanged."""
    model, tokenizer = loaded
    twice = {**problems[0], "choices": ["12", "12", "1"]}
    ((a, b, c),) = choice_logprobs(model, tokenizer, [twice])
    assert a == b != c


@pytest.mark.slow  # FlexAttention is compiled first
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention on a CPU needs g++")
def test_flex_attention_gives_the_scores_of_sdpa(small_model_dir, problems) -> None:
    sdpa, flex = (
        choice_logprobs(*load_model(small_model_dir, attn_implementation=name), problems)
        for name in ("sdpa", "flex_attention")
    )
    for one, other in zip(sdpa, flex, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
