#!/usr/bin/env bash
# All torture loops, one after another, on the program of build/release. Arguments go to each of them:
#   tests/torture/run.sh --seconds 600     ten minutes each (default: one), from a seed that it prints
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
status=0
for loop in cross_product mutate kill_and_resume; do
  python3 "tests/torture/$loop.py" "$@" || status=1
done
exit $status
