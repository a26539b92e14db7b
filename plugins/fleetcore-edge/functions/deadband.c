/* Deadband: a reading goes on when it differs by more than `deadband` from the last one of its series that went on, or
 * when `max_interval_ms` has passed since. Configuration: {"deadband": 0.5, "max_interval_ms": 600000}; both may be
 * missing: then 0, and no interval.
 */
#include "../sdk/c/fleetcore_function.h"

/* Series with a higher id go on unchanged: nothing is lost. */
#define MOST_SERIES 16384

typedef struct {
  double value;
  int64_t time;
} sent;

static sent last[MOST_SERIES];
static uint8_t seen[MOST_SERIES];
static double deadband, max_interval;

FC_EXPORT("fc_configure") int32_t fc_configure(const char *json, uint32_t length) {
  deadband = fc_number(json, length, "deadband", 0);
  max_interval = fc_number(json, length, "max_interval_ms", 0);
  if (deadband >= 0 && max_interval >= 0) return 0;
  fc_log("deadband and max_interval_ms must not be negative");
  return 1;
}

FC_EXPORT("fc_run") int64_t fc_run(fc_block *batch, uint32_t length) {
  fc_series *series = fc_series_of(batch);
  uint32_t *index = fc_index(batch), kept = 0;
  int64_t *time = fc_time(batch);
  double *value = fc_value(batch);
  for (uint32_t i = 0; i < batch->readings; i++) {
    uint32_t id = series[index[i]].id;
    if (id < MOST_SERIES) {
      double change = value[i] - last[id].value;
      int quiet = seen[id] && (change < 0 ? -change : change) <= deadband;
      if (quiet && !(max_interval && time[i] - last[id].time >= max_interval)) continue;
      seen[id] = 1;
      last[id].value = value[i];
      last[id].time = time[i];
    }
    index[kept] = index[i];
    time[kept] = time[i];
    value[kept++] = value[i];
  }
  batch->readings = kept;
  return fc_answer(batch);
}
