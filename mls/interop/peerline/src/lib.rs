//! The line protocol of a peer: one JSON request a line in, one answer a line out.
//!
//! What the operations are is written in docs/MLS.md, "Driving a peer". This crate knows the
//! framing and the kinds of field, the operations as calls of a client, and what is measured.

pub mod bench;
pub mod client;

use std::io::{self, BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use serde_json::{Map, Value, json};

/// The fields of an answer beside `id` and `ok`.
pub type Fields = Map<String, Value>;

/// What a peer says: the fields of its answer, or why it refuses.
pub type Answer = Result<Fields, String>;

/// Tells a library's error as text, with the error that caused it.
pub fn why<E: std::fmt::Debug>(err: E) -> String {
    format!("{err:?}")
}

/// One request: a JSON object with typed access to its fields.
pub struct Request(Fields);

impl Request {
    /// The field as text; it is an error when it is missing.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        match self.0.get(name) {
            Some(Value::String(s)) => Ok(s),
            _ => Err(format!("field {name}: text expected")),
        }
    }

    /// The field as octets; it is an error when it is missing.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, String> {
        decode(name, self.text(name)?)
    }

    /// The field as octets, or nothing when it is missing.
    pub fn maybe_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            _ => self.bytes(name).map(Some),
        }
    }

    /// The field as a list of octet strings, empty when it is missing.
    pub fn list(&self, name: &str) -> Result<Vec<Vec<u8>>, String> {
        let one = |v: &Value| decode(name, v.as_str().ok_or(format!("field {name}: texts expected"))?);
        self.array(name)?.iter().map(one).collect()
    }

    /// The field as a list of numbers, empty when it is missing.
    pub fn numbers(&self, name: &str) -> Result<Vec<u32>, String> {
        let one = |v: &Value| number(name, v);
        self.array(name)?.iter().map(one).collect()
    }

    /// The field as a number; it is an error when it is missing.
    pub fn number(&self, name: &str) -> Result<u32, String> {
        number(name, self.0.get(name).unwrap_or(&Value::Null))
    }

    /// The field as a truth value, or the given one when it is missing.
    pub fn flag(&self, name: &str, otherwise: bool) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(otherwise)
    }

    fn array(&self, name: &str) -> Result<&[Value], String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(a)) => Ok(a),
            _ => Err(format!("field {name}: list expected")),
        }
    }
}

fn number(name: &str, value: &Value) -> Result<u32, String> {
    let n = value.as_u64().and_then(|n| u32::try_from(n).ok());
    n.ok_or(format!("field {name}: number expected"))
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|e| format!("field {name}: {e}"))
}

/// Octets as a JSON text.
pub fn octets(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

/// The main function of a peer: with `bench N` it measures, otherwise it answers requests.
pub fn main<C: client::Client>(peer: client::Peer, args: &[String]) {
    let name = peer.name;
    let done = match args {
        [] => {
            let mut clients = client::Clients::<C>::new(peer);
            serve(|op, request| clients.call(op, request)).map_err(|e| e.to_string())
        }
        [bench, n] if bench == "bench" => {
            n.parse().map_err(|_| "bench: a number expected".into()).and_then(bench::run::<C>)
        }
        _ => Err("arguments: none, or bench N".into()),
    };
    if let Err(err) = done {
        eprintln!("{name} peer: {err}");
        std::process::exit(1);
    }
}

/// Answers requests until the input ends. A panic of the library is an answer too.
pub fn serve(mut call: impl FnMut(&str, &Request) -> Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = answer(&line, &mut call);
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str, call: &mut impl FnMut(&str, &Request) -> Answer) -> Fields {
    let mut id = Value::Null;
    let result = match serde_json::from_str::<Fields>(line) {
        Err(err) => Err(format!("not a JSON object: {err}")),
        Ok(fields) => {
            id = fields.get("id").cloned().unwrap_or(Value::Null);
            let request = Request(fields);
            let guarded = || request.text("op").and_then(|op| call(op, &request));
            catch_unwind(AssertUnwindSafe(guarded)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
        }
    };
    let mut fields = Fields::new();
    fields.insert("id".into(), id);
    fields.insert("ok".into(), result.is_ok().into());
    match result {
        Ok(more) => fields.extend(more),
        Err(err) => drop(fields.insert("error".into(), err.into())),
    }
    fields
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a text"))
}

/// Runs f once and returns how long it took beside its result.
pub fn timed<T>(f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = f();
    (start.elapsed(), result)
}

/// The measured times of one benchmark, by operation, in the order they were first noted.
pub struct Figures {
    members: usize,
    rows: Vec<(&'static str, Vec<Duration>)>,
}

impl Figures {
    /// Figures of groups of so many members.
    pub fn new(members: usize) -> Figures {
        Figures { members, rows: Vec::new() }
    }

    /// Times f, notes it under op, and returns what f returned.
    pub fn note<T>(&mut self, op: &'static str, f: impl FnOnce() -> T) -> T {
        let (took, result) = timed(f);
        match self.rows.iter_mut().find(|row| row.0 == op) {
            Some(row) => row.1.push(took),
            None => self.rows.push((op, vec![took])),
        }
        result
    }

    /// Prints the median of every operation in milliseconds, one JSON object a line.
    pub fn print(&mut self) {
        for (op, times) in &mut self.rows {
            times.sort();
            let median = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2;
            let ms = (median.as_secs_f64() * 1e6).round() / 1e3;
            println!("{}", json!({"op": op, "n": self.members, "ms": ms, "samples": times.len()}));
        }
    }
}
