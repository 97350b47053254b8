//! Chat: one worker holds one model and serves many conversations at once. A reader that is slow or gone never holds
//! up the others.

use crate::{
    ask::no_worker,
    error::{Failure, Reply},
    store::Store,
    worker::Program,
};
use api::{
    Problem,
    chat::{ChatModel, ChatState, Command, Generate, LoadChat, Reply as Said, ScoreRequest},
    job::Feed,
};
use axum::http::StatusCode;
use serde::Serialize;
use std::{
    collections::HashMap,
    io,
    process::ExitStatus,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

/// Models loaded at once, conversations of one that wait or run, and pieces of text that wait for a reader.
const MODELS: usize = 4;
const CONVERSATIONS: usize = 64;
const UNREAD: usize = 4096;
/// The longest line that a worker may write.
const LONGEST_LINE: u64 = 4 << 20;

#[derive(Clone)]
pub struct Chats {
    program: Arc<Program>,
    store: Store,
    models: Arc<Mutex<Vec<Arc<Chat>>>>,
    next: Arc<AtomicU64>,
}

struct Chat {
    model: Mutex<ChatModel>,
    commands: mpsc::Sender<Line>,
    requests: Mutex<HashMap<String, mpsc::Sender<Said>>>,
    unload: CancellationToken,
}

enum Line {
    Load(LoadChat),
    Command(Command),
}

/// A running answer. Dropped, it stops the generation.
pub struct Conversation {
    id: String,
    chat: Arc<Chat>,
    replies: mpsc::Receiver<Said>,
}

impl Chats {
    pub fn new(program: Arc<Program>, store: Store) -> Self {
        Self { program, store, models: Arc::default(), next: Arc::default() }
    }

    pub fn list(&self) -> Vec<ChatModel> {
        self.models().iter().map(|chat| chat.model().clone()).collect()
    }

    pub fn get(&self, id: &str) -> Reply<ChatModel> {
        Ok(self.find(id)?.model().clone())
    }

    /// Starts to load a model. One that is loaded, or being loaded, is given back as it is.
    pub fn load(&self, load: LoadChat) -> Reply<ChatModel> {
        let mut models = self.models();
        let is_same = |chat: &Arc<Chat>| {
            let model = chat.model();
            model.load == load && model.state != ChatState::Failed
        };
        if let Some(chat) = models.iter().find(|chat| is_same(chat)) {
            return Ok(chat.model().clone());
        }
        models.retain(|chat| {
            let is_failed = chat.model().state == ChatState::Failed;
            if is_failed {
                chat.unload.cancel();
            }
            !is_failed
        });
        if models.len() >= MODELS {
            let problem = Problem::new(
                "chat_full",
                format!("{MODELS} models are loaded already."),
                format!("已加载 {MODELS} 个模型。"),
            );
            return Err(Failure::conflict(problem.hint("Unload one first.", "请先卸载一个。")));
        }
        let child = self.program.start_chat().map_err(|e| no_worker(&e))?;
        let (commands, queue) = mpsc::channel(2 * CONVERSATIONS);
        let id = format!("chat-{}", self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let model = ChatModel { id, load: load.clone(), state: ChatState::Loading, bytes: 0, problem: None };
        let chat = Arc::new(Chat {
            model: Mutex::new(model.clone()),
            commands,
            requests: Mutex::default(),
            unload: CancellationToken::new(),
        });
        // The queue is empty and has room.
        let _ = chat.commands.try_send(Line::Load(load));
        models.push(chat.clone());
        drop(models);
        tokio::spawn(self.clone().attend(chat, child, queue));
        Ok(model)
    }

    /// Ends the worker; the operating system takes all of its memory back.
    pub fn unload(&self, id: &str) -> Reply<()> {
        let chat = self.find(id)?;
        chat.unload.cancel();
        self.models().retain(|other| !Arc::ptr_eq(other, &chat));
        Ok(())
    }

    pub fn generate(&self, id: &str, body: Generate) -> Reply<Conversation> {
        self.ask(self.find(id)?, |id| Command::Generate {
            id,
            messages: body.messages,
            prompt: None,
            tools: None,
            adapter: body.adapter,
            params: body.params,
        })
    }

    /// The id of the request, and a score for each text.
    pub async fn score(&self, body: ScoreRequest) -> Reply<(String, Vec<f64>)> {
        let chat = self.named(&body.model)?;
        let command = |id| Command::Score { id, texts: body.messages, max_length: body.max_length };
        let mut answer = self.ask(chat, command)?;
        match answer.next().await {
            Some(Said::Scores { scores, .. }) => Ok((answer.id.clone(), scores)),
            Some(Said::Failed { problem, .. }) => Err(Failure::bad(problem)),
            _ => Err(Failure::conflict(gone())),
        }
    }

    /// Sends a command, with an id of its own, to a model that is ready.
    fn ask(&self, chat: Arc<Chat>, command: impl FnOnce(String) -> Command) -> Reply<Conversation> {
        let state = chat.model().state;
        match state {
            ChatState::Ready => {}
            ChatState::Loading => {
                let problem = Problem::new("chat_loading", "The model is still being loaded.", "模型仍在加载。");
                return Err(Failure::conflict(problem.hint("Wait until it is ready.", "请等待加载完成。")));
            }
            ChatState::Failed => return Err(Failure::conflict(chat.model().problem.clone().unwrap_or_else(gone))),
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, replies) = mpsc::channel(UNREAD);
        let mut requests = chat.requests();
        if requests.len() >= CONVERSATIONS {
            return Err(too_many());
        }
        chat.commands.try_send(Line::Command(command(id.clone()))).map_err(|_| too_many())?;
        requests.insert(id.clone(), sender);
        drop(requests);
        Ok(Conversation { id, chat, replies })
    }

    /// Ends all workers.
    pub fn close(&self) {
        for chat in self.models().drain(..) {
            chat.unload.cancel();
        }
    }

    /// Stays with a worker until it is gone.
    async fn attend(self, chat: Arc<Chat>, mut child: Child, queue: mpsc::Receiver<Line>) {
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return;
        };
        let log = tokio::spawn(drain(stderr));
        let unload = chat.unload.clone();
        tokio::select! {
            () = unload.cancelled() => {}
            () = write(stdin, queue) => {}
            () = self.read(&chat, stdout) => {}
        }
        if unload.is_cancelled() {
            let _ = child.start_kill();
        }
        // Its pipe is closed; one that doesn't go by itself is ended.
        let status = match tokio::time::timeout(std::time::Duration::from_secs(2), child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => child.kill().await.ok().and(None),
        };
        let log = log.await.unwrap_or_default();
        if !unload.is_cancelled() {
            tracing::warn!("chat worker ended ({status:?}): {}", log.trim_end());
        }
        let problem = {
            let mut model = chat.model();
            if model.state != ChatState::Failed {
                model.state = ChatState::Failed;
                model.problem = Some(if unload.is_cancelled() { unloaded() } else { ended(status) });
            }
            model.problem.clone().unwrap_or_else(gone)
        };
        for (id, sender) in chat.requests().drain() {
            let _ = sender.try_send(Said::Failed { id, problem: problem.clone() });
        }
        self.tell().await;
    }

    async fn read(&self, chat: &Chat, stdout: ChildStdout) {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
                Ok(length) if length > 0 && line.ends_with(b"\n") => {}
                _ => return,
            }
            match serde_json::from_slice::<Said>(&line) {
                Ok(said) => {
                    if chat.hear(said) {
                        self.tell().await;
                    }
                }
                Err(error) => tracing::warn!("a line of the chat worker can't be read: {error}"),
            }
        }
    }

    async fn tell(&self) {
        if let Err(error) = self.store.tell(&Feed::Changed { what: "chat".into() }).await {
            tracing::error!("{error}");
        }
    }

    /// The model that a request of another program means: by id, folder or adapter, or the only one.
    fn named(&self, name: &str) -> Reply<Arc<Chat>> {
        let models = self.models();
        let is_named = |chat: &&Arc<Chat>| {
            let model = chat.model();
            model.id == name
                || model.load.model_name_or_path == name
                || model.load.adapter_name_or_path.as_deref() == Some(name)
        };
        let only = if models.len() == 1 { models.first() } else { None };
        let found = models.iter().find(is_named).or(only);
        found.cloned().ok_or_else(|| Failure::missing(["loaded model", "已加载的模型"], name))
    }

    fn find(&self, id: &str) -> Reply<Arc<Chat>> {
        let models = self.models();
        let found = models.iter().find(|chat| chat.model().id == id);
        found.cloned().ok_or_else(|| Failure::missing(["chat model", "对话模型"], id))
    }

    fn models(&self) -> MutexGuard<'_, Vec<Arc<Chat>>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chat {
    /// Takes in a line of the worker; true if the model's state changed.
    fn hear(&self, said: Said) -> bool {
        let (id, is_last) = match &said {
            Said::Ready { bytes, .. } => {
                let mut model = self.model();
                model.state = ChatState::Ready;
                model.bytes = *bytes;
                return true;
            }
            Said::Failed { id, problem } if id.is_empty() => {
                let mut model = self.model();
                model.state = ChatState::Failed;
                model.problem = Some(problem.clone());
                return true;
            }
            Said::Text { id, .. } | Said::Ended { id, .. } => (id.clone(), false),
            Said::Done { id, .. } | Said::Scores { id, .. } | Said::Embeddings { id, .. } | Said::Failed { id, .. } => {
                (id.clone(), true)
            }
        };
        let mut requests = self.requests();
        let is_read = requests.get(&id).is_some_and(|sender| sender.try_send(said).is_ok());
        if is_last || !is_read {
            let was_there = requests.remove(&id).is_some();
            if was_there && !is_last {
                let _ = self.commands.try_send(Line::Command(Command::Stop { id }));
            }
        }
        false
    }

    fn model(&self) -> MutexGuard<'_, ChatModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Said>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conversation {
    /// The next line; nothing after the last.
    pub async fn next(&mut self) -> Option<Said> {
        self.replies.recv().await
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if self.chat.requests().remove(&self.id).is_some() {
            let _ = self.chat.commands.try_send(Line::Command(Command::Stop { id: self.id.clone() }));
        }
    }
}

async fn write(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Line>) {
    while let Some(line) = queue.recv().await {
        let sent = match &line {
            Line::Load(load) => send(&mut stdin, load).await,
            Line::Command(command) => send(&mut stdin, command).await,
        };
        if sent.is_err() {
            // It is going; its last words are still to be read.
            std::future::pending().await
        }
    }
}

async fn send(stdin: &mut ChildStdin, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stdin.write_all(&line).await?;
    stdin.flush().await
}

/// Reads to the end so that the worker is never held up; keeps the last few lines.
async fn drain(stderr: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut reader = BufReader::new(stderr);
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length) = reader.read(&mut piece).await {
        if length == 0 {
            break;
        }
        kept.extend_from_slice(&piece[..length]);
        let surplus = kept.len().saturating_sub(8192);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn too_many() -> Failure {
    let problem = Problem::new(
        "chat_busy",
        format!("{CONVERSATIONS} conversations with this model wait already."),
        format!("已有 {CONVERSATIONS} 个对话在等待该模型。"),
    );
    Failure::new(StatusCode::TOO_MANY_REQUESTS, problem.hint("Try again in a moment.", "请稍后重试。"))
}

fn unloaded() -> Problem {
    Problem::new("chat_unloaded", "The model was unloaded.", "模型已卸载。").hint("Load it again.", "请重新加载。")
}

fn gone() -> Problem {
    Problem::new("chat_gone", "The model is no longer loaded.", "模型已不在内存中。")
        .hint("Load it again.", "请重新加载。")
}

fn ended(status: Option<ExitStatus>) -> Problem {
    let status = status.map_or_else(|| "unknown".into(), |status| status.to_string());
    Problem::new(
        "chat_ended",
        format!("The chat worker ended ({status})."),
        format!("对话工作进程已结束（{status}）。"),
    )
    .hint(
        "The memory may have run out: choose a smaller model, then load it again.",
        "可能是内存不足：请选择更小的模型，然后重新加载。",
    )
}
