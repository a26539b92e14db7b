;; Threshold: an alert when a series rises above a limit, once until it is at or below it again. It puts out no readings.
;; Configuration: {"above": 80}. The first whole number in it is the limit.
;;
;; The answer is the input's block with alerts instead of readings, so a device's offset and length are copied as they are.
(module
  (memory (export "memory") 24)
  ;; 16: texts; 1024: 8,192 bytes of state, one for each series; 16384: 256 alerts of 56 bytes; 65536: the batch, 1 MiB
  (data (i32.const 16) "above_limit" "The value is above its limit")
  (global $limit (mut f64) (f64.const inf))

  (func (export "fc_abi") (result i32) (i32.const 1))

  (func (export "fc_alloc") (param $size i32) (result i32)
    (select (i32.const 65536) (i32.const 0) (i32.le_u (local.get $size) (i32.const 1048576))))

  (func (export "fc_configure") (param $at i32) (param $size i32) (result i32)
    (local $end i32) (local $c i32) (local $digits i32) (local $value f64) (local $sign f64)
    (local.set $end (i32.add (local.get $at) (local.get $size)))
    (local.set $sign (f64.const 1))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $c (i32.load8_u (local.get $at)))
        (if (i32.lt_u (i32.sub (local.get $c) (i32.const 48)) (i32.const 10))
          (then
            (local.set $digits (i32.const 1))
            (local.set $value (f64.add (f64.mul (local.get $value) (f64.const 10))
              (f64.convert_i32_u (i32.sub (local.get $c) (i32.const 48))))))
          (else
            (br_if $done (local.get $digits))
            (local.set $sign (select (f64.const -1) (f64.const 1) (i32.eq (local.get $c) (i32.const 45))))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (global.set $limit (f64.mul (local.get $sign) (local.get $value)))
    (i32.eqz (local.get $digits)))

  (func (export "fc_run") (param $batch i32) (param $size i32) (result i64)
    (local $i i32) (local $n i32) (local $alerts i32) (local $to i32) (local $series i32) (local $state i32)
    (local $value f64) (local $above i32)
    (local.set $n (i32.load offset=12 (local.get $batch)))
    (local.set $to (i32.const 16384))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        ;; the entry of its series: batch + series_at + 32 * index[i]
        (local.set $series (i32.add
          (i32.add (local.get $batch) (i32.load offset=8 (local.get $batch)))
          (i32.shl (i32.load (i32.add (i32.add (local.get $batch) (i32.load offset=16 (local.get $batch)))
            (i32.shl (local.get $i) (i32.const 2)))) (i32.const 5))))
        (local.set $value (f64.load (i32.add (i32.add (local.get $batch) (i32.load offset=24 (local.get $batch)))
          (i32.shl (local.get $i) (i32.const 3)))))
        (local.set $above (f64.gt (local.get $value) (global.get $limit)))
        (if (i32.lt_u (i32.load (local.get $series)) (i32.const 8192))
          (then
            (local.set $state (i32.add (i32.const 1024) (i32.load (local.get $series))))
            (if (i32.and (i32.and (local.get $above) (i32.eqz (i32.load8_u (local.get $state))))
                (i32.lt_u (local.get $alerts) (i32.const 256)))
              (then
                (i64.store (local.get $to) (i64.load offset=4 align=4 (local.get $series)))
                (i64.store offset=8 (local.get $to) (i64.load offset=12 align=4 (local.get $series)))
                (i32.store offset=16 (local.get $to) (i32.sub (i32.const 16) (local.get $batch)))
                (i32.store offset=20 (local.get $to) (i32.const 11))
                (i32.store offset=24 (local.get $to) (i32.sub (i32.const 27) (local.get $batch)))
                (i32.store offset=28 (local.get $to) (i32.const 28))
                (i32.store offset=32 (local.get $to) (i32.const 1))
                (f64.store offset=40 (local.get $to) (local.get $value))
                (i64.store offset=48 (local.get $to)
                  (i64.load (i32.add (i32.add (local.get $batch) (i32.load offset=20 (local.get $batch)))
                    (i32.shl (local.get $i) (i32.const 3)))))
                (local.set $to (i32.add (local.get $to) (i32.const 56)))
                (local.set $alerts (i32.add (local.get $alerts) (i32.const 1)))))
            (i32.store8 (local.get $state) (local.get $above))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i32.store offset=12 (local.get $batch) (i32.const 0))
    (i32.store offset=28 (local.get $batch) (local.get $alerts))
    (i32.store offset=32 (local.get $batch) (i32.sub (i32.const 16384) (local.get $batch)))
    (i64.or (i64.extend_i32_u (local.get $batch)) (i64.const 0x4000000000))))
