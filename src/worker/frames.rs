//! How a frame lies in the pipe: four bytes of length, little endian, then one JSON text of that length.

use serde::{Serialize, de::DeserializeOwned};

/// The longest frame in bytes, header not counted. A plugin with 1 MiB of source and 1 MiB of state fits,
/// also when most of its characters need an escape.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;
/// Bytes of the length header.
pub const HEADER: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than its reader or the pipe takes.
    #[error("a frame of {length} bytes, at most {most} are allowed")]
    TooLong {
        /// What its header says.
        length: usize,
        /// What is allowed.
        most: usize,
    },
    /// Not the JSON that belongs there.
    #[error("a frame that is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Appends a frame to a buffer.
///
/// # Errors
/// When it would be too long. The buffer is then as it was.
pub fn encode(frame: &impl Serialize, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER]);
    let written = serde_json::to_writer(&mut *buffer, frame).map_err(FrameError::from).and_then(|()| {
        let length = buffer.len() - start - HEADER;
        if length > MAX_FRAME { Err(too_long(length, MAX_FRAME)) } else { Ok(length) }
    });
    let length = written.inspect_err(|_| buffer.truncate(start))?;
    let header = u32::try_from(length).map_err(|_| too_long(length, MAX_FRAME))?.to_le_bytes();
    buffer[start..start + HEADER].copy_from_slice(&header);
    Ok(())
}

/// Takes the first whole frame of a buffer: the frame and how many bytes it took, or nothing where more
/// bytes must come first.
///
/// # Errors
/// When the frame is too long or not understood; the stream is then of no further use.
pub fn decode<T: DeserializeOwned>(buffer: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    decode_within(buffer, MAX_FRAME)
}

/// [`decode`] for a sender whose frames have no reason to be longer than `most`.
///
/// Hostile JSON costs a bounded time and little stack: values are skipped and not built where they stay text, and
/// what is built is at most as deep as the frame's own types.
///
/// # Errors
/// As for [`decode`]; a header that says too much is refused before anything behind it is read.
pub fn decode_within<T: DeserializeOwned>(
    buffer: &[u8],
    most: usize,
) -> Result<Option<(T, usize)>, FrameError> {
    let Some((length, rest)) = header(buffer) else { return Ok(None) };
    if length > most {
        return Err(too_long(length, most));
    }
    let Some(text) = rest.get(..length) else { return Ok(None) };
    Ok(Some((serde_json::from_slice(text)?, HEADER + length)))
}

/// How many bytes are missing until the first frame of a buffer, or its header, is whole.
#[must_use]
pub fn missing(buffer: &[u8]) -> usize {
    match header(buffer) {
        Some((length, rest)) => length.saturating_sub(rest.len()),
        None => HEADER.saturating_sub(buffer.len()),
    }
}

fn header(buffer: &[u8]) -> Option<(usize, &[u8])> {
    let (header, rest) = buffer.split_first_chunk::<HEADER>()?;
    Some((u32::from_le_bytes(*header) as usize, rest))
}

fn too_long(length: usize, most: usize) -> FrameError {
    FrameError::TooLong { length, most }
}

#[cfg(test)]
mod tests {
    use super::{FrameError, MAX_FRAME, decode, encode};

    #[test]
    fn frames_survive_any_cut() {
        let mut buffer = Vec::new();
        encode(&"first", &mut buffer).unwrap();
        encode(&"second", &mut buffer).unwrap();
        for cut in 0..4 + 7 {
            assert!(decode::<String>(&buffer[..cut]).unwrap().is_none(), "{cut}");
        }
        let (first, used) = decode::<String>(&buffer).unwrap().unwrap();
        let (second, rest) = decode::<String>(&buffer[used..]).unwrap().unwrap();
        assert_eq!((first.as_str(), second.as_str(), used + rest), ("first", "second", buffer.len()));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
        let header = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes();
        assert!(matches!(decode::<String>(&header), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn what_is_too_long_leaves_the_buffer_as_it_was() {
        let mut buffer = vec![7];
        assert!(encode(&"x".repeat(MAX_FRAME), &mut buffer).is_err());
        assert_eq!(buffer, [7]);
    }
}
