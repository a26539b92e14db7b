//! A function for fleetcore's edge runner in Rust: ABI 1 (docs/reference/edge-abi.md).
//!
//! Implement `Function` and name it once with `fleetcore_function!`:
//!
//! ```ignore
//! #[path = "fleetcore_function.rs"]
//! #[macro_use]
//! mod fleetcore;
//!
//! #[derive(Default)]
//! struct Doubled;
//!
//! impl fleetcore::Function for Doubled {
//!     fn run(&mut self, batch: &fleetcore::Batch, out: &mut fleetcore::Output) -> Result<(), i64> {
//!         for i in 0..batch.len() {
//!             let name = batch.series(batch.index()[i]);
//!             out.reading(name.device, name.metric, name.unit, batch.time()[i], 2.0 * batch.value()[i]);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fleetcore_function!(Doubled);
//! ```
//!
//! `rustc --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib -O -C panic=abort -C link-arg=--strip-all -o function.wasm function.rs`
#![allow(dead_code)]

use std::collections::HashMap;

pub const INFO: u32 = 0;
pub const WARNING: u32 = 1;
pub const CRITICAL: u32 = 2;

/// Statuses of a batch that fails; a function may have others below -15.
pub const FAILED: i64 = -1;
pub const NO_MEMORY: i64 = -2;

const HEADER: usize = 64;

/// What a function does.
pub trait Function: Default {
    /// Takes the configuration, a JSON document; another result than 0 refuses it.
    fn configure(&mut self, _config: &str) -> i32 {
        0
    }

    /// Handles a batch. What is in `out` is dropped where it fails.
    fn run(&mut self, batch: &Batch, out: &mut Output) -> Result<(), i64>;
}

/// One series. It keeps its `id`, a small number, for as long as the function is loaded.
pub struct Series<'a> {
    pub id: u32,
    pub device: &'a str,
    pub metric: &'a str,
    pub unit: &'a str,
}

/// The readings of a batch, as columns.
pub struct Batch<'a> {
    block: &'a [u8],
}

impl<'a> Batch<'a> {
    fn word(&self, at: usize) -> usize {
        u32::from_le_bytes(self.block[at..at + 4].try_into().unwrap()) as usize
    }

    fn column<T>(&self, field: usize) -> &'a [T] {
        let at = self.word(field);
        let part = &self.block[at..at + self.len() * std::mem::size_of::<T>()];
        // Columns of numbers, aligned to 8 bytes by the runner.
        unsafe { std::slice::from_raw_parts(part.as_ptr() as *const T, self.len()) }
    }

    fn text(&self, field: usize) -> &'a str {
        let (at, length) = (self.word(field), self.word(field + 4));
        std::str::from_utf8(&self.block[at..at + length]).unwrap_or("")
    }

    /// How many readings there are.
    pub fn len(&self) -> usize {
        self.word(12)
    }

    /// For each reading the place of its series.
    pub fn index(&self) -> &'a [u32] {
        self.column(16)
    }

    /// Milliseconds since 1970.
    pub fn time(&self) -> &'a [i64] {
        self.column(20)
    }

    pub fn value(&self) -> &'a [f64] {
        self.column(24)
    }

    /// The series at a place.
    pub fn series(&self, place: u32) -> Series<'a> {
        let at = self.word(8) + 32 * place as usize;
        Series { id: self.word(at) as u32, device: self.text(at + 4), metric: self.text(at + 12), unit: self.text(at + 20) }
    }
}

/// What a function puts out.
#[derive(Default)]
pub struct Output {
    names: HashMap<(String, String, String), u32>,
    series: Vec<[u32; 8]>,
    texts: Vec<u8>,
    index: Vec<u32>,
    time: Vec<i64>,
    value: Vec<f64>,
    alerts: Vec<([u32; 10], f64, i64)>,
    commands: Vec<[u32; 6]>,
    block: Vec<u64>,
}

impl Output {
    fn text(&mut self, text: &str) -> (u32, u32) {
        self.texts.extend_from_slice(text.as_bytes());
        ((self.texts.len() - text.len()) as u32, text.len() as u32)
    }

    /// Adds a reading; `time` in milliseconds since 1970, `value` finite. The device "" is the gateway.
    pub fn reading(&mut self, device: &str, metric: &str, unit: &str, time: i64, value: f64) {
        let key = (device.to_string(), metric.to_string(), unit.to_string());
        let place = match self.names.get(&key) {
            Some(&place) => place,
            None => {
                let (d, m, u) = (self.text(device), self.text(metric), self.text(unit));
                self.series.push([0, d.0, d.1, m.0, m.1, u.0, u.1, 0]);
                self.names.insert(key, self.series.len() as u32 - 1);
                self.series.len() as u32 - 1
            }
        };
        self.index.push(place);
        self.time.push(time);
        self.value.push(value);
    }

    /// Adds an alert.
    #[allow(clippy::too_many_arguments)]
    pub fn alert(&mut self, device: &str, metric: &str, severity: u32, kind: &str, message: &str, value: f64, time: i64) {
        let (d, m, k, s) = (self.text(device), self.text(metric), self.text(kind), self.text(message));
        self.alerts.push(([d.0, d.1, m.0, m.1, k.0, k.1, s.0, s.1, severity, 0], value, time));
    }

    /// Adds a command; `args` is a JSON document.
    pub fn command(&mut self, device: &str, name: &str, args: &str) {
        let (d, n, a) = (self.text(device), self.text(name), self.text(args));
        self.commands.push([d.0, d.1, n.0, n.1, a.0, a.1]);
    }

    fn clear(&mut self) {
        self.names.clear();
        self.series.clear();
        self.texts.clear();
        self.index.clear();
        self.time.clear();
        self.value.clear();
        self.alerts.clear();
        self.commands.clear();
    }

    /// The block: header, values, times, alerts, series, commands, indexes, texts.
    fn packed(&mut self) -> i64 {
        let count = self.index.len();
        let value_at = HEADER;
        let time_at = value_at + 8 * count;
        let alerts_at = time_at + 8 * count;
        let series_at = alerts_at + 56 * self.alerts.len();
        let commands_at = series_at + 32 * self.series.len();
        let index_at = commands_at + 24 * self.commands.len();
        let texts_at = index_at + 4 * count;
        let size = texts_at + self.texts.len();
        let mut bytes = Vec::with_capacity(size + 8);
        let header = [1, self.series.len(), series_at, count, index_at, time_at, value_at, self.alerts.len(), alerts_at];
        for word in header.into_iter().chain([self.commands.len(), commands_at, 0, 0, 0, 0, 0]) {
            bytes.extend_from_slice(&(word as u32).to_le_bytes());
        }
        self.value.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        self.time.iter().for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
        let moved = |words: &[u32], texts: std::ops::Range<usize>, bytes: &mut Vec<u8>| {
            for (place, word) in words.iter().enumerate() {
                let is_offset = texts.contains(&place) && (place - texts.start) % 2 == 0;
                bytes.extend_from_slice(&(word + if is_offset { texts_at as u32 } else { 0 }).to_le_bytes());
            }
        };
        for (words, value, time) in &self.alerts {
            moved(words, 0..8, &mut bytes);
            bytes.extend_from_slice(&value.to_le_bytes());
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        self.series.iter().for_each(|words| moved(words, 1..7, &mut bytes));
        self.commands.iter().for_each(|words| moved(words, 0..6, &mut bytes));
        self.index.iter().for_each(|place| bytes.extend_from_slice(&place.to_le_bytes()));
        bytes.extend_from_slice(&self.texts);
        self.block.clear();
        self.block.resize((size + 7) / 8, 0);
        let target = self.block.as_mut_ptr() as *mut u8;
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, size) };
        ((size as i64) << 32) | target as usize as i64
    }
}

/// The number of a member of the configuration's top level.
pub fn number(json: &str, name: &str) -> Option<f64> {
    let bytes = json.as_bytes();
    let (mut i, mut depth) = (0, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let begin = i + 1;
                i = begin;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                let rest = json.get(i + 1..)?.trim_start();
                if depth == 1 && json.get(begin..i) == Some(name) && rest.starts_with(':') {
                    let rest = rest[1..].trim_start();
                    let end = rest.find(|c: char| !"+-.eE0123456789".contains(c)).unwrap_or(rest.len());
                    return rest[..end].parse().ok();
                }
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// Writes a line to the function's log.
pub fn log(text: &str) {
    unsafe { imports::log(text.as_ptr(), text.len()) }
}

/// The time at which the batch was handed over, in milliseconds since 1970.
pub fn now() -> i64 {
    unsafe { imports::now() }
}

/// A secret of the function, where there is one of at most 4,096 bytes.
pub fn secret(name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = unsafe { imports::secret(name.as_ptr(), name.len(), value.as_mut_ptr(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

mod imports {
    #[link(wasm_import_module = "fleetcore")]
    extern "C" {
        pub fn log(text: *const u8, length: usize);
        pub fn now() -> i64;
        pub fn secret(name: *const u8, length: usize, into: *mut u8, room: usize) -> i32;
    }
}

/// A function, its output and the place of its batches; one of it in a module.
pub struct Module<F> {
    function: Option<F>,
    output: Option<Output>,
    place: Vec<u64>,
}

impl<F: Function> Module<F> {
    pub const fn new() -> Self {
        Module { function: None, output: None, place: Vec::new() }
    }

    pub fn alloc(&mut self, size: usize) -> *mut u8 {
        self.place.clear();
        self.place.resize((size + 7) / 8, 0);
        self.place.as_mut_ptr() as *mut u8
    }

    pub fn configure(&mut self, config: &str) -> i32 {
        self.function.get_or_insert_with(F::default).configure(config)
    }

    pub fn run(&mut self, block: &[u8]) -> i64 {
        let output = self.output.get_or_insert_with(Output::default);
        output.clear();
        match self.function.get_or_insert_with(F::default).run(&Batch { block }, output) {
            Ok(()) => output.packed(),
            Err(status) => status.min(-1),
        }
    }
}

/// Exports a type that implements `Function` as the module's function.
#[macro_export]
macro_rules! fleetcore_function {
    ($function:ty) => {
        static mut MODULE: fleetcore::Module<$function> = fleetcore::Module::new();

        #[no_mangle]
        pub extern "C" fn fc_abi() -> u32 {
            1
        }

        #[no_mangle]
        pub extern "C" fn fc_alloc(size: usize) -> *mut u8 {
            unsafe { MODULE.alloc(size) }
        }

        #[no_mangle]
        pub unsafe extern "C" fn fc_configure(at: *const u8, length: usize) -> i32 {
            match std::str::from_utf8(std::slice::from_raw_parts(at, length)) {
                Ok(config) => MODULE.configure(config),
                Err(_) => 1,
            }
        }

        #[no_mangle]
        pub unsafe extern "C" fn fc_run(at: *const u8, length: usize) -> i64 {
            MODULE.run(std::slice::from_raw_parts(at, length))
        }
    };
}
