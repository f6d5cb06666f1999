#!/bin/bash
# Serve a model with SGLang (0.5), a whole copy on each GPU (data parallel): for models that fit one
# GPU, and many requests.
#
#   CUDA_VISIBLE_DEVICES=0,1,2,3 bash mathsft/recipes/serve/sglang.sh Qwen/Qwen2.5-0.5B 30000
#
# Then: mathsft evaluate --model Qwen/Qwen2.5-0.5B --base_url http://localhost:30000 --tasks mathqa
# SGLang is a package of its own, best in an environment of its own: pip install "sglang[all]"
#
#   DATA_PARALLEL    copies, one for each GPU; default: all GPUs that are visible
#   TENSOR_PARALLEL  GPUs that each copy is divided over; default 1. Both together need their product
#   SGLANG_OPTIONS   further options of sglang.launch_server, such as --mem-fraction-static 0.8
set -euo pipefail

MODEL=${1:?which model? bash sglang.sh MODEL [PORT]}
PORT=${2:-30000}
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    GPUS=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
else
    GPUS=$({ nvidia-smi --list-gpus 2>/dev/null || echo "one, or none"; } | wc -l)
fi
OPTIONS=(--host 127.0.0.1 --port "$PORT" --dp-size "${DATA_PARALLEL:-$GPUS}")
OPTIONS+=(--tp-size "${TENSOR_PARALLEL:-1}")
# The same request gives the same answer, whatever else is in its batch; and seeds are followed.
OPTIONS+=(--enable-deterministic-inference)
read -r -a MORE <<<"${SGLANG_OPTIONS:-}"
exec "${PYTHON:-python}" -m sglang.launch_server --model-path "$MODEL" "${OPTIONS[@]}" \
    ${MORE[@]+"${MORE[@]}"}
