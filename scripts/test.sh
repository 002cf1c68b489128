#!/usr/bin/env bash
# Sets up, builds and runs the tests. Arguments go to ctest (for example: -L fast, or -R Tokenizer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
scripts/build.sh
ctest --preset "${PRESET:-release}" -j "$(nproc)" "$@"
