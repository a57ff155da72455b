//! Just enough MQTT 3.1.1 to load a broker. It decodes nothing that it does not need, so that the load costs
//! little beside what is measured.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds without a packet after which a broker may end the connection: longer than any load lasts.
const KEEP_ALIVE: u16 = 600;

/// A packet from the broker.
#[derive(Clone, Copy)]
pub(crate) enum Packet<'bytes> {
    /// A message; with a packet identifier at QoS 1.
    Publish { packet_id: Option<u16>, payload: &'bytes [u8] },
    /// Anything else.
    Other,
}

/// What came from the broker and was not looked at yet.
#[derive(Default)]
pub(crate) struct Received {
    bytes: Vec<u8>,
    taken: usize,
}

/// Opens a connection without a session.
pub(crate) fn connect(address: &str, client_id: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("no broker at {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut body = b"\x00\x04MQTT\x04\x02".to_vec();
    body.extend_from_slice(&KEEP_ALIVE.to_be_bytes());
    text(&mut body, client_id);
    let mut packet = Vec::new();
    frame(&mut packet, 0x10, &[&body]);
    stream.write_all(&packet)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [0x20, 2, 0, 0], "the broker refuses `{client_id}`: {answer:?}");
    Ok(stream)
}

/// Subscribes, and waits until the broker has agreed.
pub(crate) fn subscribe(stream: &mut TcpStream, topic: &str, qos: u8) -> anyhow::Result<()> {
    let mut body = vec![0, 1];
    text(&mut body, topic);
    body.push(qos);
    let mut packet = Vec::new();
    frame(&mut packet, 0x82, &[&body]);
    stream.write_all(&packet)?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [0x90, 3, 0, 1, qos], "the broker refuses to deliver `{topic}`: {answer:?}");
    Ok(())
}

/// Appends a message; without a packet identifier it is one at QoS 0.
pub(crate) fn publish(out: &mut Vec<u8>, topic: &str, packet_id: Option<u16>, payload: &[u8]) {
    let mut head = Vec::with_capacity(topic.len() + 4);
    text(&mut head, topic);
    match packet_id {
        Some(packet_id) => {
            head.extend_from_slice(&packet_id.to_be_bytes());
            frame(out, 0x32, &[&head, payload]);
        }
        None => frame(out, 0x30, &[&head, payload]),
    }
}

/// Appends the acknowledgement of a message.
pub(crate) fn acknowledge(out: &mut Vec<u8>, packet_id: u16) {
    frame(out, 0x40, &[&packet_id.to_be_bytes()]);
}

impl Received {
    /// Reads what is there, waiting for something; nothing where the stream's time is over. Packets taken
    /// before are forgotten.
    pub(crate) fn fill(&mut self, stream: &mut TcpStream) -> io::Result<Option<()>> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let mut chunk = [0; 16 * 1024];
        match stream.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.bytes.extend_from_slice(chunk.get(..bytes).unwrap_or_default());
                Ok(Some(()))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The next whole packet.
    pub(crate) fn next(&mut self) -> Option<Packet<'_>> {
        let rest = self.bytes.get(self.taken..)?;
        let (kind, (length, header)) = (*rest.first()?, length(rest.get(1..)?)?);
        let body = rest.get(1 + header..1 + header + length)?;
        self.taken += 1 + header + length;
        if kind & 0xf0 != 0x30 {
            return Some(Packet::Other);
        }
        let (topic, rest) = body.split_first_chunk::<2>()?;
        let rest = rest.get(usize::from(u16::from_be_bytes(*topic))..)?;
        if kind & 0x06 == 0 {
            return Some(Packet::Publish { packet_id: None, payload: rest });
        }
        let (packet_id, payload) = rest.split_first_chunk::<2>()?;
        Some(Packet::Publish { packet_id: Some(u16::from_be_bytes(*packet_id)), payload })
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a packet: its first byte, the length of its parts (MQTT 3.1.1 §2.2.3), its parts.
fn frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    out.push(kind);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        out.push(digit | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A packet's length, and how many bytes say it; nothing while some of them are missing.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((length, index + 1));
        }
    }
    None
}
