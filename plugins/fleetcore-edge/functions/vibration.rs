//! Vibration features: of each full window of a sampled series RMS, peak, crest factor, dominant frequency and the
//! energy of bands, as readings at the time of the window's last sample.
//!
//! Configuration: {"rate_hz": 1000, "window": 1024, "bands": 4, "gap_ms": 1000}. `window` is a power of two from 16 to
//! 8,192, 256 by default. Without `rate_hz` it follows from the times. The mean is taken away first; the spectrum is that
//! of the samples under a Hann window, one-sided, scaled so that the bands together have the signal's variance. A window
//! begins anew after a gap, and where time goes back.

#[path = "../sdk/rust/fleetcore_function.rs"]
#[macro_use]
mod fleetcore;

use fleetcore::{number, Batch, Output};
use std::f64::consts::PI;

#[derive(Default)]
struct Window {
    samples: Vec<f64>,
    begun: i64,
    last: i64,
}

#[derive(Default)]
struct Vibration {
    size: usize,
    bands: usize,
    gap_ms: i64,
    rate_hz: Option<f64>,
    hann: Vec<f64>,
    turns: Vec<(f64, f64)>,
    windows: Vec<Window>,
}

impl fleetcore::Function for Vibration {
    fn configure(&mut self, config: &str) -> i32 {
        let size = number(config, "window").unwrap_or(256.0);
        let bands = number(config, "bands").unwrap_or(4.0);
        self.rate_hz = number(config, "rate_hz");
        self.gap_ms = number(config, "gap_ms").unwrap_or(1000.0) as i64;
        let is_fine = (16.0..=8192.0).contains(&size) && (size as usize).is_power_of_two() && size.fract() == 0.0;
        if !is_fine || !(1.0..=16.0).contains(&bands) || self.rate_hz.map_or(false, |rate| !(rate > 0.0)) {
            fleetcore::log("window must be a power of two from 16 to 8192, bands 1 to 16, rate_hz more than 0");
            return 1;
        }
        (self.size, self.bands) = (size as usize, bands as usize);
        let angle = |i: usize| 2.0 * PI * i as f64 / size;
        self.hann = (0..self.size).map(|i| 0.5 - 0.5 * angle(i).cos()).collect();
        self.turns = (0..self.size / 2).map(|i| (angle(i).cos(), -angle(i).sin())).collect();
        0
    }

    fn run(&mut self, batch: &Batch, out: &mut Output) -> Result<(), i64> {
        let (index, time, value) = (batch.index(), batch.time(), batch.value());
        for i in 0..batch.len() {
            let series = batch.series(index[i]);
            let id = series.id as usize;
            if self.windows.len() <= id {
                self.windows.resize_with(id + 1, Window::default);
            }
            let window = &mut self.windows[id];
            if window.samples.is_empty() || time[i] < window.last || time[i] - window.last > self.gap_ms {
                window.samples.clear();
                window.begun = time[i];
            }
            window.samples.push(value[i]);
            window.last = time[i];
            if window.samples.len() == self.size {
                let passed_ms = (window.last - window.begun).max(1) as f64;
                let rate = self.rate_hz.unwrap_or(1000.0 * (self.size - 1) as f64 / passed_ms);
                let samples = std::mem::take(&mut window.samples);
                self.put(&samples, rate, &series, time[i], out);
            }
        }
        Ok(())
    }
}

impl Vibration {
    fn put(&self, samples: &[f64], rate: f64, series: &fleetcore::Series, time: i64, out: &mut Output) {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let rms = (samples.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count).sqrt();
        let peak = samples.iter().fold(0.0, |most: f64, x| most.max((x - mean).abs()));
        let power = self.power(samples, mean);
        let strongest = (1..power.len()).fold(1, |best, k| if power[k] > power[best] { k } else { best });
        let mut put = |name: &str, unit: &str, value: f64| {
            out.reading(series.device, &format!("{}.{}", series.metric, name), unit, time, value);
        };
        put("rms", series.unit, rms);
        put("peak", series.unit, peak);
        put("crest", "", if rms > 0.0 { peak / rms } else { 0.0 });
        put("dominant", "Hz", strongest as f64 * rate / count);
        let lines = power.len() - 1;
        for band in 0..self.bands {
            let (from, to) = (1 + band * lines / self.bands, 1 + (band + 1) * lines / self.bands);
            put(&format!("band{}", band + 1), "", power[from..to].iter().sum());
        }
    }

    /// The power of each line of the spectrum, from 0 Hz to half the rate.
    fn power(&self, samples: &[f64], mean: f64) -> Vec<f64> {
        let mut lines: Vec<(f64, f64)> = samples.iter().zip(&self.hann).map(|(x, w)| ((x - mean) * w, 0.0)).collect();
        self.transform(&mut lines);
        let scale = 1.0 / (self.size as f64 * self.hann.iter().map(|w| w * w).sum::<f64>());
        let half = self.size / 2;
        (0..=half)
            .map(|k| {
                let sides = if k == 0 || k == half { 1.0 } else { 2.0 };
                sides * scale * (lines[k].0 * lines[k].0 + lines[k].1 * lines[k].1)
            })
            .collect()
    }

    /// The discrete Fourier transform in place: radix 2, decimation in time (Cooley and Tukey, 1965).
    fn transform(&self, x: &mut [(f64, f64)]) {
        let count = x.len();
        let bits = count.trailing_zeros();
        for i in 0..count {
            let j = i.reverse_bits() >> (usize::BITS - bits);
            if i < j {
                x.swap(i, j);
            }
        }
        let mut half = 1;
        while half < count {
            for begin in (0..count).step_by(2 * half) {
                for k in 0..half {
                    let (re, im) = self.turns[k * (count / (2 * half))];
                    let (a, b) = (x[begin + k], x[begin + k + half]);
                    let t = (b.0 * re - b.1 * im, b.0 * im + b.1 * re);
                    x[begin + k] = (a.0 + t.0, a.1 + t.1);
                    x[begin + k + half] = (a.0 - t.0, a.1 - t.1);
                }
            }
            half *= 2;
        }
    }
}

fleetcore_function!(Vibration);
