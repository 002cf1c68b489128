#!/usr/bin/env bash
# Runs one fuzz target for $FUZZ_SECONDS (default 5). What it found is printed, in base64, and ends in status 1.
#   fuzz/run_one.sh NAME [FOLDER]     FOLDER: real files to start from
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/corpus"
corpus=("$scratch/corpus")
[[ -n ${2:-} ]] && corpus+=("$2")
if "build/fuzz/fuzz/$name" -max_total_time="${FUZZ_SECONDS:-5}" -timeout=20 -rss_limit_mb=2048 -verbosity=0 \
  -artifact_prefix="$scratch/" "${corpus[@]}" >"$scratch/log" 2>&1; then
  echo "fuzzed: $name"
  exit 0
fi
echo "fuzzing $name found:"
tail -n 60 "$scratch/log"
for artifact in "$scratch"/crash-* "$scratch"/timeout-* "$scratch"/oom-* "$scratch"/leak-*; do
  [[ -f $artifact ]] || continue
  echo "$(basename "$artifact"), base64:"
  base64 "$artifact" | head -n 200
done
exit 1
