#!/usr/bin/env bash
# Makes the tables and curves of docs/results-forms.md again: the cache's other forms (fewer bits, merged, thinner, in bases, looked up)
# beside eviction, by bytes.
#   scripts/forms.sh MODEL [RUN [FLAGS OF EVAL]]    MODEL: demo, or a file NAME.gguf of tools/real_models. RUN: directory of the results
#                                                   (default build/forms/NAME); one that was stopped is gone on with. FLAGS: for
#                                                   example --limit 2. LONG_CONTEXT: directory of tools/long_context/make.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=${1:?"which model: demo, or a .gguf file"}
name=$(basename "$model" .gguf)
run=${2:-build/forms/$name}
flags=("${@:3}")
purekv=build/release/bin/purekv
scripts/build.sh --target purekv_cli

int() { printf '%s:keys=int%d:values=int%d' "$1" "$2" "$2"; }
policies=(random uniform h2o snapkv purekv elastic prefixkv kvmerger look-m snapkv:merge=weighted purekv:merge=weighted)
for policy in snapkv purekv; do policies+=("$(int $policy 4)" "$(int $policy 4):budget-of=bytes"); done
policies+=("$(int purekv 8):budget-of=bytes" "$(int purekv 2):budget-of=bytes")
for bits in 8 4 2; do policies+=("$(int full $bits)"); done
policies+=(full:key-channels=0.6)
for view in quest actqkv attention-predictor; do policies+=("full:attend=$view:attend-budget=0.1"); done

mkdir -p "$run"
if [[ $model == demo ]]; then
  # A view and a policy of video, and bases found on the same questions.
  [[ -f $run.safetensors ]] || "$purekv" calibrate -m models/demo --set models/demo/eval/questions.jsonl --samples 8 --basis "$run.safetensors"
  policies+=(infinipot-v full:attend=rekv:attend-budget=0.1 "full:basis=$run.safetensors")
  data=(-m models/demo --data models/demo/eval/questions.jsonl --lengths "medium,long")
else
  data=(-m "$model" --weights bf16 --data "${LONG_CONTEXT:-build/long_context}/questions.jsonl" --lengths 1k)
fi
list=$(IFS=,; printf '%s' "${policies[*]}")
"$purekv" eval "${data[@]}" --dtype bf16 --policies "$list" --budgets 0.4,0.1 -o "$run" "${flags[@]}"
tools/cache_forms/table.py "$run" --name "$name" --page docs/results-forms.md --picture "docs/results/forms-$name.svg"
