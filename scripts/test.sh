#!/usr/bin/env bash
# Sets up, builds and runs the tests. Arguments go to ctest (for example: -L fast, or -R Tokenizer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
scripts/build.sh
# Several tests run at once, each with as many threads as there are cores: threads that wait must sleep, not spin.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
ctest --preset "${PRESET:-release}" -j "$(nproc)" "$@"
