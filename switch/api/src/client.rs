//! The client of the control API: HTTP/1.1 over the Unix socket, one connection per request.
//!
//! [`Client`] is for programs that run on tokio; [`BlockingClient`] wraps it for those that do not. Every call ends
//! within the client's time limit, and an error says what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::error::ApiError;
use crate::paths;
use crate::report::Status;
use crate::transaction::{Transaction, TransactionReply};
use crate::upgrade::{UpgradeReply, UpgradeRequest};

/// Time limit of a call unless another is set.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer read, in bytes: a full forwarding database of a big node fits.
const MAX_ANSWER: usize = 64 << 20;

/// How often [`BlockingClient::wait_ready`] asks.
const READY_INTERVAL: Duration = Duration::from_millis(100);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("weftd is not running at {}: {cause}; start it, or name its socket with --socket", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        cause: io::Error,
    },
    /// The socket is there but cannot be used by this user.
    #[error(
        "cannot reach weftd at {}: {cause}; the socket is for root, and the group if one is configured",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        cause: io::Error,
    },
    /// No answer within the limit.
    #[error("weftd at {} did not answer within {} s; see its log, or raise --timeout", path.display(), limit.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The daemon refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection broke in the middle.
    #[error("weftd at {} hung up: {message}; see its log", path.display())]
    HungUp {
        /// The socket.
        path: PathBuf,
        /// What the HTTP layer said.
        message: String,
    },
    /// The answer is not one that this version understands.
    #[error("weftd at {} answered {status} in words this version does not know: {message}; are both the same version?", path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// The HTTP status.
        status: u16,
        /// What is wrong, or the start of the body.
        message: String,
    },
    /// The daemon runs, but its ports are not back yet.
    #[error("weftd at {} is not ready after {} s; see `weft status` and its log", path.display(), limit.as_secs())]
    NotReady {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// The runtime of the blocking client cannot start.
    #[error("cannot start the client: {0}")]
    Runtime(io::Error),
}

/// The client for programs on tokio.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon that listens at `socket`. Connects with each call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Client { socket: socket.into(), timeout: DEFAULT_TIMEOUT }
    }

    /// The same with another time limit per call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket it connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for one of [`paths`], a query string may follow it.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Makes changes, all or none.
    pub async fn transaction(&self, transaction: &Transaction) -> Result<TransactionReply, ClientError> {
        self.post(paths::TRANSACTION, transaction).await
    }

    /// Lets another process take over, and waits until it forwards.
    pub async fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeReply, ClientError> {
        self.post(paths::UPGRADE, request).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| self.malformed(StatusCode::OK, error.to_string()))?;
        self.call(Method::POST, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (status, body) =
            tokio::time::timeout(self.timeout, self.exchange(method, path, body))
                .await
                .map_err(|_| ClientError::Timeout { path: self.socket.clone(), limit: self.timeout })??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.malformed(status, error.to_string()));
        }
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(error.into()),
            Err(_) => {
                let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
                Err(self.malformed(status, text))
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.refused(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.hung_up(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "weft")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| self.hung_up(error))?;
        // The connection is driven here, not on a task of its own: dropping the call closes it.
        let answer = async {
            let response: Response<_> = sender.send_request(request).await.map_err(|e| self.hung_up(e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| self.hung_up(error))?;
            Ok((status, body.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            result = &mut answer => result,
            // The connection's end wakes the pending answer with the reason.
            _ = &mut connection => answer.await,
        }
    }

    fn refused(&self, cause: io::Error) -> ClientError {
        let path = self.socket.clone();
        match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path, cause }
            }
            _ => ClientError::Connect { path, cause },
        }
    }

    fn hung_up(&self, error: impl ToString) -> ClientError {
        ClientError::HungUp { path: self.socket.clone(), message: error.to_string() }
    }

    fn malformed(&self, status: StatusCode, message: String) -> ClientError {
        ClientError::Malformed { path: self.socket.clone(), status: status.as_u16(), message }
    }
}

/// The client for programs without an async runtime: each call blocks the caller.
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl BlockingClient {
    /// Wraps `client`. Must not be used from within a tokio runtime.
    pub fn new(client: Client) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::Runtime)?;
        Ok(BlockingClient { client, runtime })
    }

    /// The socket it connects to.
    pub fn socket(&self) -> &Path {
        self.client.socket()
    }

    /// As [`Client::get`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.runtime.block_on(self.client.get(path))
    }

    /// As [`Client::transaction`].
    pub fn transaction(&self, transaction: &Transaction) -> Result<TransactionReply, ClientError> {
        self.runtime.block_on(self.client.transaction(transaction))
    }

    /// As [`Client::upgrade`].
    pub fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeReply, ClientError> {
        self.runtime.block_on(self.client.upgrade(request))
    }

    /// Waits until the daemon says that it is ready, for at most `limit`; asks at least once.
    ///
    /// Ends with the last call's error when the daemon could not be asked, or with [`ClientError::NotReady`].
    pub fn wait_ready(&self, limit: Duration) -> Result<Status, ClientError> {
        let end = Instant::now() + limit;
        loop {
            // One slow answer must not outlast the limit by much.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
            let client = self.client.clone().with_timeout(self.client.timeout.min(left));
            match self.runtime.block_on(client.get::<Status>(paths::STATUS)) {
                Ok(status) if status.ready => return Ok(status),
                // Waiting does not mend these.
                Err(error @ (ClientError::Connect { .. } | ClientError::Malformed { .. })) => {
                    return Err(error);
                }
                _ if Instant::now() < end => std::thread::sleep(READY_INTERVAL),
                Ok(_) => return Err(ClientError::NotReady { path: self.socket().to_owned(), limit }),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
