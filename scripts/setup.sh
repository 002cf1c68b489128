#!/usr/bin/env bash
# Installs what building PureKV needs and this machine lacks. Does nothing, not even a network call, when all is there.
#   scripts/setup.sh [--ci] [--dry-run]
#     --ci       also what .ci/run and scripts/fuzz.sh need (Clang for the fuzz targets, ShellCheck, Chromium for the report's and the server's page, Python for tests/server and tests/torture)
#     --dry-run  only say what would be installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/packages.sh
source scripts/packages.sh

dry_run=false
wanted=("${build_packages[@]}")
for argument in "$@"; do
  case "$argument" in
    --ci) wanted+=("${ci_packages[@]}") ;;
    --dry-run) dry_run=true ;;
    *)
      echo "setup.sh: unknown argument '$argument'; known are --ci and --dry-run" >&2
      exit 2
      ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  echo "setup.sh: this is neither Debian nor Ubuntu. Install what these Debian packages hold, then run scripts/build.sh:" >&2
  echo "  ${wanted[*]}" >&2
  $dry_run && exit 0
  exit 1
fi

missing=()
for package in "${wanted[@]}"; do
  # A package may be installed under several architectures: any one will do. `|| true`: unknown packages are an error to dpkg.
  status=$(dpkg-query -W -f='${db:Status-Status} ' "$package" 2>/dev/null || true)
  [[ " $status" == *" installed "* ]] || missing+=("$package")
done

if ((${#missing[@]} == 0)); then
  $dry_run && echo "nothing to install"
  exit 0
fi
if $dry_run; then
  echo "would install: ${missing[*]}"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  # Without a terminal sudo cannot ask for a password: it must not try.
  if command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
  else
    echo "setup.sh: not root and no sudo. Have an administrator run this, then start again:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
