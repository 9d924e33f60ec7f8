//! A listener whose connections are few and short-lived, so that a slow or silent client holds nothing for long.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// What the clients of the admin server may use together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once; more wait in the kernel's queue. Probes and a few scrapers need under ten.
    pub(super) connections: usize,
    /// How long one may last, from its first byte to its last; every connection serves one request.
    pub(super) lifetime: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 64, lifetime: Duration::from_secs(10) }
    }
}

#[derive(Debug)]
pub(super) struct BoundedListener {
    listener: TcpListener,
    // The IPv4 half, where the kernel keeps IPv6 sockets to IPv6.
    v4: Option<TcpListener>,
    room: Arc<Semaphore>,
    lifetime: Duration,
}

impl BoundedListener {
    /// Listens on every address of both families.
    pub(super) async fn bind(port: u16, bounds: Bounds) -> io::Result<Self> {
        let (listener, v4) = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => {
                let port = listener.local_addr()?.port();
                // In use means that the first socket serves IPv4 as well, which is the usual setting.
                let v4 = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                    Ok(v4) => Some(v4),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                    Err(error) => return Err(error),
                };
                (listener, v4)
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // A machine without IPv6; if that was not the cause, IPv4 fails for the same one.
            Err(_) => (TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?, None),
        };
        Ok(Self { listener, v4, room: Arc::new(Semaphore::new(bounds.connections)), lifetime: bounds.lifetime })
    }

    async fn accept_one(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.v4 {
            None => self.listener.accept().await,
            Some(v4) => tokio::select! {
                accepted = self.listener.accept() => accepted,
                accepted = v4.accept() => accepted,
            },
        }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedIo;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedIo, SocketAddr) {
        loop {
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                // Nobody closes the semaphore.
                std::future::pending::<()>().await;
                continue;
            };
            match self.accept_one().await {
                Ok((stream, address)) => {
                    let io = BoundedIo { stream, end: Box::pin(tokio::time::sleep(self.lifetime)), _permit: permit };
                    return (io, address);
                }
                Err(error) => {
                    // Out of file descriptors, or the client left already: neither is the end of the server.
                    tracing::debug!(error = &error as &dyn std::error::Error, "no connection accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over, whatever it waits for.
#[derive(Debug)]
pub(super) struct BoundedIo {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedIo {
    fn over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoundedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
