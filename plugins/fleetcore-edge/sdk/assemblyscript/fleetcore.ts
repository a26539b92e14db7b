// A function for fleetcore's edge runner in AssemblyScript: ABI 1 (docs/reference/edge-abi.md). `fc_abi` and `fc_alloc` are
// exported from here; the function exports `fc_run`, and `fc_configure` if it has a configuration.
//
// asc function.ts -O3 --runtime stub --use abort= --use trace= -o function.wasm

@external("fleetcore", "now")
export declare function now(): i64;

// Where batches go: 1 MiB, about 50,000 readings.
const ROOM: i32 = 1 << 20;
const place: usize = (heap.alloc(ROOM + 8) + 7) & ~7;

export function fc_abi(): i32 {
  return 1;
}

export function fc_alloc(size: i32): usize {
  return size <= ROOM ? place : 0;
}

// The columns of a block, by its address.
export class Block {
  constructor(private at: usize) {}

  get readings(): i32 {
    return load<i32>(this.at, 12);
  }

  set readings(count: i32) {
    store<i32>(this.at, count, 12);
  }

  // The number of the series of reading i; it stays the same while the function is loaded.
  id(i: i32): u32 {
    const index = load<u32>(this.at + load<u32>(this.at, 16) + 4 * i);
    return load<u32>(this.at + load<u32>(this.at, 8) + 32 * index);
  }

  // Milliseconds since 1970.
  time(i: i32): i64 {
    return load<i64>(this.at + load<u32>(this.at, 20) + 8 * i);
  }

  value(i: i32): f64 {
    return load<f64>(this.at + load<u32>(this.at, 24) + 8 * i);
  }

  setValue(i: i32, value: f64): void {
    store<f64>(this.at + load<u32>(this.at, 24) + 8 * i, value);
  }

  // What fc_run gives back.
  get answer(): i64 {
    return (64 << 32) | <i64>this.at;
  }
}

// The number of a member of the configuration, or another where there is none.
export function numberOf(at: usize, length: i32, name: string, otherwise: f64): f64 {
  const json = String.UTF8.decodeUnsafe(at, length);
  const key = json.indexOf('"' + name + '"');
  if (key < 0) return otherwise;
  const value = json.indexOf(":", key + name.length + 2);
  return value < 0 ? otherwise : parseFloat(json.substring(value + 1).trimStart());
}
