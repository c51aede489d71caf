#!/usr/bin/env bash
# Resolves requirements/dev.in in a fresh environment and writes the pins to requirements/dev.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"${1:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -r requirements/dev.in
{
  echo "# Written by \`make lock\` from dev.in; edit there."
  # A local version (torch's +cpu) names a build; the pin must fit every build of that version.
  "$work/venv/bin/pip" freeze --all | grep -v '^pip==' | sed 's/+[A-Za-z0-9.]*$//'
} > requirements/dev.txt
