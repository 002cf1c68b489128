#!/usr/bin/env bash
# Fuzzes everything that reads files from strangers, under the address and undefined-behaviour sanitizers. Status 1 when
# a target found something; fuzz/run_one.sh prints it.
#   FUZZ_SECONDS=60 scripts/fuzz.sh     a longer run of each target (default 5)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

scripts/setup.sh --ci

# Real files to start from, where there are any.
declare -A seeds=(
  [media_fuzz]=tests/data/media
  [npy_fuzz]=tests/data/reference/resize
  [gguf_fuzz]=tests/data/reference/gguf
  [pkv_fuzz]=tests/data/pkv
  [dataset_fuzz]=tests/data/eval
  [chat_request_fuzz]=tests/data/server/requests
  [multipart_fuzz]=tests/data/server/uploads
  [jinja_fuzz]=tests/data/reference/chat_templates/templates
  [tokenizer_fuzz]=tests/data/reference/tokenizer
)
PRESET=fuzz scripts/build.sh --target fuzz_all
for source in fuzz/*_fuzz.cc; do
  name=$(basename "$source" .cc)
  echo "$name${seeds[$name]:+ ${seeds[$name]}}"
done | xargs -P "$(nproc)" -L 1 fuzz/run_one.sh
