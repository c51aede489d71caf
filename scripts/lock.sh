#!/usr/bin/env bash
# Resolves each requirements/NAME.in in a fresh environment and writes the pins to requirements/NAME.txt.
#   lock.sh [PYTHON [NAME...]]
set -euo pipefail
cd "$(dirname "$0")/.."

python="${1:-python3}"
names=("${@:2}")
[ "${#names[@]}" -gt 0 ] || names=(dev docs bench)
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
for name in "${names[@]}"; do
  "$python" -m venv "$work/$name"
  "$work/$name/bin/pip" uninstall --quiet --yes setuptools # Python 3.11 puts it there; keep it only where needed
  "$work/$name/bin/pip" install --quiet -r "requirements/$name.in"
  {
    echo "# Written by \`make lock\` from $name.in; edit there."
    # A local version (torch's +cpu) names a build; the pin must fit every build of that version.
    "$work/$name/bin/pip" freeze --all | grep -v '^pip==' | sed 's/+[A-Za-z0-9.]*$//'
  } > "$work/pins"
  mv "$work/pins" "requirements/$name.txt"
done
