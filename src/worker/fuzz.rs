//! What holds for every stream of bytes between bridge and worker.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::frames::{FrameError, HEADER, MAX_FRAME, decode, encode};
use crate::model::{
    dice::{Dice, SHORT},
    frame::{FromWorker, ToWorker},
};

/// The kinds of frame below that a worker says and that it is told; what comes after them is any JSON.
const SAID: std::ops::Range<usize> = 0..6;
const TOLD: std::ops::Range<usize> = 6..9;

/// A frame as JSON, most of the time one that is understood.
fn frame(dice: &mut Dice<'_>) -> Value {
    let kind = dice.below(TOLD.end + 1);
    frame_of(kind, dice)
}

fn frame_of(kind: usize, dice: &mut Dice<'_>) -> Value {
    let (value, text) = (dice.json(4), dice.text(&["a", "\u{e9}", "\0", "/"], 3));
    let number = dice.one_of(&[0, 1, u64::MAX]);
    let refusal = json!({ "Err": { "mistake": text } });
    match kind {
        0 => json!({ "done": { "call": number, "outcome": { "value": value }, "effects": [], "memory": 1 } }),
        1 => {
            let effects = [
                json!({ "emit": { "name": text, "data": value } }),
                json!({ "publish": { "topic": "a/b", "payload": text, "qos": 1, "retain": false } }),
                json!({ "state": { "key": text, "value": value } }),
                json!({ "off": { "handler": number } }),
            ];
            json!({ "done": { "call": number, "outcome": "nothing", "effects": effects, "memory": 0 } })
        }
        2 => json!({ "log": { "level": "info", "message": text, "fields": value } }),
        3 => json!({ "request": { "call": number, "number": number, "operation": { "sleep": number } } }),
        4 => {
            let http = json!({ "method": "GET", "url": text, "headers": [["a", text]], "body": [1, 255],
                "timeout_ms": null });
            json!({ "request": { "call": 1, "number": 1, "operation": { "http": http } } })
        }
        5 => json!({ "loaded": { "hooks": [text], "result": { "Ok": [] } } }),
        6 => json!({ "call": { "number": number, "target": { "hook": text }, "input": { "value": value } } }),
        7 => json!({ "answer": { "number": number, "result": refusal } }),
        8 => json!({ "answer": { "number": number, "result": { "Ok": value } } }),
        _ => value,
    }
}

/// Reads a whole stream as the bridge does, piece by piece as the pipe may give it.
fn read_all<T: DeserializeOwned>(dice: &mut Dice<'_>, stream: &[u8]) -> (Vec<T>, Option<FrameError>) {
    let (mut buffer, mut frames, mut rest) = (Vec::new(), Vec::new(), stream);
    loop {
        match decode::<T>(&buffer) {
            Ok(Some((frame, used))) => {
                assert!(used >= HEADER && used <= buffer.len(), "{used} of {}", buffer.len());
                buffer.drain(..used);
                frames.push(frame);
            }
            Err(error) => return (frames, Some(error)),
            Ok(None) if rest.is_empty() => return (frames, None),
            Ok(None) => {
                let piece = (1 + dice.below(40)).min(rest.len());
                buffer.extend_from_slice(&rest[..piece]);
                rest = &rest[piece..];
            }
        }
    }
}

/// A frame that was read is written and read again as the same one.
fn keeps<T: Serialize + DeserializeOwned>(frames: &[T]) {
    for frame in frames {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        encode(frame, &mut once).unwrap();
        let (again, used) = decode::<T>(&once).unwrap().unwrap();
        assert_eq!(used, once.len());
        encode(&again, &mut twice).unwrap();
        assert_eq!(once, twice);
    }
}

fn both(dice: &mut Dice<'_>, stream: &[u8]) -> (usize, usize) {
    let (from, _) = read_all::<FromWorker>(dice, stream);
    let (to, _) = read_all::<ToWorker>(dice, stream);
    keeps(&from);
    keeps(&to);
    (from.len(), to.len())
}

fn is_understood<T: DeserializeOwned>(frame: &Value) -> bool {
    serde_json::from_str::<T>(&frame.to_string()).is_ok()
}

/// Else the targets below would throw what is refused at the first look.
#[test]
fn what_is_thrown_is_what_is_spoken() {
    for byte in 0..=u8::MAX {
        let frame = |kind| frame_of(kind, &mut Dice::of(&[byte; 40]));
        for said in SAID.map(frame) {
            assert!(is_understood::<FromWorker>(&said), "{said}");
        }
        for told in TOLD.map(frame) {
            assert!(is_understood::<ToWorker>(&told), "{told}");
        }
    }
}

#[test]
fn fuzz_frames() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let frames: Vec<Value> = (0..=dice.below(3)).map(|_| frame(dice)).collect();
        let mut stream = Vec::new();
        for frame in &frames {
            encode(frame, &mut stream).unwrap();
        }
        // All up to the first that is not understood.
        let said = frames.iter().take_while(|frame| is_understood::<FromWorker>(frame)).count();
        let told = frames.iter().take_while(|frame| is_understood::<ToWorker>(frame)).count();
        assert_eq!(both(dice, &stream), (said, told), "{frames:?}");
        let damaged = dice.damaged(stream);
        both(dice, &damaged);
    });
}

#[test]
fn fuzz_frames_of_any_bytes() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        both(dice, bytes);
        // The same bytes behind a header that is right, so that the JSON is reached.
        let mut stream = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
        stream.extend_from_slice(bytes);
        both(dice, &stream);
    });
}

/// As deep and as long as a frame can be; on the stack that a thread of the tests has.
#[test]
fn the_deepest_frames_are_read_or_refused() {
    for text in
        [r#"{"done":{"call":1,"outcome":{"value":"#, r#"{"log":{"level":"info","message":"","fields":"#, ""]
    {
        for open in ["[", "{\"a\":", "[[[[{\"\":"] {
            let mut stream = vec![0; HEADER];
            stream.extend_from_slice(text.as_bytes());
            while stream.len() < MAX_FRAME - open.len() {
                stream.extend_from_slice(open.as_bytes());
            }
            let length = u32::try_from(stream.len() - HEADER).unwrap();
            stream[..HEADER].copy_from_slice(&length.to_le_bytes());
            assert!(matches!(decode::<FromWorker>(&stream), Err(FrameError::Malformed(_))));
        }
    }
}
