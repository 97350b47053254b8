//! Connects the engine, which reaches no network, to teachers behind servers.

use api::{Problem, data::Message};
use engine::{
    Error, Result,
    make::{Endpoint, Options, Said, Teacher},
};
use server::teacher::{self, TeacherSettings};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How soon a wish to stop is seen while an answer is waited for.
const LOOK: Duration = Duration::from_millis(100);

struct Remote {
    teacher: teacher::Teacher,
    runtime: tokio::runtime::Runtime,
}

/// What the engine calls for a job with a `base_url`.
pub fn connect(endpoint: &Endpoint, settings: &TeacherSettings) -> Result<Box<dyn Teacher>> {
    let teacher = teacher::Teacher::new(&endpoint.base_url, &endpoint.model, settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Box::new(Remote { teacher, runtime }))
}

impl Teacher for Remote {
    fn name(&self) -> String {
        self.teacher.name()
    }

    fn answer(&mut self, messages: &[Message], options: &Options, stop: &AtomicBool) -> Result<Said> {
        self.runtime.block_on(async {
            tokio::select! {
                said = self.teacher.answer(messages, &options.generate, options.surely) => {
                    let teacher::Said { text, confidence, whole } = said?;
                    Ok(Said { text, confidence, whole })
                }
                () = stopped(stop) => Err(cancelled().into()),
            }
        })
    }

    fn scores(&mut self, texts: &[String], stop: &AtomicBool) -> Result<Vec<f64>> {
        self.runtime.block_on(async {
            tokio::select! {
                scores = self.teacher.scores(texts) => Ok(scores?),
                () = stopped(stop) => Err(cancelled().into()),
            }
        })
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
}

fn cancelled() -> Problem {
    Problem::new("cancelled", "The question to the teacher was given up.", "已放弃向教师模型提问。")
}
