//! Each fault of the TCP proxy, seen from both ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testbed::proxy::Trap;
use testbed::{Direction, FaultProxy, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::SOON;

/// A server that answers every read with `<` and what was read, and reports what it got.
async fn echo() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (report, got) = mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let report = report.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let bytes = buffer[..count].to_vec();
                    let reply = [b"<", &bytes[..]].concat();
                    report.send(bytes).await.unwrap();
                    if stream.write_all(&reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, got)
}

async fn read(stream: &mut TcpStream, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    tokio::time::timeout(SOON, stream.read_exact(&mut bytes)).await.unwrap()?;
    Ok(bytes)
}

async fn silent(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let patience = Duration::from_millis(200);
    tokio::time::timeout(patience, stream.read(&mut byte)).await.is_err()
}

#[track_caller]
fn reset(error: &std::io::Error) {
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test]
async fn bytes_pass_and_are_counted() {
    let (server, _got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"abc").await.unwrap();
    assert_eq!(read(&mut client, 4).await.unwrap(), b"<abc");
    assert_eq!((proxy.connections(), proxy.open()), (1, 1));
    assert_eq!(proxy.bytes(Direction::ToServer), 3);
    // Counted when they are written, which the client may see first.
    wait::until_true("the count", SOON, || async { proxy.bytes(Direction::ToClient) == 4 }).await.unwrap();
    drop(client);
    wait::until_true("the end of it", SOON, || async { proxy.open() == 0 }).await.unwrap();
}

#[tokio::test]
async fn a_stall_holds_one_direction_and_gives_it_back() {
    let (server, mut got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.stall(Direction::ToClient);
    client.write_all(b"one").await.unwrap();
    assert_eq!(got.recv().await.unwrap(), b"one");
    assert!(silent(&mut client).await);
    proxy.pass();
    assert_eq!(read(&mut client, 4).await.unwrap(), b"<one");

    proxy.stall(Direction::ToServer);
    client.write_all(b"two").await.unwrap();
    assert!(silent(&mut client).await);
    assert!(got.try_recv().is_err());
    proxy.pass();
    assert_eq!(read(&mut client, 4).await.unwrap(), b"<two");
}

#[tokio::test]
async fn a_black_hole_swallows_for_ever() {
    let (server, mut got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.blackhole(Direction::ToServer);
    client.write_all(b"lost").await.unwrap();
    assert!(silent(&mut client).await);
    proxy.pass();
    client.write_all(b"kept").await.unwrap();
    assert_eq!(read(&mut client, 5).await.unwrap(), b"<kept");
    assert_eq!(got.recv().await.unwrap(), b"kept");
}

#[tokio::test]
async fn a_delay_is_kept_and_does_not_add_up() {
    let (server, _got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let delay = Duration::from_millis(300);
    proxy.delay(Direction::ToServer, delay);
    let start = Instant::now();
    for _ in 0..5 {
        client.write_all(b"x").await.unwrap();
        tokio::task::yield_now().await;
    }
    // How the server reads them decides how many signs it adds: at least one.
    read(&mut client, 6).await.unwrap();
    assert!(start.elapsed() >= delay);
    assert!(start.elapsed() < delay * 4);
}

#[tokio::test]
async fn a_cut_resets_both_ends_and_new_connections_work() {
    let (server, _got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"a").await.unwrap();
    read(&mut client, 2).await.unwrap();
    proxy.cut();
    reset(&read(&mut client, 1).await.unwrap_err());
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"b").await.unwrap();
    assert_eq!(read(&mut client, 2).await.unwrap(), b"<b");
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn refused_means_refused_until_it_accepts() {
    let (server, _got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut open = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.refuse().await.unwrap();
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    open.write_all(b"still").await.unwrap();
    assert_eq!(read(&mut open, 6).await.unwrap(), b"<still");
    proxy.accept().await.unwrap();
    TcpStream::connect(proxy.address()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_reply_leaves_the_request_done() {
    let (server, mut got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"fine").await.unwrap();
    read(&mut client, 5).await.unwrap();
    let trap = proxy.drop_reply();
    client.write_all(b"request").await.unwrap();
    trap.sprung(SOON).await.unwrap();
    reset(&read(&mut client, 1).await.unwrap_err());
    assert_eq!(got.recv().await.unwrap(), b"fine");
    assert_eq!(got.recv().await.unwrap(), b"request");
}

#[tokio::test]
async fn traps_wait_for_their_bytes() {
    let (server, mut got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let before = proxy.trap(Trap::CutBefore, b"+ACK");
    client.write_all(b"PING").await.unwrap();
    read(&mut client, 5).await.unwrap();
    client.write_all(b"x+ACKx").await.unwrap();
    before.sprung(SOON).await.unwrap();
    reset(&read(&mut client, 1).await.unwrap_err());

    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let after = proxy.trap(Trap::CutAfter, b"+ACK");
    client.write_all(b"y+ACKy").await.unwrap();
    after.sprung(SOON).await.unwrap();
    reset(&read(&mut client, 8).await.unwrap_err());
    assert_eq!(got.recv().await.unwrap(), b"PING");
    assert_eq!(got.recv().await.unwrap(), b"y+ACKy");
}

#[tokio::test]
async fn a_connection_is_cut_in_the_middle_of_a_frame() {
    let (server, _got) = echo().await;
    let proxy = FaultProxy::start(server).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.cut_after_bytes(Direction::ToClient, 3);
    client.write_all(b"abcdef").await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, client.read_to_end(&mut bytes)).await.unwrap().unwrap_err();
    assert!(bytes.len() <= 3, "{bytes:?}");
    assert_eq!(proxy.bytes(Direction::ToClient), 3);
}

#[tokio::test]
async fn a_server_that_is_away_resets_its_clients() {
    let (server, _got) = echo().await;
    let proxy = FaultProxy::start("127.0.0.1:1".parse().unwrap()).await.unwrap();
    // The reset may come before the client has looked at its connection.
    let first = async {
        let mut client = TcpStream::connect(proxy.address()).await?;
        read(&mut client, 1).await
    };
    reset(&first.await.unwrap_err());
    proxy.set_upstream(server);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"b").await.unwrap();
    assert_eq!(read(&mut client, 2).await.unwrap(), b"<b");
}
