#!/usr/bin/env bash
# Sets up, builds, and asks the demo model three questions about videos that come with the repository. What is done already is not
# done again: a second run goes straight to the questions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
scripts/build.sh --target purekv_cli
purekv=build/release/bin/purekv
model=models/demo

if [[ ! -f $model/config.json ]]; then
  echo "demo.sh: $model/config.json is missing; the demo model comes with the repository" >&2
  exit 1
fi

# Asks each QUESTION about VIDEO on its own: the answer on stdout, below it the summary of tokens, memory and seconds.
ask() {
  local video=$1 question
  shift
  echo
  echo "== $video"
  for question in "$@"; do
    echo "?  $question"
    "$purekv" ask -m "$model" --video "$video" -p "$question" -n 96
  done
}

# Three videos that the model was not trained on.
for video in short-00 short-01 medium-00; do
  ask "$model/eval/$video.mp4" "How many objects appear?" "Which object appears first?" \
    "Describe everything that happens, in order."
done
