"""SFT: which tokens are trained, an exact loss, and adapters that TRL does not change."""

import warnings
from pathlib import Path

import pytest
import torch
from gradients import adapted, adapter, assert_same_gradients
from made_rows import sft_batch, sft_rows
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.make import sft_trainer


def problems(count: int) -> list[dict[str, str]]:
    return [
        {
            "question": f"Tom has {n} apples{' and pears' * (n % 4)}. How many are left?",
            "solution": f"He has {n} - 2 = {n - 2} apples.\n" * (1 + n % 3) + "Done.",
            "answer": str(n - 2),
        }
        for n in range(2, 2 + count)
    ]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path):
    return AutoTokenizer.from_pretrained(small_model_dir)


def one_step(
    folder: Path, tokenizer, out: Path, rows: int = 8, **kwargs
) -> dict[str, torch.Tensor]:
    """Return the gradient: what one step of plain gradient descent changes, over its rate.

    The rate is large so that the change is not lost in the rounding of the weights.
    """
    model = adapted(folder)
    before = adapter(model)
    trainer = sft_trainer(
        model,
        tokenizer,
        problems(rows),
        output_dir=out,
        **{
            "max_length": 128,
            "max_steps": 1,
            "learning_rate": 1e4,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "optim": "sgd",
            "max_grad_norm": 1e9,
            "disable_tqdm": True,
            **kwargs,
        },
    )
    trainer.train()
    return {name: (before[name] - after) / 1e4 for name, after in adapter(model).items()}


def test_labels_are_exactly_the_completion_and_the_stop_token(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # the case that goes wrong elsewhere
    rows = problems(6)
    documents, dropped = tokenize_problems(rows, tokenizer)
    assert not dropped
    for problem, document in zip(rows, documents, strict=True):
        trained = [label for label in document["labels"] if label != IGNORE]
        completion = sft_completion(problem["solution"], problem["answer"])
        assert tokenizer.decode(trained) == completion + tokenizer.eos_token
        prompt = document["input_ids"][: -len(trained)]
        assert tokenizer.decode(prompt) == sft_prompt(problem["question"])
    batch = sft_batch(sft_rows(rows, tokenizer).to_list())
    assert int((batch["labels"] == tokenizer.eos_token_id).sum()) == 6


def test_the_boundary_is_where_a_model_meets_it_and_joint_tokenization_agrees(tokenizer):
    from mathsft.data.synthetic.grade_school import tiny_gsm_rows

    rows = [
        {"question": row["question"], "solution": row["answer"], "answer": ""}
        for row in tiny_gsm_rows("train", 50)
    ]
    documents, _ = tokenize_problems(rows, tokenizer, max_length=10_000)
    for row, document in zip(rows, documents, strict=True):
        joined = sft_prompt(row["question"]) + row["solution"] + tokenizer.eos_token
        assert document["input_ids"] == tokenizer(joined)["input_ids"]
        prompt = tokenizer(sft_prompt(row["question"]))["input_ids"]
        assert document["labels"][: len(prompt)] == [IGNORE] * len(prompt)
        assert document["labels"][len(prompt) :] == document["input_ids"][len(prompt) :]


def test_train_on_prompt_trains_every_token_but_the_first(tokenizer):
    documents, _ = tokenize_problems(problems(3), tokenizer, train_on_prompt=True)
    for document in documents:
        assert document["labels"] == [IGNORE, *document["input_ids"][1:]]


def test_what_does_not_fit_or_has_no_solution_is_dropped_whole_counted_and_shown(
    tokenizer, small_model_dir, tmp_path, capsys
):
    rows = problems(4)
    rows[0]["solution"] = "long " * 500
    rows[1]["solution"] = " "
    documents, dropped = tokenize_problems(rows, tokenizer, max_length=100)
    assert dropped == {"longer than 100 tokens": 1, "no worked solution": 1}
    assert len(documents) == 2
    sft_trainer(adapted(small_model_dir), tokenizer, rows, output_dir=tmp_path, max_length=100)
    shown = capsys.readouterr().out
    assert "2 documents" in shown
    assert "1 longer than 100 tokens" in shown
    assert "1 no worked solution" in shown
    empty = [{**row, "solution": ""} for row in rows]
    with pytest.raises(ValueError, match="no row is left; dropped: 4 no worked solution"):
        sft_trainer(adapted(small_model_dir), tokenizer, empty, output_dir=tmp_path)


def test_a_tokenizer_without_a_stop_token_is_an_error(small_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(small_model_dir)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        tokenize_problems(problems(1), tokenizer)


def test_a_model_with_nothing_to_train_is_an_error(small_model_dir, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(small_model_dir).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        sft_trainer(model, tokenizer, problems(2), output_dir=tmp_path)


def test_accumulating_four_batches_is_one_batch_four_times_as_large(
    small_model_dir, tokenizer, tmp_path
):
    """Rows train different numbers of tokens, so an average of averages would differ."""
    sizes = {"packing": False, "rows": 4}
    large = one_step(
        small_model_dir, tokenizer, tmp_path / "a", per_device_train_batch_size=4, **sizes
    )
    small = one_step(
        small_model_dir,
        tokenizer,
        tmp_path / "b",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        **sizes,
    )
    assert_same_gradients(large, small)


def test_packed_padded_and_checkpointed_gradients_are_equal(small_model_dir, tokenizer, tmp_path):
    size = {"per_device_train_batch_size": 8}
    packed = one_step(small_model_dir, tokenizer, tmp_path / "a", **size)
    padded = one_step(small_model_dir, tokenizer, tmp_path / "b", packing=False, **size)
    checkpointed = one_step(
        small_model_dir, tokenizer, tmp_path / "c", gradient_checkpointing=True, **size
    )
    assert_same_gradients(packed, padded)
    assert_same_gradients(packed, checkpointed)


def test_the_gradient_is_that_of_the_documents_one_by_one(small_model_dir, tokenizer, tmp_path):
    model = adapted(small_model_dir)
    documents, _ = tokenize_problems(problems(8), tokenizer, max_length=128)
    trained = sum(label != IGNORE for d in documents for label in d["labels"])
    for document in documents:
        logits = model(input_ids=torch.tensor([document["input_ids"]])).logits[0, :-1]
        targets = torch.tensor(document["labels"][1:])
        (cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") / trained).backward()
    alone = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    packed = one_step(small_model_dir, tokenizer, tmp_path, per_device_train_batch_size=8)
    assert_same_gradients(alone, packed)


def test_the_evaluation_loss_is_per_trained_token_of_the_whole_set(
    small_model_dir, tokenizer, tmp_path
):
    model = adapted(small_model_dir)
    held_out = problems(7)
    trainer = sft_trainer(
        model,
        tokenizer,
        problems(2),
        eval_problems=held_out,
        output_dir=tmp_path,
        max_length=100,
        per_device_train_batch_size=2,
        disable_tqdm=True,
    )
    documents, _ = tokenize_problems(held_out, tokenizer)
    batch = TokenForest(documents).tensors(pad_token_id=0)
    with torch.no_grad():
        total = -sequence_logprobs(model.eval(), batch).sum.sum()
    expected = float(total / len(batch["scored"]))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapters_bit_for_bit(small_model_dir, tokenizer, tmp_path):
    def run(name: str, seed: int) -> dict[str, torch.Tensor]:
        model = adapted(small_model_dir, dropout=0.1)
        trainer = sft_trainer(
            model,
            tokenizer,
            problems(12),
            output_dir=tmp_path / name,
            max_length=100,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=3,
            seed=seed,
            disable_tqdm=True,
        )
        trainer.train()
        return adapter(model)

    first, second, other = run("a", 1), run("b", 1), run("c", 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_adapters_of_a_4_bit_model_are_float32_and_untouched_before_training(
    small_model_dir, tokenizer, tmp_path, checkpointing
):
    """TRL's trainer casts them to bfloat16 while it is built; ours leaves them."""
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = adapted(small_model_dir, quantization_config=quantization, dtype=torch.float32)
    assert model.is_loaded_in_4bit
    before = adapter(model)
    trainer = sft_trainer(
        model,
        tokenizer,
        problems(6),
        output_dir=tmp_path,
        max_length=100,
        max_steps=2,
        gradient_checkpointing=checkpointing,
        logging_steps=1,
        disable_tqdm=True,
    )
    built = adapter(trainer.model)
    assert {value.dtype for value in built.values()} == {torch.float32}
    assert all(torch.equal(before[name], built[name]) for name in before)
    trainer.train()
    trained = adapter(trainer.model)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert not any(torch.equal(trained[name], built[name]) for name in built)
    assert all(value.isfinite().all() for value in trained.values())


def test_training_lowers_the_loss_quietly_and_logs_useful_tokens(
    small_model_dir, tokenizer, tmp_path, caplog
):
    model = adapted(small_model_dir)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        trainer = sft_trainer(
            model,
            tokenizer,
            problems(16),
            output_dir=tmp_path,
            max_length=128,
            learning_rate=1e-2,
            num_train_epochs=4,
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < logs[0]["loss"] - 0.2
    documents, _ = tokenize_problems(problems(16), tokenizer)
    assert logs[-1]["num_tokens"] == 4 * sum(len(d["input_ids"]) - 1 for d in documents)
    assert logs[-1]["tokens_per_second"] > 0
    assert not caplog.records
    noise = [str(w.message) for w in raised if w.category is not DeprecationWarning]
    assert noise == []
