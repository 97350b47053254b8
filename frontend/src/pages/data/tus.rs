//! Resumable uploads by the [tus protocol](https://tus.io/protocols/resumable-upload) 1.0: create, ask how far it got, send
//! a piece, give up.

use crate::client;
use api::{Problem, data::DatasetInfo, routes};
use js_sys::Promise;
use std::{cell::RefCell, rc::Rc};
use wasm_bindgen::{JsCast, prelude::Closure};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, File, ProgressEvent, XmlHttpRequest};

/// Bytes of a piece: what is sent anew at most after the connection was lost.
const PIECE: u64 = 8 << 20;
/// Milliseconds without an end after which a request counts as lost. The last piece waits until the dataset is read.
const PATIENCE: u32 = 300_000;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The connection, or the server has no time: the upload stands as it was, and [`Line::offset`] says how far.
    Lost,
    /// The server knows no such upload any more.
    Gone,
    Refused(Vec<Problem>),
}

/// What the server has after a piece.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// So many bytes.
    Part(u64),
    Whole(Box<DatasetInfo>),
}

/// Sends one request at a time, which can be broken off.
#[derive(Clone, Default)]
pub struct Line(Rc<RefCell<Option<XmlHttpRequest>>>);

impl Line {
    /// Announces a file; answers the address of its upload.
    pub async fn create(&self, file: &File, name: &str) -> Result<String, Fault> {
        let size = (file.size() as u64).to_string();
        let metadata = format!("filename {},name {}", base64(&file.name()), base64(name));
        let headers = [("Upload-Length", size.as_str()), ("Upload-Metadata", metadata.as_str())];
        let answer = self.ask("POST", routes::UPLOADS, &headers, None, |_| {}).await;
        match (answer.status, answer.header("Location")) {
            (201, Some(url)) => Ok(url),
            (201, None) => Err(Fault::Refused(vec![client::bad_answer("201")])),
            _ => Err(answer.fault()),
        }
    }

    /// How many bytes the server has.
    pub async fn offset(&self, url: &str) -> Result<u64, Fault> {
        let answer = self.ask("HEAD", url, &[], None, |_| {}).await;
        match answer.status {
            200 | 204 => answer.offset().ok_or(Fault::Gone),
            _ => Err(answer.fault()),
        }
    }

    /// Sends the piece that begins at `offset`; `progress` hears how many bytes of the file have left.
    pub async fn send(
        &self,
        url: &str,
        file: &File,
        offset: u64,
        progress: impl Fn(u64) + 'static,
    ) -> Result<Sent, Fault> {
        let end = (offset + PIECE).min(file.size() as u64);
        let piece = file.slice_with_f64_and_f64(offset as f64, end as f64).map_err(|_| Fault::Lost)?;
        let at = offset.to_string();
        let headers = [("Upload-Offset", at.as_str()), ("Content-Type", "application/offset+octet-stream")];
        let answer = self.ask("PATCH", url, &headers, Some(&piece), move |sent| progress(offset + sent)).await;
        match answer.status {
            204 => answer.offset().map(Sent::Part).ok_or(Fault::Lost),
            200 => match serde_json::from_str(&answer.body) {
                Ok(info) => Ok(Sent::Whole(Box::new(info))),
                Err(_) => Err(Fault::Refused(vec![client::bad_answer("200")])),
            },
            _ => Err(answer.fault()),
        }
    }

    /// Breaks off what is being sent.
    pub fn cut(&self) {
        if let Some(request) = self.0.borrow_mut().take() {
            let _ = request.abort();
        }
    }

    /// Tells the server to forget the upload. If it doesn't hear, the upload goes with its time.
    pub async fn give_up(url: &str) {
        Self::default().ask("DELETE", url, &[], None, |_| {}).await;
    }

    /// `fetch` can't tell how far an upload is.
    async fn ask(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<&Blob>,
        progress: impl Fn(u64) + 'static,
    ) -> Answer {
        let heard = Closure::<dyn Fn(ProgressEvent)>::new(move |e: ProgressEvent| progress(e.loaded() as u64));
        let begin = || {
            let request = XmlHttpRequest::new().ok()?;
            request.open(method, url).ok()?;
            request.set_request_header("Tus-Resumable", "1.0.0").ok()?;
            headers.iter().try_for_each(|(name, value)| request.set_request_header(name, value)).ok()?;
            request.set_timeout(PATIENCE);
            if body.is_some() {
                request.upload().ok()?.set_onprogress(Some(heard.as_ref().unchecked_ref()));
            }
            Some(request)
        };
        let Some(request) = begin() else { return Answer::default() };
        let ended = Promise::new(&mut |resolve, _| request.set_onloadend(Some(&resolve)));
        if request.send_with_opt_blob(body).is_err() {
            return Answer::default();
        }
        *self.0.borrow_mut() = Some(request.clone());
        let _ = JsFuture::from(ended).await;
        self.0.borrow_mut().take();
        Answer {
            status: request.status().unwrap_or(0),
            body: request.response_text().ok().flatten().unwrap_or_default(),
            request: Some(request),
        }
    }
}

/// Status 0 if there was none.
#[derive(Default)]
struct Answer {
    status: u16,
    body: String,
    request: Option<XmlHttpRequest>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        self.request.as_ref()?.get_response_header(name).ok().flatten()
    }

    fn offset(&self) -> Option<u64> {
        self.header("Upload-Offset")?.parse().ok()
    }

    fn fault(&self) -> Fault {
        match self.status {
            // 409: the server has another number of bytes than this page thought; 423: another request writes still.
            0 | 408 | 409 | 423 | 429 | 502..=504 => Fault::Lost,
            404 | 410 => Fault::Gone,
            status => match client::problems(status, &self.body) {
                // The rest of a piece didn't come in time.
                problems if problems.iter().any(|p| p.code == "cut_off") => Fault::Lost,
                problems => Fault::Refused(problems),
            },
        }
    }
}

/// Base64 of the text's UTF-8; the browser's own function takes each byte as a character.
fn base64(text: &str) -> String {
    let bytes: String = text.bytes().map(char::from).collect();
    leptos::prelude::window().btoa(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: u16, body: &str) -> Fault {
        Answer { status, body: body.into(), request: None }.fault()
    }

    #[test]
    fn only_what_can_pass_by_itself_is_tried_again() {
        for status in [0, 409, 423, 503] {
            assert_eq!(fault(status, ""), Fault::Lost, "{status}");
        }
        assert_eq!(fault(410, ""), Fault::Gone);
        let body =
            r#"{"type":"about:blank","title":"t","status":413,"detail":"d","problems":[{"code":"x","message":"m"}]}"#;
        match fault(413, body) {
            Fault::Refused(problems) => assert_eq!(problems[0].message, "m"),
            other => panic!("{other:?}"),
        }
        assert_eq!(fault(400, &body.replace("\"x\"", "\"cut_off\"")), Fault::Lost);
        assert!(matches!(fault(500, "<html>"), Fault::Refused(_)));
    }
}
