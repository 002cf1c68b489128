#!/usr/bin/env bash
# MileBench for a model of LLaVA-1.5's shape: CSP beside the full cache, SnapKV, H2O, LOOK-M and two baselines, in the CSP paper's settings.
#   scripts/milebench.sh MODEL DATA RUN [FLAGS OF EVAL]   MODEL: its directory. DATA: MileBench's folder, <task>/<task>.json and
#                                                         <task>/images. RUN: where questions, results and RUN/table.md go; one that
#                                                         was stopped is gone on with. FLAGS: for example --limit 20 (samples a task)
# TASKS: with commas between (default: all). POSITIONS, IMAGE_TOKENS, ANSWER_TOKENS: of the model and its answers (4096, 576, 512).
# KEEP_GOING=1 leaves out samples that are wrong. PUREKV: another program. docs/milebench.md says what is measured.
set -euo pipefail
model=$(realpath "${1:?which model: its directory}")
data=$(realpath "${2:?where MileBench lies}")
run=$(realpath -m "${3:?where the results go}")
flags=("${@:4}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
purekv=${PUREKV:-build/release/bin/purekv}
[[ -n ${PUREKV:-} ]] || scripts/build.sh --target purekv_cli
answer=${ANSWER_TOKENS:-512}
options=(--positions "${POSITIONS:-4096}" --image-tokens "${IMAGE_TOKENS:-576}" --answer-tokens "$answer")
[[ -z ${TASKS:-} ]] || options+=(--tasks "$TASKS")
[[ -z ${KEEP_GOING:-} ]] || { options+=(--keep-going); flags+=(--keep-going); }
status=0
# Runs a command; with KEEP_GOING it may say that something was left out, by status 1.
run() {
  local ended=0
  "$@" || ended=$?
  [[ $ended -eq 0 || ($ended -eq 1 && -n ${KEEP_GOING:-}) ]] || exit "$ended"
  [[ $ended -eq 0 ]] || status=1
}

run tools/milebench/convert.py "$data" "$run/data" "${options[@]}"
budget=$(tools/milebench/tasks.py --budget)
for questions in "$run"/data/*.jsonl; do
  task=$(basename "$questions" .jsonl)
  run "$purekv" eval -m "$model" --data "$questions" --media-root "$data" --policies "$(tools/milebench/tasks.py --policies "$task")" \
    --budgets "$budget" --when prompt -n "$answer" --viewer-videos 0 -o "$run/$task" "${flags[@]}"
done
tools/milebench/table.py "$run" -o "$run/table.md"
cat "$run/table.md"
exit "$status"
