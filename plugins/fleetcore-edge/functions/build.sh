#!/bin/sh
# Builds the functions of this folder into a folder, by default this one. With the versions that are named here each comes
# out byte for byte as it is checked in; tests/runner/test_functions.py compares.
#
#   sh build.sh [FOLDER [NAME …]]
#
# deadband: clang 14 and lld 14 (Debian 12: clang-14, lld-14). vibration: rustc 1.63 (rustc, libstd-rust-dev-wasm32).
# threshold: wasmtime of this plugin. smoothing: npm's assemblyscript 0.28.20 (npm install assemblyscript@0.28.20).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
into=$(cd "${1:-$here}" && pwd)
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- deadband vibration threshold smoothing
cd "$here"
for name in "$@"; do
  case $name in
    deadband)
      "${CLANG:-clang-14}" --target=wasm32 -O2 -mbulk-memory -ffreestanding -nostdlib -Wall -Wextra -Wno-unused-parameter \
        -Wl,--no-entry,--strip-all,-z,stack-size=65536 -fuse-ld="${WASM_LD:-/usr/bin/wasm-ld-14}" \
        -o "$into/deadband.wasm" deadband.c
      ;;
    vibration)
      "${RUSTC:-/usr/bin/rustc}" --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib -C opt-level=2 \
        -C panic=abort -C lto -C codegen-units=1 -C linker="${WASM_LD:-/usr/bin/wasm-ld-14}" -C link-arg=--strip-all \
        -C link-arg=-zstack-size=65536 --remap-path-prefix "$here=." -o "$into/vibration.wasm" vibration.rs
      ;;
    threshold)
      "${PYTHON:-python3}" -c 'import sys, wasmtime; open(sys.argv[2], "wb").write(wasmtime.wat2wasm(open(sys.argv[1]).read()))' \
        threshold.wat "$into/threshold.wasm"
      ;;
    smoothing)
      "${ASC:-asc}" smoothing.ts -O3 --runtime stub --use abort= -o "$into/smoothing.wasm"
      ;;
  esac
  chmod 644 "$into/$name.wasm"
done
