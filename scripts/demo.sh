#!/usr/bin/env bash
# Sets up, builds, and asks the demo model one question about each of three H.264 videos that come with the repository. What is
# done already is not done again: a second run goes straight to the questions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
purekv=build/release/bin/purekv
model=models/demo
questions=$model/eval/questions.jsonl

for file in $model/config.json $model/model.safetensors $questions; do
  if [[ ! -f $file ]]; then
    echo "demo.sh: $file is missing; it comes with the repository" >&2
    exit 1
  fi
done

scripts/setup.sh
scripts/build.sh --target purekv_installed  # the program, and what cmake --install takes besides

# A field of one line of questions.jsonl.
field() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" <<<"$2"; }

# Asks the first question of this LENGTH and TYPE. The answer goes to stdout, the summary (tokens, memory, seconds) to stderr.
ask() {
  local line
  line=$(awk -v l="\"length\": \"$1\"" -v t="\"type\": \"$2\"" 'index($0, l) && index($0, t) { print; exit }' "$questions")
  local video prompt
  video=$model/eval/$(field video "$line")
  prompt=$(field prompt "$line")
  printf '\n%s\n  question  %s\n  right     %s\n  answer    ' "$video" "$prompt" "$(field answer "$line")"
  "$purekv" ask -m "$model" --video "$video" -p "$prompt" -n 96
}

ask short time
ask medium shape
ask short describe
