//! The fixed references: a bare rumqttc client that sends every payload back, and the same client whose payloads
//! go once through a child process. Each runs in a process of its own, so that its CPU time can be told.

use std::{
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, mqttbytes::QoS};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
};

/// More than will ever be in flight, so that nothing waits for it.
const QUEUE: usize = 1_000;

/// What the child is asked to hold up between the two ends.
struct Detour {
    to: pipe::Sender,
    from: pipe::Receiver,
}

/// Serves `<name>/request` until the connection ends.
pub(crate) fn serve(name: &str, address: &str, through_pipe: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(echo(name, address, through_pipe))
}

async fn echo(name: &str, address: &str, through_pipe: bool) -> anyhow::Result<()> {
    let (client, events) = connect(name, address)?;
    client.subscribe(format!("{name}/request"), QoS::AtLeastOnce).await?;
    let response = format!("{name}/response");
    match through_pipe {
        false => direct(&client, events, &response).await,
        true => {
            let Detour { to, from } = detour()?;
            let back = tokio::spawn(give_back(client, from, response));
            tokio::select! {
                ended = pass_on(events, to) => ended,
                ended = back => ended?,
            }
        }
    }
}

fn connect(name: &str, address: &str) -> anyhow::Result<(AsyncClient, EventLoop)> {
    let (host, port) = address.rsplit_once(':').context("the broker's address has no port")?;
    let mut options = MqttOptions::new(name.replace('/', "-"), host, port.parse()?);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_outgoing_inflight_upper_limit(100);
    Ok(AsyncClient::new(options, QUEUE))
}

/// As little as an echo can do, at the QoS at which the request came.
async fn direct(client: &AsyncClient, mut events: EventLoop, response: &str) -> anyhow::Result<()> {
    loop {
        if let Event::Incoming(Incoming::Publish(publish)) = events.poll().await? {
            client.try_publish(response, publish.qos, false, publish.payload)?;
        }
    }
}

/// Starts `cat`, which copies its input to its output.
fn detour() -> anyhow::Result<Detour> {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (input, output) = child.stdin.zip(child.stdout).context("a child without its pipes")?;
    Ok(Detour {
        to: pipe::Sender::from_owned_fd(OwnedFd::from(input))?,
        from: pipe::Receiver::from_owned_fd(OwnedFd::from(output))?,
    })
}

/// Writes each payload into the pipe, behind its length and QoS.
async fn pass_on(mut events: EventLoop, mut to: pipe::Sender) -> anyhow::Result<()> {
    loop {
        if let Event::Incoming(Incoming::Publish(publish)) = events.poll().await? {
            let mut frame = u32::try_from(publish.payload.len())?.to_le_bytes().to_vec();
            frame.push(publish.qos as u8);
            frame.extend_from_slice(&publish.payload);
            to.write_all(&frame).await?;
        }
    }
}

/// Publishes what comes out of the pipe.
async fn give_back(client: AsyncClient, mut from: pipe::Receiver, response: String) -> anyhow::Result<()> {
    let mut bytes = bytes::BytesMut::new();
    loop {
        while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
            let [length @ .., qos] = *header;
            let length = u32::from_le_bytes(length) as usize;
            let Some(payload) = rest.get(..length) else { break };
            let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            client.publish(&response, qos, false, payload.to_vec()).await?;
            bytes::Buf::advance(&mut bytes, 5 + length);
        }
        anyhow::ensure!(from.read_buf(&mut bytes).await? > 0, "the child ended");
    }
}
