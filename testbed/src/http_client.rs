//! The little HTTP that readiness probes and etcd's gateway need: one request, one connection, no TLS.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// One request; the whole answer.
pub async fn call(
    method: Method,
    address: SocketAddr,
    path: &str,
    body: impl Into<Bytes>,
    limit: Duration,
) -> Result<(StatusCode, Bytes)> {
    let what = format!("{method} http://{address}{path}");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .body(Full::new(body.into()))
        .map_err(Error::doing(what.clone()))?;
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(Error::doing(what.clone()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Error::doing(what.clone()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(Error::doing(what.clone()))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(Error::doing(what.clone()))?;
            Ok((status, body.to_bytes()))
        };
        tokio::select! {
            // The answer first: a connection that closes behind a whole answer is no error.
            biased;
            answer = answer => answer,
            Err(error) = connection => Err(Error::doing(what.clone())(error)),
        }
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_elapsed| Error::Timeout { what: what.clone(), limit })?
}

/// The text of a GET that was answered with success.
pub async fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let (status, body) = call(Method::GET, address, path, Bytes::new(), limit).await?;
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() { Ok(text) } else { Err(Error::doing::<String>(format!("GET {path} ({status})"))(text)) }
}

/// A GET for a readiness probe: `Err` says in words why not yet.
pub async fn probe(address: SocketAddr, path: &str) -> Result<(), String> {
    match call(Method::GET, address, path, Bytes::new(), Duration::from_secs(2)).await {
        Ok((status, _)) if status.is_success() => Ok(()),
        Ok((status, body)) => Err(format!("{path} answers {status} {}", String::from_utf8_lossy(&body))),
        Err(error) => Err(error.to_string()),
    }
}
