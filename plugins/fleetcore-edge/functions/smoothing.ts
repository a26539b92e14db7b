// Smoothing: each value becomes the exponentially weighted mean of its series, by time constant.
// Configuration: {"time_constant_ms": 60000}. A reading that comes out of order goes on unchanged.
import { Block, numberOf } from "../sdk/assemblyscript/fleetcore";
export { fc_abi, fc_alloc } from "../sdk/assemblyscript/fleetcore";

// Series with a higher id go on unchanged.
const MOST_SERIES: u32 = 8192;
const mean = new StaticArray<f64>(MOST_SERIES);
const last = new StaticArray<i64>(MOST_SERIES);
let timeConstant: f64 = 60000;

export function fc_configure(at: usize, length: i32): i32 {
  timeConstant = numberOf(at, length, "time_constant_ms", timeConstant);
  return timeConstant > 0 ? 0 : 1;
}

export function fc_run(at: usize, length: i32): i64 {
  const batch = new Block(at);
  for (let i = 0; i < batch.readings; i++) {
    const id = batch.id(i);
    if (id >= MOST_SERIES) continue;
    const passed = batch.time(i) - unchecked(last[id]);
    if (passed < 0) continue;
    const weight = unchecked(last[id]) ? 1 - Math.exp(-(<f64>passed) / timeConstant) : 1;
    const next = unchecked(mean[id]) + weight * (batch.value(i) - unchecked(mean[id]));
    unchecked((mean[id] = next));
    unchecked((last[id] = batch.time(i)));
    batch.setValue(i, next);
  }
  return batch.answer;
}
