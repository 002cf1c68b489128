#!/usr/bin/env bash
# Makes the figures of docs/results.md again: the demo model's evaluation, its page, the two curves and the tables.
#   scripts/results.sh [RUN [FLAGS OF EVAL]]     RUN: directory of the results (default build/results); one that was stopped is
#                                                gone on with. FLAGS: for example --lengths short
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:-build/results}
flags=("${@:2}")
purekv=build/release/bin/purekv
scripts/build.sh --target purekv_cli

"$purekv" eval -m models/demo --data models/demo/eval/questions.jsonl --policies "random,uniform,streaming-llm,h2o,snapkv,keydiff,purekv,purekv:below=window,purekv:sources=4:heads=mean:below=wait" \
  --budgets 0.5,0.2,0.1,0.05 --when prompt,context -o "$run" "${flags[@]}"
"$purekv" report "$run" -o "$run/report.html" --svg "$run/charts"

mkdir -p docs/results
cp "$run/charts/quality-prompt.svg" "$run/charts/quality-context.svg" docs/results/
# The tables stand between two comments, with the command that made them.
{
  # shellcheck disable=SC2016  # the backquotes are Markdown
  printf '\nMade by `scripts/results.sh%s`: %s answers.\n\n' "$([[ $# -gt 0 ]] && printf ' %s' "$@")" "$(wc -l <"$run/results.jsonl")"
  cat "$run/summary.md"
  echo
} >"$run/tables.md"
awk -v table="$run/tables.md" '
  /<!-- tables: begin/ { print; while ((getline line < table) > 0) print line; skip = 1; next }
  /<!-- tables: end/ { skip = 0 }
  !skip { print }' docs/results.md >"$run/results.md"
cp "$run/results.md" docs/results.md
echo "docs/results.md and docs/results/*.svg are made; the page is $run/report.html"
