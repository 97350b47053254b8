//! One connection to a studio, kept alive.

use super::Result;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{convert::Infallible, net::SocketAddr};
use tokio::net::TcpStream;

pub struct Client {
    sender: SendRequest<BoxBody<Bytes, Infallible>>,
    host: String,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_string() })
    }

    /// Sends a request with any body; the answer's body is still to be read.
    pub async fn send<B>(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: B,
    ) -> Result<Response<Incoming>>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static,
    {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(body.boxed())?).await?)
    }

    pub async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes)> {
        let answer = self.send(Method::GET, path, &[], Full::default()).await?;
        whole(answer).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Response<Incoming>> {
        let body = Full::from(body.to_string());
        self.send(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    /// An answer that must be JSON of success.
    pub async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let text = body.map(ToString::to_string).unwrap_or_default();
        let answer = self.send(method, path, &[("content-type", "application/json")], Full::from(text)).await?;
        let (status, bytes) = whole(answer).await?;
        if !status.is_success() {
            return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&bytes)).into());
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

pub async fn whole(answer: Response<Incoming>) -> Result<(StatusCode, Bytes)> {
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}
