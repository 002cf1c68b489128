#!/usr/bin/env bash
# The bars of `purekv serve` that look for leaks, hangs and crashes (docs/server.md): builds what they need and runs them, each
# with its figure in one line. About seven minutes on two cores; too heavy for ctest. Status 1 when one is missed.
#   scripts/server_bars.sh [--soak SECONDS] [--seed N] [S6 S7 ..]     --soak 1800: S14 as it is meant to be
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh --ci </dev/null
scripts/build.sh --target purekv_cli
PRESET=fuzz scripts/build.sh --target chat_request_fuzz multipart_fuzz
PYTHONDONTWRITEBYTECODE=1 PUREKV_CLI=$PWD/build/release/bin/purekv python3 tests/server/bars/run.py "$@"
