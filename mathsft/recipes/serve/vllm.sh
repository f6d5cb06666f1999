#!/bin/bash
# Serve a model with vLLM (0.10.2 or later), one copy divided over several GPUs (tensor parallel):
#
#   CUDA_VISIBLE_DEVICES=0,1 bash mathsft/recipes/serve/vllm.sh Qwen/Qwen2.5-7B 8000
#   ADAPTERS="maths=runs/01_sft/adapter" bash mathsft/recipes/serve/vllm.sh Qwen/Qwen2.5-0.5B 8000
#
# Then: mathsft evaluate --model Qwen/Qwen2.5-7B --base_url http://localhost:8000 --tasks gsm8k
# An adapter is asked by its own name: --model maths --tokenizer Qwen/Qwen2.5-0.5B
# vLLM is a package of its own, best in an environment of its own: pip install vllm
#
#   TENSOR_PARALLEL  GPUs that one copy is divided over; default: all that are visible. It must
#                    divide the number of attention heads (Qwen2.5-0.5B has 14: 1, 2 or 7)
#   ADAPTERS         NAME=FOLDER of LoRA adapters, with spaces between them
#   MAX_LORA_RANK    the largest r of the adapters; default 64 (vLLM's own default is 16)
#   VLLM_OPTIONS     further options of `vllm serve`, such as --max-model-len 4096; weights that are
#                    stored in float32 (watch --serve merges so) are computed in float16 unless
#                    --dtype says otherwise: --dtype bfloat16
set -euo pipefail

MODEL=${1:?which model? bash vllm.sh MODEL [PORT]}
PORT=${2:-8000}
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    GPUS=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
else
    GPUS=$({ nvidia-smi --list-gpus 2>/dev/null || echo "one, or none"; } | wc -l)
fi
OPTIONS=(--host 127.0.0.1 --port "$PORT" --tensor-parallel-size "${TENSOR_PARALLEL:-$GPUS}")
# Log-probabilities at the sampling temperature, which training on served attempts needs.
OPTIONS+=(--logprobs-mode processed_logprobs)
# Nothing of the checkpoint's generation config (a repetition penalty, top_k) that nobody asked for.
OPTIONS+=(--generation-config vllm)
if [ -n "${ADAPTERS:-}" ]; then
    read -r -a LORA <<<"$ADAPTERS"
    OPTIONS+=(--enable-lora --max-lora-rank "${MAX_LORA_RANK:-64}" --lora-modules "${LORA[@]}")
fi
read -r -a MORE <<<"${VLLM_OPTIONS:-}"
exec vllm serve "$MODEL" "${OPTIONS[@]}" ${MORE[@]+"${MORE[@]}"}
