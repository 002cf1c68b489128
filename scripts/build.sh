#!/usr/bin/env bash
# Builds PureKV: the preset `release` into build/release. Arguments go to `cmake --build` (for example: --target purekv_cli).
#   PRESET=debug scripts/build.sh     another preset of CMakePresets.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${PRESET:-release}
# Configuring again is left to the build itself, which knows when it has to be.
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset"
cmake --build --preset "$preset" "$@"
