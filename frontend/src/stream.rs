//! Reads a `text/event-stream` answer piece by piece.

/// Collects bytes and gives the `data` of each whole event.
#[derive(Default)]
pub struct Events {
    rest: Vec<u8>,
    data: Vec<u8>,
}

/// No event of a chat is longer; a longer one is dropped rather than kept growing.
const LONGEST: usize = 4 << 20;

impl Events {
    /// The events that `bytes` complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut from = 0;
        while let Some(length) = self.rest[from..].iter().position(|b| *b == b'\n') {
            let line = &self.rest[from..from + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                if !self.data.is_empty() {
                    events.push(String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned());
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            }
            from += length + 1;
        }
        self.rest.drain(..from);
        if self.rest.len() > LONGEST || self.data.len() > LONGEST {
            self.rest.clear();
            self.data.clear();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_cut() {
        let text =
            "event: reply\ndata: {\"a\":\"你好\"}\n\n: keep-alive\n\ndata: one\r\ndata: two\r\n\r\ndata:x\n\ndata: cut"
                .as_bytes();
        let wanted = ["{\"a\":\"你好\"}", "one\ntwo", "x"];
        for size in 1..text.len() {
            let mut events = Events::default();
            let found: Vec<String> = text.chunks(size).flat_map(|piece| events.push(piece)).collect();
            assert_eq!(found, wanted, "in pieces of {size}");
        }
    }
}
