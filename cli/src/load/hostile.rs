//! L07: connections that only take up room.

use super::{Plan, Result, Row, percentile, studio::Studio};
use api::routes::{CATALOG, HEALTH};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

const ALL: usize = 1000;

pub async fn connections(studio: &Studio, plan: &Plan) -> Result<Row> {
    let mut hostile = JoinSet::new();
    for number in 0..ALL {
        let (address, seconds) = (studio.address, plan.seconds);
        hostile.spawn(async move {
            let _ = timeout(seconds, occupy(address, number)).await;
        });
    }
    sleep(Duration::from_secs(1)).await;
    let (begun, mut waits, mut failed) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() + Duration::from_secs(2) < plan.seconds {
        let asked = Instant::now();
        // A connection of its own, as a page that is opened makes.
        let answer = timeout(Duration::from_secs(15), async { studio.client().await?.get(HEALTH).await }).await;
        match answer {
            Ok(Ok((status, _))) if status.is_success() => waits.push(super::ms(asked.elapsed())),
            _ => failed += 1,
        }
        sleep(Duration::from_millis(50)).await;
    }
    hostile.shutdown().await;
    Ok(Row::new(
        "L07",
        format!("{ALL} connections, half-open, slow to ask or slow to read, for {} s", plan.seconds.as_secs()),
    )
    .at_most("p99 of others", percentile(&mut waits, 0.99), "ms", 200.0)
    .at_most("failed", f64::from(failed), "", 0.0))
}

/// Connects again and again: says nothing, a byte of a header at a time, or asks for much and reads nothing.
async fn occupy(address: SocketAddr, number: usize) -> std::io::Result<()> {
    loop {
        let mut stream = TcpStream::connect(address).await?;
        match number % 3 {
            0 => stream.readable().await?,
            1 => {
                let head = format!("GET {HEALTH} HTTP/1.1\r\nhost: {address}\r\nx-slow: ");
                let slow = async {
                    for byte in head.bytes().chain(std::iter::repeat(b'x')) {
                        stream.write_all(&[byte]).await?;
                        sleep(Duration::from_secs(1)).await;
                    }
                    Ok::<_, std::io::Error>(())
                };
                let _ = slow.await;
            }
            _ => {
                let request = format!("GET {CATALOG} HTTP/1.1\r\nhost: {address}\r\n\r\n").repeat(50);
                let _ = stream.write_all(request.as_bytes()).await;
                sleep(Duration::from_secs(3600)).await;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}
