/* A function for fleetcore's edge runner in C: ABI 1 (docs/reference/edge-abi.md). Include it in one file.
 *
 *   #include "fleetcore_function.h"
 *
 *   FC_EXPORT("fc_run") int64_t fc_run(fc_block *batch, uint32_t length) {
 *     double *value = fc_value(batch);
 *     for (uint32_t i = 0; i < batch->readings; i++) value[i] *= 2;
 *     return fc_answer(batch);
 *   }
 *
 * clang --target=wasm32 -O2 -mbulk-memory -ffreestanding -nostdlib -Wl,--no-entry -o function.wasm function.c
 *
 * Define FC_ROOM before including it where batches may have more than 1 MiB, about 50,000 readings.
 */
#ifndef FLEETCORE_FUNCTION_H
#define FLEETCORE_FUNCTION_H

#include <stddef.h>
#include <stdint.h>

#define FC_EXPORT(name) __attribute__((export_name(name)))
#define FC_IMPORT(name) __attribute__((import_module("fleetcore"), import_name(name)))
#ifndef FC_ROOM
#define FC_ROOM (1u << 20)
#endif

/* Statuses of fc_run; a function may have others below -15. */
#define FC_FAILED (-1)
#define FC_NO_MEMORY (-2)

enum { FC_INFO, FC_WARNING, FC_CRITICAL };

/* Readings as columns, alerts and commands. Offsets count from the block's first byte, modulo 2^32. */
typedef struct {
  uint32_t version, series, series_at, readings, index_at, time_at, value_at;
  uint32_t alerts, alerts_at, commands, commands_at, zero[5];
} fc_block;

/* A series keeps its id, a small number, for as long as the function is loaded. */
typedef struct {
  uint32_t id, device_at, device_len, metric_at, metric_len, unit_at, unit_len, zero;
} fc_series;

typedef struct {
  uint32_t device_at, device_len, metric_at, metric_len, kind_at, kind_len, message_at, message_len, severity, zero;
  double value;
  int64_t time; /* ms since 1970 */
} fc_alert;

typedef struct {
  uint32_t device_at, device_len, name_at, name_len, args_at, args_len; /* args: a JSON document */
} fc_command;

_Static_assert(sizeof(fc_block) == 64 && sizeof(fc_series) == 32, "the layout of ABI 1");
_Static_assert(sizeof(fc_alert) == 56 && sizeof(fc_command) == 24, "the layout of ABI 1");

FC_IMPORT("log") void fc_log_bytes(const char *text, uint32_t length);
FC_IMPORT("now") int64_t fc_now(void);
FC_IMPORT("secret") int32_t fc_secret_bytes(const char *name, uint32_t length, void *into, uint32_t room);

static inline void *fc_at(fc_block *block, uint32_t offset) { return (char *)block + offset; }
static inline uint32_t fc_offset(const fc_block *block, const void *place) {
  return (uint32_t)(uintptr_t)place - (uint32_t)(uintptr_t)block;
}
static inline fc_series *fc_series_of(fc_block *block) { return fc_at(block, block->series_at); }
static inline uint32_t *fc_index(fc_block *block) { return fc_at(block, block->index_at); }
static inline int64_t *fc_time(fc_block *block) { return fc_at(block, block->time_at); }
static inline double *fc_value(fc_block *block) { return fc_at(block, block->value_at); }

/* What fc_run gives back: a block, which may be the input's. */
static inline int64_t fc_answer(const fc_block *block) {
  return (int64_t)sizeof(fc_block) << 32 | (uint32_t)(uintptr_t)block;
}

static inline uint32_t fc_length(const char *text) {
  uint32_t length = 0;
  while (text[length]) length++;
  return length;
}
static inline void fc_log(const char *text) { fc_log_bytes(text, fc_length(text)); }
/* Copies a secret; its length, or -1. */
static inline int32_t fc_secret(const char *name, void *into, uint32_t room) {
  return fc_secret_bytes(name, fc_length(name), into, room);
}

/* The number of a member of the configuration's top level, or another where there is none. */
static double fc_number(const char *json, uint32_t length, const char *name, double otherwise) {
  uint32_t depth = 0, wanted = fc_length(name);
  for (uint32_t i = 0; i < length; i++) {
    if (json[i] == '{' || json[i] == '[') depth++;
    if (json[i] == '}' || json[i] == ']') depth--;
    if (json[i] != '"') continue;
    uint32_t begin = ++i, same = 1;
    for (; i < length && json[i] != '"'; i++) {
      if (json[i] == '\\') i++;
      if (i - begin >= wanted || json[i] != name[i - begin]) same = 0;
    }
    uint32_t behind = i + 1;
    while (behind < length && (json[behind] == ' ' || json[behind] == '\n' || json[behind] == '\t')) behind++;
    if (depth != 1 || !same || i - begin != wanted || behind >= length || json[behind] != ':') continue;
    do behind++; while (behind < length && (json[behind] == ' ' || json[behind] == '\n' || json[behind] == '\t'));
    double sign = 1, value = 0, scale = 0;
    int32_t exponent = 0, exponent_sign = 1, digits = 0;
    if (behind < length && json[behind] == '-') sign = -1, behind++;
    for (; behind < length; behind++) {
      char c = json[behind];
      if (c >= '0' && c <= '9') value = value * 10 + (c - '0'), scale *= 10, digits++;
      else if (c == '.') scale = 1;
      else break;
    }
    if (!digits) return otherwise;
    if (behind < length && (json[behind] == 'e' || json[behind] == 'E')) {
      behind++;
      if (behind < length && (json[behind] == '-' || json[behind] == '+')) exponent_sign = json[behind++] == '-' ? -1 : 1;
      for (; behind < length && json[behind] >= '0' && json[behind] <= '9' && exponent < 400; behind++)
        exponent = exponent * 10 + (json[behind] - '0');
    }
    value = sign * value / (scale ? scale : 1);
    for (; exponent > 0; exponent--) value = exponent_sign > 0 ? value * 10 : value / 10;
    return value;
  }
  return otherwise;
}

/* The place of the batches. A place is used again for each of them until a larger one is asked for. */
static _Alignas(8) char fc_room[FC_ROOM];

FC_EXPORT("fc_abi") uint32_t fc_abi(void) { return 1; }
FC_EXPORT("fc_alloc") void *fc_alloc(uint32_t size) { return size <= FC_ROOM ? fc_room : 0; }

#endif
