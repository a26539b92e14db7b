#!/bin/sh
# Installs the real peers that tests talk to, where it may; else names what is missing and goes on: tests that need a
# missing peer are skipped loudly, or fail where FLEETCORE_REQUIRE=all is set.
set -u
missing=""
need() { # PROGRAM PACKAGE
  command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need curl curl
need openssl openssl
[ -z "$missing" ] && exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  else
    echo "Missing peers:$missing. Install them to run every test." >&2
    exit 0
  fi
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "Missing peers:$missing. Install them by your system's package manager to run every test." >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# A broker that the package starts by itself would only be in the way; the tests start their own.
{ $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 \
  || echo "Missing peers:$missing could not be installed." >&2
exit 0
