"""A searched prompt: its gradient, its tokens, its losses, and that nothing else changes."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mathsft import cli
from mathsft.data.problems import load_problems
from mathsft.evaluation.worked import worked_answers
from mathsft.generation.prompt_codebook import PromptCodebook, gumbel_noise, prompt_logprobs
from mathsft.generation.prompt_methods import Gumbel, Swaps
from mathsft.generation.prompt_places import places_of, share_that_survives
from mathsft.generation.prompt_search import search_prompt
from mathsft.generation.prompt_swaps import one_hot_gradient, prompt_losses, swaps
from mathsft.generation.prompt_tokens import forbidden_tokens
from mathsft.generation.soft_prompt import soft_prompt
from mathsft.models.loading import load_model

AFTER, INSIDE, BEFORE = (
    "{question}{prompt}",
    "### Question:\n{question}\n\n{prompt}### Answer:\n",
    "{prompt}{question}\n",
)
PACKED = {"pad_token_id": 0, "max_length": 200}


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return load_problems("tiny-gsm", split="train", limit=24).to_list()


def encoded(tokenizer: Any, rows: Any, template: str = AFTER) -> Any:
    return places_of(rows, tokenizer, template=template, target="{solution}")


def codebook(model: Any, tokenizer: Any, *, count: int = 2, seed: int = 0) -> PromptCodebook:
    embedding = model.get_input_embeddings()
    never = forbidden_tokens(tokenizer, embedding.weight.shape[0])
    made = PromptCodebook(embedding, never, num_tokens=count)
    nn.init.normal_(made.codes, std=0.05, generator=torch.Generator().manual_seed(seed))
    return made


def plain_loss(model: Any, place: Any, prompt: Tensor, ids: Any = None) -> tuple[Tensor, Tensor]:
    """Minus log p of the target's tokens, and logits before the prompt's: a pass for one row."""
    embed = model.get_input_embeddings()
    parts = [torch.tensor(one, dtype=torch.long) for one in (place.before, place.after)]
    target = torch.tensor(place.target)
    inputs = torch.cat([embed(parts[0]), prompt, embed(parts[1]), embed(target)])
    logits = model(inputs_embeds=inputs[None]).logits[0].float().log_softmax(-1)
    found = -logits[-len(target) - 1 : -1].gather(-1, target[:, None]).sum()
    first = len(place.before)
    return found, logits[max(first - 1, 0) : first - 1 + len(prompt)]


@pytest.mark.parametrize("template", [AFTER, INSIDE, BEFORE])
def test_a_drawn_prompt_scores_as_its_token_ids_alone_do(
    tiny: Any, rows: Any, template: str
) -> None:
    model, tokenizer = tiny
    places = encoded(tokenizer, rows[:6], template)
    book = codebook(model, tokenizer)
    noise = gumbel_noise((6, 2, 795), generator=torch.Generator().manual_seed(1))
    drawn = book.draw(temperature=0.7, noise=noise)
    assert torch.equal(drawn.embeddings, model.get_input_embeddings()(drawn.ids))
    found = prompt_logprobs(model, places, drawn, fluency=True, **PACKED)
    for row, (place, ids) in enumerate(zip(places, drawn.ids, strict=True)):
        alone, _ = plain_loss(model, place, model.get_input_embeddings()(ids))
        assert -found.target[row].item() == pytest.approx(alone.item(), abs=1e-4, rel=1e-5)
        losses = prompt_losses(model, [place], [ids.tolist()], **PACKED)
        assert losses.item() * len(place.target) == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize("template", [AFTER, BEFORE])
def test_the_codes_gradient_is_that_of_plain_passes_over_one_hot_choices(
    tiny: Any, rows: Any, template: str
) -> None:
    model, tokenizer = tiny
    places = encoded(tokenizer, rows[:3], template)
    book = codebook(model, tokenizer)
    noise = gumbel_noise((3, 2, 795), generator=torch.Generator().manual_seed(1))

    def gradient(loss: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss, book.codes)
        return found

    drawn = book.draw(temperature=0.7, noise=noise)
    ours = prompt_logprobs(model, places, drawn, fluency=True, **PACKED)
    loss = -ours.target.sum() - 3 * ours.prompt
    found = gradient(loss)
    table = model.get_input_embeddings().weight.detach()
    scores = (book.codes @ table.T).masked_fill(book.forbidden, -torch.inf) + noise
    soft = (scores / 0.7).softmax(-1)
    one_hot = nn.functional.one_hot(scores.argmax(-1), 795).float()
    choice = one_hot + soft - soft.detach()
    plain, own = torch.zeros(()), []
    for place, each in zip(places, choice, strict=True):
        target, before = plain_loss(model, place, each @ table)
        plain = plain + target
        # The surprise of the prompt's own tokens; the first has none if nothing stands before it.
        own.append((each[-len(before) :] * before).sum(-1))
    plain = plain - 3 * torch.cat(own).mean()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    expected = gradient(plain)
    assert float(expected.abs().max()) > 1e-3
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_the_gradient_for_swaps_is_that_of_the_one_hot_choice(tiny: Any, rows: Any) -> None:
    model, tokenizer = tiny
    places = encoded(tokenizer, rows[:3])
    table = model.get_input_embeddings().weight.detach()
    ids = [10, 300]
    found = one_hot_gradient(model, places, ids, table, **PACKED)
    one_hot = nn.functional.one_hot(torch.tensor(ids), 795).float().requires_grad_()
    total = sum((plain_loss(model, p, one_hot @ table)[0] for p in places), torch.zeros(()))
    (expected,) = torch.autograd.grad(total / sum(len(p.target) for p in places), one_hot)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_rows_in_one_forest_score_as_rows_alone(tiny: Any, rows: Any) -> None:
    model, tokenizer = tiny
    places = encoded(tokenizer, rows[:5])
    prompts = [[17], [300], [6]]
    together = prompt_losses(model, places, prompts, fluency=0.5, **PACKED)
    alone = torch.stack(
        [prompt_losses(model, [p], prompts, fluency=0.0, **PACKED) * len(p.target) for p in places]
    ).sum(0) / sum(len(p.target) for p in places)
    own = torch.stack(
        [
            -plain_loss(model, p, model.get_input_embeddings()(torch.tensor([0])))[1][0]
            for p in places
        ]
    ).mean(0)[[17, 300, 6]]
    torch.testing.assert_close(together, alone + 0.5 * own.detach(), rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_forbidden_token_is_never_drawn_or_tried_and_its_mass_has_a_gradient(
    data: st.DataObject,
) -> None:
    words, seed = data.draw(st.integers(3, 30)), data.draw(st.integers(0, 9))
    never = torch.tensor(data.draw(st.lists(st.booleans(), min_size=words, max_size=words)))
    never[0], never[1] = True, False
    torch_seed = torch.Generator().manual_seed(seed)
    embedding = nn.Embedding.from_pretrained(torch.randn(words, 4, generator=torch_seed))
    book = PromptCodebook(embedding, never, num_tokens=2)
    nn.init.normal_(book.codes, generator=torch_seed)
    drawn = book.draw(temperature=1.0, noise=gumbel_noise((5, 2, words), generator=torch_seed))
    assert not never[drawn.ids].any()
    assert not never[book.best()].any()
    assert (
        float(drawn.soft[..., never].detach().sum()) == 0
    )  # so a penalty on it would have no gradient
    mass = book.forbidden_mass()
    (gradient,) = torch.autograd.grad(mass.sum(), book.codes)
    assert float(gradient.abs().max()) > 0
    assert float(mass.detach().min()) > 0
    scores = torch.randn(2, words, generator=torch_seed)
    some = swaps([1, 1], scores, never, top_k=words, candidates=20, generator=torch_seed)
    assert len({*map(tuple, some)}) == len(some) == min(20, 2 * (int((~never).sum()) - 1))
    assert all(not never[ids].any() and ids != [1, 1] for ids in some)


def test_special_tokens_and_parts_of_characters_are_forbidden(tiny: Any) -> None:
    _, tokenizer = tiny
    never = forbidden_tokens(tokenizer, 800, forbidden=[17])
    assert never[0]
    assert never[17]
    assert never[795:].all()  # rows of the embedding that are no tokens
    usable = (~never).nonzero().squeeze(-1).tolist()
    assert all("\ufffd" not in tokenizer.decode([token]) for token in usable)
    some = forbidden_tokens(tokenizer, 800, allowed=[0, 20, 30])
    assert (~some).nonzero().squeeze(-1).tolist() == [20, 30]


@pytest.mark.parametrize("method", [Gumbel(steps=8, batch_size=6), Swaps(steps=1, batch_size=4)])
def test_a_search_finds_the_best_of_all_tokens_twice_and_changes_nothing(
    tiny: Any, rows: Any, method: Any
) -> None:
    model, tokenizer = tiny
    (best,) = tokenizer("?\n").input_ids
    allowed = [best, *range(40, 52)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.random.get_rng_state()
    how = {"method": method, "allowed": allowed, "check_rows": 8, "seed": 3}
    rows = rows[:8]
    found = search_prompt(model, tokenizer, rows, **how)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    every = prompt_losses(model, encoded(tokenizer, rows), [[t] for t in allowed], **PACKED)
    assert found.input_ids == [allowed[int(every.argmin())]] == [best]
    assert found.loss == pytest.approx(float(every.min()), rel=1e-4)
    assert (found.text, found.survives) == ("?\n", 1.0)
    assert search_prompt(model, tokenizer, rows, **how) == found
    question = rows[0]["question"]
    assert found.as_text(question) == question + "?\n"
    assert found.as_ids(tokenizer)(question) == tokenizer(question + "?\n").input_ids


def test_a_prompt_that_merges_with_its_neighbours_is_told(
    tiny: Any, rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = tiny
    (newline,) = tokenizer("\n").input_ids  # after a question mark, it is part of one token
    how = {"allowed": [newline], "method": Gumbel(steps=1, batch_size=1)}
    found = search_prompt(model, tokenizer, rows, **how)
    assert found.survives == 0
    assert "give its token ids" in capsys.readouterr().out
    ids = found.as_ids(tokenizer)(rows[0]["question"])
    assert ids[-1] == newline
    assert tokenizer(found.as_text(rows[0]["question"])).input_ids != ids
    places = encoded(tokenizer, rows)
    questions = [row["question"].rstrip("?") for row in rows]
    share = share_that_survives(
        tokenizer, places, questions, template=AFTER, ids=[newline], text="\n"
    )
    assert share == 0  # other questions, other tokens


@pytest.mark.parametrize(
    "made", ["bfloat16", "untied", "scaled"], ids=["bfloat16", "untied", "scaled embedding"]
)
def test_half_precision_untied_and_scaled_embeddings_are_searched(
    rows: Any, made: str, tmp_path: Path
) -> None:
    model, tokenizer = load_model("tiny", device="cpu")
    if made == "bfloat16":
        model = model.to(torch.bfloat16)
    elif made == "untied":
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    else:
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        torch.manual_seed(0)
        config = Gemma3TextConfig(
            vocab_size=800, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=64,
        )  # fmt: skip
        model = Gemma3ForCausalLM(config).eval()
    found = search_prompt(
        model, tokenizer, rows[:4], num_tokens=2, method=Gumbel(steps=2, batch_size=2)
    )
    places = encoded(tokenizer, rows[:4])
    embedded = model.get_input_embeddings()(torch.tensor(found.input_ids)).detach()
    total = sum(float(plain_loss(model, place, embedded)[0]) for place in places)
    mean = total / sum(len(place.target) for place in places)
    assert found.loss == pytest.approx(mean, rel=0.02 if made == "bfloat16" else 1e-4)
    assert len(found.input_ids) == 2


PROBLEM = {"question": "1 + 1?", "solution": "1 + 1 = 2", "answer": "2"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": []}, "there are no rows"),
        ({"rows": "tiny-gsm"}, "rows are expected, found a text"),
        ({"rows": [{"prompt": "a", "completion": "b"}]}, "row 0: a row of the kind 'prompt'"),
        ({"rows": [{**PROBLEM, "solution": " "}]}, "row 0: solution is empty"),
        ({"rows": [{**PROBLEM, "solution": None}]}, "row 0: a row with null as solution"),
        ({"rows": [{**PROBLEM, "question": 3}]}, "row 0, column 'question'"),
        ({"template": "{question}"}, "{prompt} is expected once, found 0 times"),
        ({"template": "{prompt}{question}{question}"}, "{question} is expected once"),
        ({"template": 3}, "give a text with {question} and {prompt}"),
        ({"target": "answer"}, "give a text with {solution} or {answer}"),
        ({"method": "gumbel"}, "give Gumbel(…) or Swaps(…)"),
        ({"method": Gumbel(steps=0)}, "method.steps=0: give 1 or more"),
        ({"method": Gumbel(last_temperature=0)}, "give a number above 0"),
        ({"method": Swaps(candidates=2.5)}, "method.candidates=2.5"),
        ({"num_tokens": 0}, "num_tokens=0: give 1 or more"),
        ({"fluency": float("nan")}, "fluency=nan: give 0 or more"),
        ({"seed": -1}, "seed=-1"),
        ({"allowed": [0]}, "no token is allowed"),
        ({"allowed": [10**9]}, "1000000000 is no token"),
        ({"forbidden": ["a"]}, "'a' is no token"),
        ({"init": "two tokens"}, "and num_tokens is 1"),
        ({"init": [0]}, "init: token 0 ('<|endoftext|>') is forbidden"),
    ],
)
def test_what_cannot_be_searched_is_told(tiny: Any, given: dict[str, Any], message: str) -> None:
    model, tokenizer = tiny
    how = {"rows": [PROBLEM], "method": Gumbel(steps=1, batch_size=1), **given}
    with pytest.raises(ValueError, match=re.escape(message)):
        search_prompt(model, tokenizer, how.pop("rows"), **how)


def test_weights_that_are_not_finite_are_told(rows: Any) -> None:
    model, tokenizer = load_model("tiny", device="cpu")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    for method in (Gumbel(steps=1, batch_size=1), Swaps(steps=1, batch_size=1, candidates=2)):
        with pytest.raises(ValueError, match="step 0: the loss is nan"):
            search_prompt(model, tokenizer, rows, method=method)


def test_a_soft_prompt_answers_as_its_vectors_before_the_text_and_trains_nothing_else(
    rows: Any,
) -> None:
    model, tokenizer = load_model("tiny", device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    made = soft_prompt(model, tokenizer, rows, num_tokens=3, steps=6, learning_rate=0.1, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(made.losses) == 6
    answers = worked_answers(made.model, tokenizer, rows[:4], prompt="{}".format, max_new_tokens=12)
    embed = model.get_input_embeddings()
    vectors = made.model.get_prompt(1)[0]
    for row, answer in zip(rows[:4], answers, strict=True):
        asked = embed(torch.tensor(tokenizer(row["question"]).input_ids))
        inputs, written = torch.cat([vectors, asked]), list[int]()
        with torch.no_grad():
            while len(written) < 12 and (not written or written[-1] != tokenizer.eos_token_id):
                written.append(int(model(inputs_embeds=inputs[None]).logits[0, -1].argmax()))
                inputs = torch.cat([inputs, embed(torch.tensor(written[-1:]))])
        assert answer["text"] == tokenizer.decode(written, skip_special_tokens=True)
    again = load_model("tiny", device="cpu")[0]
    place = encoded(tokenizer, rows[:1], "{prompt}{question}")[0]
    total, _ = plain_loss(again, place, vectors)
    ids = torch.tensor([place.sequence([])["input_ids"]])
    labels = torch.tensor([place.sequence([])["labels"]])
    theirs = made.model(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids)).loss
    assert theirs.item() == pytest.approx(total.item() / len(place.target), rel=1e-5)
    with pytest.raises(ValueError, match="has an adapter already"):
        soft_prompt(made.model, tokenizer, rows)
    with pytest.raises(ValueError, match="before the whole text"):
        soft_prompt(again, tokenizer, rows, prompt="{question}{prompt}")


def test_the_command_writes_the_prompt_and_its_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompt.json"
    line = ["search-prompt", "--config", "tiny", "--output", str(file), "--train.limit", "8",
            "--test.limit", "4", "--gumbel.steps", "2", "--gumbel.batch_size", "2",
            "--model.quantize", "false", "--worked.max_new_tokens", "8"]  # fmt: skip
    cli.main(line)
    told = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert f"found {found['text']!r}" in told
    assert found["test"]["n"] == 4
    assert len(found["losses"]) == 2
    with pytest.raises(SystemExit, match="exists already"):
        cli.main(line)


def test_the_minimal_script_has_the_loss_and_the_gradient_of_the_package(
    tiny: Any, rows: Any
) -> None:
    path = Path(__file__).parent.parent / "minimal" / "prompt_search.py"
    spec = importlib.util.spec_from_file_location("minimal_prompt_search", path)
    assert spec is not None
    assert spec.loader is not None
    twin: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    model, tokenizer = tiny
    book = codebook(model, tokenizer, count=1)
    noise = gumbel_noise((4, 1, 795), generator=torch.Generator().manual_seed(2))
    drawn = book.draw(temperature=0.5, noise=noise)
    places = encoded(tokenizer, rows[:4])
    found = prompt_logprobs(model, places, drawn, **PACKED)
    loss = -found.target.sum() / sum(len(place.target) for place in places)
    (gradient,) = torch.autograd.grad(loss, book.codes)
    ids, embedded = twin.draw(book.codes, book.table, book.forbidden, noise[:, 0], 0.5)
    assert ids.tolist() == drawn.ids[:, 0].tolist()
    theirs = twin.batch_loss(model, [twin.encode(row, tokenizer) for row in rows[:4]], embedded)
    (expected,) = torch.autograd.grad(theirs, book.codes)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert float((gradient - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
