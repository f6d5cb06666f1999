#!/bin/bash
# Serve a model with `transformers serve`, also without a GPU: pip install "mathsft[serving]"
#
#   bash mathsft/recipes/serve/transformers.sh Qwen/Qwen2.5-0.5B 8000
#
# Then: mathsft evaluate --model Qwen/Qwen2.5-0.5B --base_url http://localhost:8000 \
#           --server transformers --tasks gsm8k
# It only writes: tasks with log-likelihoods (mathqa, mmlu) need vLLM or SGLang.
#
#   TRANSFORMERS_OPTIONS  further options, such as --continuous-batching or --device cuda:0
set -euo pipefail

MODEL=${1:?which model? bash transformers.sh MODEL [PORT]}
PORT=${2:-8000}
read -r -a MORE <<<"${TRANSFORMERS_OPTIONS:-}"
exec "${TRANSFORMERS:-transformers}" serve "$MODEL" --host 127.0.0.1 --port "$PORT" \
    ${MORE[@]+"${MORE[@]}"}
