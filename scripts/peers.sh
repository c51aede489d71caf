#!/usr/bin/env bash
# The libraries aiolit is compared with, each in a virtual environment of its own.
#
#   scripts/peers.sh [NAME...]      build what is missing (default: every litdata)
#   scripts/peers.sh bench-peers    the litdatas, MosaicML streaming, WebDataset and obstore
#   scripts/peers.sh --path NAME    print NAME's interpreter; fails where it is not built
#
# Environments live outside the clone, in $AIOLIT_PEERS_DIR or the user's cache folder, in a folder whose
# name carries a hash of the pinned requirements: another clone with the same pins shares them, one
# with other pins gets its own. torch is installed once, in "base", which the others see through a
# .pth file. Nothing of aiolit is visible in any of them.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
root=${AIOLIT_PEERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/aiolit-peers}
python=${PEERS_PYTHON:-$(command -v python3.11 || command -v python3)}
litdatas=(litdata-0.2.58 litdata-0.2.76 litdata-0.2.76-pyarrow)
others=(mosaicml-streaming webdataset obstore)
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE=1

pins() { echo "$here/requirements/peer-$1.txt"; }

digest() { # of the pins of NAME, of base's, and of the interpreter
  { "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; grep -hv "^#" "$(pins base)" "$(pins "$1")"; } |
    sha256sum | cut -c1-12
}

home() { echo "$root/$1-$(digest "$1")"; }

site_packages() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

build() {
  local name=$1 target base
  target=$(home "$name")
  if [ -e "$target/.complete" ]; then return; fi
  echo "peers: building $name in $target" >&2
  rm -rf "$target"
  "$python" -m venv "$target"
  if [ "$name" != base ]; then
    base=$(site_packages "$(home base)")
    echo "$base" >"$(site_packages "$target")/aiolit-peers-base.pth"
  fi
  # --no-deps: the pins are the whole closure, less what has no build or is not needed.
  if ! "$target/bin/python" -m pip install --disable-pip-version-check --no-deps -r "$(pins "$name")" \
    >"$target/pip.log" 2>&1; then
    cat "$target/pip.log" >&2
    exit 1
  fi
  touch "$target/.complete"
}

if [ "${1:-}" = --path ]; then
  target=$(home "$2")
  if [ ! -e "$target/.complete" ]; then
    echo "peers: $2 is not built: run 'make peers'" >&2
    exit 1
  fi
  echo "$target/bin/python"
  exit
fi

names=()
for word in "${@:-litdata}"; do
  case $word in
    litdata) names+=("${litdatas[@]}") ;;
    bench-peers) names+=("${litdatas[@]}" "${others[@]}") ;;
    *) names+=("$word") ;;
  esac
done
for name in "${names[@]}"; do
  if [ ! -f "$(pins "$name")" ]; then
    echo "peers: no $(pins "$name")" >&2
    exit 2
  fi
done

mkdir -p "$root"
exec 9>"$root/.lock"
flock 9 # two builders: the second waits, then finds everything done
build base
for name in "${names[@]}"; do
  build "$name"
done
