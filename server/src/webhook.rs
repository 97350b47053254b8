//! Tells another computer of every change of a job's state. What has to be told stands in the database, written in the
//! same transaction as the change, so a restart loses nothing; it goes when the other side has taken it.

use crate::{error::Error, random::to_hex, store::Store, time::now};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, Url, redirect::Policy};
use sha2::Sha256;
use std::{fmt, time::Duration};

/// Names the message; one that is sent twice has the same number.
const DELIVERY: &str = "x-lathe-delivery";
/// `sha256=` and the HMAC-SHA256 of the body under the secret, in hexadecimal.
const SIGNATURE: &str = "x-lathe-signature";
/// The other side has so long to take a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries of a message, at least and at most.
const PAUSE: f64 = 1.0;
const LONGEST_PAUSE: f64 = 600.0;
/// A message that nobody took for three days is dropped.
const LONGEST_LIFE: f64 = 3.0 * 86_400.0;

/// Where messages go, and what signs them.
#[derive(Clone)]
pub struct Webhook {
    pub url: String,
    pub secret: Option<String>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path often is a secret, too.
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

/// One message that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub id: i64,
    pub body: String,
    pub tries: u32,
    pub made_at: f64,
}

/// Takes messages out of the database and sends them.
pub struct Sender {
    client: Client,
    url: Url,
    secret: Option<String>,
    store: Store,
}

impl Sender {
    pub fn new(webhook: &Webhook, store: Store) -> Result<Self, Error> {
        let url = parse(&webhook.url)?;
        let mut client = Client::builder()
            .user_agent(concat!("lathe/", env!("CARGO_PKG_VERSION")))
            // A redirect could lead to a place that the owner didn't choose.
            .redirect(Policy::none())
            .timeout(PATIENCE);
        if url.host_str().is_some_and(|host| ["localhost", "127.0.0.1", "[::1]"].contains(&host)) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|_| Error::Webhook)?;
        Ok(Self { client, url, secret: webhook.secret.clone(), store })
    }

    /// Sends for ever.
    pub async fn run(self) {
        let news = self.store.delivery_news();
        loop {
            let wait = match self.send_due().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!("webhook: {error}");
                    LONGEST_PAUSE / 10.0
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs_f64(wait), news.notified()).await;
        }
    }

    /// Sends what is due; the seconds until more is.
    async fn send_due(&self) -> Result<f64, sqlx::Error> {
        for delivery in self.store.due_deliveries(now()).await? {
            let outcome = self.send(&delivery).await;
            let is_over = outcome.is_ok() || now() - delivery.made_at > LONGEST_LIFE;
            if let Err(why) = outcome {
                let end = if is_over { ", dropped after three days" } else { "" };
                tracing::warn!(delivery = delivery.id, "webhook: {why}{end}");
            }
            let mut change = self.store.begin().await?;
            if is_over {
                change.forget_delivery(delivery.id).await?;
            } else {
                change.delay_delivery(delivery.id, now() + pause(delivery.tries)).await?;
            }
            change.commit().await?;
        }
        let next = self.store.next_delivery().await?;
        // However the clock was set, never longer than the longest pause.
        Ok(next.map_or(LONGEST_PAUSE, |at| (at - now()).clamp(0.01, LONGEST_PAUSE)))
    }

    async fn send(&self, delivery: &Delivery) -> Result<(), String> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(DELIVERY, delivery.id.to_string());
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE, signature(secret, delivery.body.as_bytes()));
        }
        // Without the address: it may hold a secret.
        let answer = request.body(delivery.body.clone()).send().await.map_err(|e| e.without_url().to_string())?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("answered with status {status}")) }
    }
}

/// An address that messages can go to.
pub fn parse(url: &str) -> Result<Url, Error> {
    let url = Url::parse(url).map_err(|_| Error::Webhook)?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host();
    if fits { Ok(url) } else { Err(Error::Webhook) }
}

/// As the other side checks it.
pub fn signature(secret: &str, body: &[u8]) -> String {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(body);
    format!("sha256={}", to_hex(&mac.finalize().into_bytes()))
}

/// Seconds until the next try.
fn pause(tries: u32) -> f64 {
    (PAUSE * 2f64.powi(tries.min(30).cast_signed())).min(LONGEST_PAUSE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_rfc_4231() {
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature("Jefe", b"what do ya want for nothing?"), expected);
    }

    #[test]
    fn only_web_addresses_are_taken() {
        assert!(parse("https://example.org/hook?key=1").is_ok());
        for bad in ["", "example.org", "file:///etc/passwd", "ftp://example.org", "http://", "javascript:1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pauses_double_up_to_ten_minutes_and_nothing_secret_is_printed() {
        assert_eq!([0, 1, 5, 9, 10, 1000].map(pause), [1.0, 2.0, 32.0, 512.0, 600.0, 600.0]);
        let webhook = Webhook { url: "https://example.org/s3cret".into(), secret: Some("s3cret".into()) };
        assert!(!format!("{webhook:?}").contains("s3cret"));
    }
}
