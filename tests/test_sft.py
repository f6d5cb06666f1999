"""SFT: what is trained, that the loss is exact, and that TRL leaves the adapters alone."""

import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.models.adapters import add_adapter
from mathsft.training import loss as loss_module
from mathsft.training.loss import LinearCrossEntropy, has_plain_head, summed_loss
from mathsft.training.packing import IGNORE, attention_inputs, collate, packed_rows
from mathsft.training.sft import sft_trainer
from mathsft.training.tokens import tokenize_problems


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


def adapted(folder: Path, *, dropout: float = 0.0, b_scale: float = 0.02, **kwargs):
    """The small model with LoRA on the seven projections, B not zero so that every part learns."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, **kwargs)
    model = add_adapter(model, r=4, lora_alpha=8, lora_dropout=dropout)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=b_scale)
    return model


def adapter(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def one_step(
    folder: Path, tokenizer, out: Path, rows: int = 8, **kwargs
) -> dict[str, torch.Tensor]:
    """What one step of plain gradient descent changes, over its learning rate: the gradient.

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


def assert_same_gradients(one, other, tolerance: float = 1e-5):
    for name in one:
        scale = one[name].abs().max()
        assert scale > 0, name
        assert (one[name] - other[name]).abs().max() <= tolerance * scale, name


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
    batch = collate(packed_rows(documents, max_length=512, packing=False), pad_token_id=0)
    stops = (batch["labels"] == tokenizer.eos_token_id).sum(dim=1)
    assert stops.tolist() == [1] * 6


def test_the_boundary_is_where_a_model_meets_it_and_joint_tokenization_agrees(tokenizer):
    from mathsft.data.synthetic import tiny_gsm_rows

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
    with pytest.raises(ValueError, match="nothing to train on; dropped: 4 no worked solution"):
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


@pytest.mark.parametrize("logits_at_once", [1, 7 * 50, 2**26])
def test_the_blockwise_loss_and_its_gradients_are_those_of_cross_entropy(
    monkeypatch, logits_at_once
):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", logits_at_once)
    generator = torch.manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (23,), generator=generator)
    expected = cross_entropy(hidden @ weight.T, targets, reduction="sum")
    ours = LinearCrossEntropy.apply(hidden, weight, targets)
    assert torch.allclose(ours.double(), expected, rtol=1e-6)
    pairs = zip(
        torch.autograd.grad(3 * ours, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
        strict=True,
    )
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in pairs)


def test_the_float16_gradient_keeps_the_small_probabilities():
    """With 150,000 words most probabilities are below what float16 holds without the lift."""
    generator = torch.manual_seed(0)
    hidden = torch.randn(3, 16, generator=generator, dtype=torch.float16).requires_grad_()
    weight = torch.randn(150_000, 16, generator=generator).mul(0.5).half()
    targets = torch.tensor([1, 2, 3])
    gradients = []
    for h, w in [(hidden, weight), (hidden.detach().float().requires_grad_(), weight.float())]:
        gradients += torch.autograd.grad(LinearCrossEntropy.apply(h, w, targets), h)
    half, full = gradients
    assert (half.float() - full).abs().max() < 2e-3 * full.abs().max()


def test_a_head_that_is_not_plain_gives_the_same_loss_through_the_model(small_model_dir, tokenizer):
    documents, _ = tokenize_problems(problems(4), tokenizer)
    batch = collate(packed_rows(documents, max_length=512), pad_token_id=0)
    model = AutoModelForCausalLM.from_pretrained(small_model_dir).eval()
    assert has_plain_head(model)
    inputs = attention_inputs(model, batch)
    plain = summed_loss(model, inputs, batch["labels"])
    model.config.final_logit_softcapping = 30.0  # Qwen2 itself ignores it
    assert not has_plain_head(model)
    assert torch.allclose(plain, summed_loss(model, inputs, batch["labels"]), rtol=1e-6)


def test_only_positions_that_predict_a_trained_token_are_projected(
    small_model_dir, tokenizer, monkeypatch
):
    documents, _ = tokenize_problems(problems(4), tokenizer)
    batch = collate(packed_rows(documents, max_length=512), pad_token_id=0)
    model = adapted(small_model_dir)
    projected: list[int] = []
    by_the_head: list[int] = []
    apply = LinearCrossEntropy.apply

    def counted(hidden, weight, targets):
        projected.append(hidden.shape[0])
        return apply(hidden, weight, targets)

    monkeypatch.setattr(LinearCrossEntropy, "apply", counted)
    model.get_output_embeddings().register_forward_hook(
        lambda head, given, logits: by_the_head.append(logits.shape[:-1].numel())
    )
    summed_loss(model, attention_inputs(model, batch), batch["labels"]).backward()
    trained = sum(label != IGNORE for d in documents for label in d["labels"])
    assert trained < 0.9 * batch["labels"].numel()
    assert projected == [trained]
    assert by_the_head == [0]


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
    batch = collate(packed_rows(documents, max_length=512, packing=False), pad_token_id=0)
    with torch.no_grad():
        total = summed_loss(model.eval(), attention_inputs(model, batch), batch["labels"])
    expected = float(total / (batch["labels"] != IGNORE).sum())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


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
    """TRL casts them to bfloat16 while it builds the trainer, on both stacks."""
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
    assert logs[-1]["num_tokens"] == 4 * sum(len(d["input_ids"]) for d in documents)
    assert logs[-1]["tokens_per_second"] > 0
    assert not caplog.records
    noise = [str(w.message) for w in raised if w.category is not DeprecationWarning]
    assert noise == []
