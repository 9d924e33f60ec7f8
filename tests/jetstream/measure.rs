use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jetgate::jetstream::{Ack, Acker, Connection, PullEvent, Puller};

use crate::{DURABLE, STREAM, prepared};

const MESSAGES: u64 = 20_000;
const WINDOW: u64 = 256;
const BATCH: u64 = 64;

async fn fill(client: &Client) {
    let jetstream = async_nats::jetstream::new(client.clone());
    let mut last = None;
    for _ in 0..MESSAGES {
        last = Some(jetstream.publish("orders.new", Bytes::from_static(&[b'x'; 256])).await.unwrap());
    }
    last.unwrap().await.unwrap();
}

async fn ours(connection: &Connection) -> Duration {
    let acker = Acker::new(connection.clone());
    let mut puller = Puller::new(connection.clone(), STREAM, DURABLE);
    let (mut done, mut acks) = (0, FuturesUnordered::new());
    let start = Instant::now();
    while done < MESSAGES {
        let used = puller.outstanding() + u64::try_from(acks.len()).unwrap();
        if WINDOW - used >= BATCH {
            puller.pull(BATCH, Duration::from_secs(1)).await.unwrap();
        }
        tokio::select! {
            event = puller.next() => if let PullEvent::Message(delivery) = event {
                let acker = acker.clone();
                acks.push(async move { acker.ack(&delivery.reply, Ack::Ack).await.unwrap() });
            },
            Some(()) = acks.next() => {
                done += 1;
                while let Some(Some(())) = acks.next().now_or_never() {
                    done += 1;
                }
            }
        }
    }
    start.elapsed()
}

async fn bare(client: &Client) -> Duration {
    let inbox = client.new_inbox();
    let mut messages = client.subscribe(inbox.clone()).await.unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}");
    let (mut done, mut out, mut acks) = (0, 0, FuturesUnordered::new());
    let start = Instant::now();
    while done < MESSAGES {
        let used = out + u64::try_from(acks.len()).unwrap();
        if WINDOW - used >= BATCH {
            let body = format!("{{\"batch\":{BATCH},\"expires\":1000000000}}");
            client.publish_with_reply(next.clone(), inbox.clone(), body.into()).await.unwrap();
            out += BATCH;
        }
        tokio::select! {
            Some(message) = messages.next() => match message.status {
                None => {
                    out -= 1;
                    let client = client.clone();
                    let reply = message.reply.unwrap();
                    acks.push(async move { client.request(reply, Bytes::from_static(b"+ACK")).await.unwrap(); });
                }
                Some(_) => out -= BATCH,
            },
            Some(()) = acks.next() => {
                done += 1;
                while let Some(Some(())) = acks.next().now_or_never() {
                    done += 1;
                }
            }
        }
    }
    start.elapsed()
}

/// Exact credits and confirmed acks beside the same done by hand with the bare client, in turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn throughput_beside_the_bare_client() {
    let (_nats, connection) = prepared().await;
    for _ in 0..5 {
        fill(connection.client()).await;
        let bare = bare(connection.client()).await;
        fill(connection.client()).await;
        let ours = ours(&connection).await;
        let rate = |time: Duration| f64::from(u32::try_from(MESSAGES).unwrap()) / time.as_secs_f64();
        println!("bare {:.0}/s, ours {:.0}/s, ratio {:.2}", rate(bare), rate(ours), rate(ours) / rate(bare));
    }
}
