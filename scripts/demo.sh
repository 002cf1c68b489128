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

# Asks QUESTIONS about VIDEO: the answers on stdout, and below them the summary of tokens, memory and seconds.
ask() {
  local video=$1 question
  shift
  local prompts=()
  echo
  echo "== $video"
  for question in "$@"; do
    prompts+=(-p "$question")
    echo "?  $question"
  done
  "$purekv" ask -m "$model" --video "$video" "${prompts[@]}" -n 64
}

videos=("$model"/eval/*.mp4)
if [[ ! -f ${videos[0]} ]]; then
  echo "demo.sh: no video in $model/eval" >&2
  exit 1
fi
first=${videos[0]}
second=${videos[1]:-$first}
ask "$first" "What is in the video?" "How many objects are there?"
ask "$second" "Describe the video."
