//! Makes values out of the bytes that a fuzzer throws, for tests that ask what holds for every input.

use std::time::Duration;

use serde_json::{Map, Number, Value};

/// How long each such test runs where nobody asks for more; `just fuzz` does.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// Bytes that decide everything; when they have run out, the first choice is taken each time.
pub(crate) struct Dice<'bytes>(&'bytes [u8]);

impl<'bytes> Dice<'bytes> {
    pub(crate) fn of(bytes: &'bytes [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below a bound that is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = usize::from(self.byte());
        let number = if bound > 256 { wide << 8 | usize::from(self.byte()) } else { wide };
        number % bound
    }

    pub(crate) fn toss(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    pub(crate) fn bytes(&mut self, most: usize) -> &'bytes [u8] {
        let count = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// Up to so many of these pieces, one behind the other, with something odd among them now and then.
    pub(crate) fn text(&mut self, pieces: &[&str], most: usize) -> String {
        let mut text = String::new();
        for _ in 0..self.below(most + 1) {
            match self.below(16) {
                0 => text.push_str(&String::from_utf8_lossy(self.bytes(8))),
                _ => text.push_str(self.one_of(pieces)),
            }
        }
        text
    }

    /// Bytes of which some are changed, doubled or left out.
    pub(crate) fn damaged(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.byte(),
                1 => bytes.insert(at, self.byte()),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    }

    /// A JSON value of at most this depth.
    pub(crate) fn json(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 10 }) {
            0 => Value::Null,
            1 => self.toss().into(),
            2 => self.one_of(&[0, 1, -1, i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1]).into(),
            3 => self.number(),
            4 | 5 => self.word().into(),
            6 | 7 => (0..self.below(5)).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let fields = (0..self.below(5)).map(|_| (self.word(), self.json(depth - 1)));
                fields.collect::<Map<_, _>>().into()
            }
        }
    }

    fn number(&mut self) -> Value {
        let mut bits = [0; 8];
        bits.fill_with(|| self.byte());
        let float = f64::from_le_bytes(bits);
        let float = if self.toss() { float } else { f64::from(bits[0]) / f64::from(bits[1]) };
        match Number::from_f64(float) {
            Some(number) => number.into(),
            None => u64::from_le_bytes(bits).into(),
        }
    }

    fn word(&mut self) -> String {
        const WORDS: [&str; 12] = [
            "a",
            "b",
            "name",
            "id",
            "",
            "1",
            "\u{0}",
            "\"\\/\n",
            "\u{e9}",
            "\u{1f600}\u{200d}",
            "$serde_json::private::RawValue",
            "\u{7f}\u{2028}",
        ];
        self.text(&WORDS, 3)
    }
}
