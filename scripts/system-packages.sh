#!/usr/bin/env bash
# Installs the system packages the checks need where they are missing: Debian or Ubuntu, as root.
#   python3-venv             Debian ships Python without ensurepip
#   nginx and its lua module the S3 server that benchmarks/ and the tests read from
#   chromium-headless-shell  the browser that the viewer's test looks with; where it cannot be had, that test is skipped
set -euo pipefail

python="${1:-python3}"
missing=()
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v nginx >/dev/null 2>&1 || missing+=(nginx-light)
compgen -G '/usr/lib/nginx/modules/ngx_http_lua_module.so' >/dev/null || missing+=(libnginx-mod-http-lua)

browser=()
command -v chromium-headless-shell chromium google-chrome >/dev/null 2>&1 || browser=(chromium-headless-shell)

if [ "${#missing[@]}" -eq 0 ] && [ "${#browser[@]}" -eq 0 ]; then
  exit 0
fi
if [ "${#missing[@]}" -eq 0 ] && { [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; }; then
  echo "no chromium: the viewer's test in a browser will be skipped" >&2
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "missing system packages: ${missing[*]}. Install them (apt-get install ${missing[*]}) and run again." >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || [ "${#missing[@]}" -eq 0 ]
# Debian starts an installed nginx as a service, unless a policy says no; the checks start their own on loopback.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
if [ "${#missing[@]}" -gt 0 ]; then
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
if [ "${#browser[@]}" -gt 0 ]; then
  # Ubuntu has no such package.
  apt-get install -y -qq --no-install-recommends "${browser[@]}" ||
    echo "no chromium: the viewer's test in a browser will be skipped" >&2
fi
