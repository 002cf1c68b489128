#!/usr/bin/env bash
# Fuzzes everything that reads files from strangers, under the address and undefined-behaviour sanitizers. Status 1 when
# a target found something; fuzz/run_one.sh prints it.
#   FUZZ_SECONDS=60 scripts/fuzz.sh     a longer run of each target (default 5)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

scripts/setup.sh --ci

# Real files to start from, where there are any.
declare -A seeds
while read -r name folder; do seeds[$name]=$folder; done < <(grep -v '^#' fuzz/seeds.txt)
PRESET=fuzz scripts/build.sh --target fuzz_all
for source in fuzz/*_fuzz.cc; do
  name=$(basename "$source" .cc)
  echo "$name${seeds[$name]:+ ${seeds[$name]}}"
done | xargs -P "$(nproc)" -L 1 fuzz/run_one.sh
