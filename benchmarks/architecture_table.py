"""The architectures of `architectures.py`: transformers' model types and their small settings."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 795,  # that of the embedded tokenizer
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS = {"head_dim": 8}  # for types that do not compute a head's width from the model's width
_MIXED = ["sliding_attention", "full_attention"]
_WINDOW = {"sliding_window": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# TRL sets this, and transformers then adds its balance loss; the forest never requests it.
_ROUTER = {"output_router_logits": True}
_OLD_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
_ROTARY_GPT = {**_OLD_GPT, "rotary_dim": 4}
_DEEPSEEK = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_nope_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}  # fmt: skip

# By name: settings that differ from SIZES, with a model_type if the name is not one.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen2 with windows": {
        "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1, **_WINDOW
    },
    "qwen3": {**_HEADS},
    "qwen3 with windows": {
        "model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 1, **_WINDOW,
        **_HEADS,
    },
    "qwen2_moe": {
        **_EXPERTS, **_ROUTER, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1
    },
    "qwen3_moe": {
        **_EXPERTS, **_ROUTER, **_HEADS, **_WINDOW, "use_sliding_window": True,
        "decoder_sparse_step": 1,
    },
    "mistral": {**_WINDOW},
    "ministral": {**_WINDOW, **_HEADS, "layer_types": _MIXED},
    "mixtral": {**_LOCAL_EXPERTS, **_ROUTER, **_WINDOW},
    "phi": {},
    "phi3": {**_WINDOW},
    "phimoe": {**_LOCAL_EXPERTS, **_ROUTER, **_WINDOW},
    "gemma": {**_HEADS},
    "gemma2": {**_HEADS, **_WINDOW, "layer_types": _MIXED, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_HEADS, **_WINDOW, "layer_types": _MIXED, "query_pre_attn_scalar": 8},
    "gemma3": {
        "text_config": {
            **SIZES, **_HEADS, **_WINDOW, "model_type": "gemma3_text", "layer_types": _MIXED,
            "query_pre_attn_scalar": 8,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 14, "patch_size": 14,
        },
        "mm_tokens_per_image": 1,
    },
    "gpt_oss": {**_LOCAL_EXPERTS, **_ROUTER, **_HEADS, **_WINDOW, "layer_types": _MIXED},
    "llama4_text": {
        **_HEADS, **_LOCAL_EXPERTS, **_ROUTER, "num_experts_per_tok": 1,
        "intermediate_size_mlp": 64, "attention_chunk_size": 8, "interleave_moe_layer_step": 2,
        "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"],
    },
    "cohere": {},
    "cohere2": {**_WINDOW, "layer_types": _MIXED},
    "starcoder2": {**_WINDOW},
    "olmo": {},
    "olmo2": {},
    "olmo3": {**_WINDOW, "layer_types": _MIXED},
    "olmoe": {**_EXPERTS, **_ROUTER},
    "granite": {"logits_scaling": 2.0},
    "granitemoe": {**_LOCAL_EXPERTS, **_ROUTER, "logits_scaling": 2.0},
    "glm": {**_HEADS},
    "glm4": {**_HEADS},
    "glm4_moe": {**_HEADS, **_DEEPSEEK, "num_key_value_heads": 2},
    "deepseek_v3": _DEEPSEEK,
    "exaone4": {**_WINDOW, "layer_types": _MIXED},
    "smollm3": {},
    "stablelm": {},
    "nemotron": {},
    "ernie4_5": {**_HEADS},
    "seed_oss": {**_HEADS},
    "apertus": {},
    "helium": {**_HEADS},
    "persimmon": {},
    "falcon": {},
    "gpt_neox": {},
    "gptj": _ROTARY_GPT,
    "codegen": _ROTARY_GPT,
    "gpt2": _OLD_GPT,
    "gpt_bigcode": _OLD_GPT,
    "opt": {"ffn_dim": 64},
    "gpt_neo": {
        "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 64,
    },
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "falcon with alibi": {"model_type": "falcon", "alibi": True},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, **_HEADS},
    "mamba": {"state_size": 4},
}  # fmt: skip

_ALIBI = "ALiBi uses places in the row"
WHY = {
    "gemma2": "sdpa would leave out the cap on attention scores",
    "gemma3": "text only; it reads images too",
    "gpt_oss": "it has no sdpa",
    "gpt_neo": "its windows use places in the row: rows of at most `window_size` tokens",
    "bloom": _ALIBI,
    "mpt": _ALIBI,
    "falcon with alibi": _ALIBI,
    "lfm2": "convolutions run along the row",
    "recurrent_gemma": "recurrence runs along the row",
    "mamba": "recurrence runs along the row",
}
