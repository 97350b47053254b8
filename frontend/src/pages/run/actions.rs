//! What can be done with a run: stop, resume, delete, chat, export, use its settings again.

use super::resume::ResumeDialog;
use crate::{
    client,
    form::train_form,
    i18n::fill,
    parts::{
        Dialog,
        dialog::{Confirm, CopyButton},
        icon,
        job::{left, order, share},
    },
    store::{Store, store},
    ui,
};
use api::{Job, JobKind, JobState, routes};
use leptos::{prelude::*, task::spawn_local};
use leptos_router::hooks::use_navigate;

/// Deletes a job and says so.
pub fn delete_job(id: String) {
    let store = store();
    let text = fill(ui::words().deleted, &[("name", &id)]);
    spawn_local(async move {
        match client::delete(&routes::fill(routes::JOB, &id)).await {
            Ok(()) => {
                store.forget(&id);
                store.say(text);
            }
            Err(problems) => store.complain(&problems),
        }
    });
}

fn can_resume(state: JobState) -> bool {
    matches!(state, JobState::Interrupted | JobState::Stopped | JobState::Failed)
}

#[component]
pub fn Actions(job: Memo<Option<Job>>, state: Memo<JobState>) -> impl IntoView {
    let w = ui::words();
    let form = train_form();
    let id = move || job.with_untracked(|j| j.as_ref().map(|j| j.id.clone()).unwrap_or_default());
    let (show_yaml, ask_stop, ask_delete) = (RwSignal::new(false), RwSignal::new(false), RwSignal::new(false));
    let ask_resume = RwSignal::new(false);
    let yaml = Signal::derive(move || job.with(|j| j.as_ref().map(|j| j.config.to_yaml()).unwrap_or_default()));
    let navigate = use_navigate();
    let reuse = {
        let navigate = navigate.clone();
        move |_| {
            let mut config = job.with_untracked(|j| j.as_ref().map(|j| j.config.clone()).unwrap_or_default());
            for key in ["run_name", "output_dir", "resume_from_checkpoint"] {
                config.remove(key);
            }
            form.fill(config);
            navigate("/", Default::default());
        }
    };
    let reuse = StoredValue::new_local(reuse);
    let delete = Callback::new(move |()| {
        delete_job(id());
        navigate("/runs", Default::default());
    });
    let steps = move || job.with(|j| j.as_ref().map_or(0, |j| j.progress.done));
    let buttons = move || {
        match state.get() {
        JobState::Queued | JobState::Running => view! {
            <button type="button" class="btn danger wide-only" data-testid="run-stop" on:click=move |_| ask_stop.set(true)>{icon("stop", 18)}{w.stop_save}</button>
        }
        .into_any(),
        JobState::Stopping => ().into_any(),
        state => {
            let resumable = can_resume(state) && job.with(|j| j.as_ref().is_some_and(|j| j.kind == JobKind::Train));
            let resume_as = resumable.then(|| view! {
                <button type="button" class="btn" data-testid="run-resume-as" on:click=move |_| ask_resume.set(true)>{icon("redo", 18)}{w.resume_as}</button>
            });
            let say_resumed = move |store: Store, taken: bool| if taken { store.say(w.resumed.into()) };
            let resume = can_resume(state).then(|| view! {
                <button type="button" class="btn primary" data-testid="run-resume" on:click=move |_| order(routes::JOB_RESUME, id(), say_resumed)>
                    {icon("play", 18)}{w.resume}
                </button>
            });
            let talk = (state == JobState::Succeeded).then(|| view! {
                <a class="btn primary" data-testid="run-chat" href=format!("/chat?run={}", id())>{icon("chat", 18)}{w.chat_with_it}</a>
            });
            view! {
                <button type="button" class="btn quiet" data-testid="run-delete" on:click=move |_| ask_delete.set(true)>{icon("trash", 18)}{w.delete}</button>
                {resume_as}{resume}{talk}
            }
            .into_any()
        }
    }
    };
    let reuse = move |e: leptos::ev::MouseEvent| reuse.with_value(|f| f(e));
    view! {
        <div class="acts">
            <button type="button" class="btn" on:click=reuse>{icon("redo", 18)}{w.use_settings}</button>
            <button type="button" class="btn" data-testid="run-yaml" on:click=move |_| show_yaml.set(true)>{icon("file", 18)}{w.yaml}</button>
            {buttons}
        </div>
        <Dialog open=show_yaml title=Signal::stored(w.yaml_title.to_owned()) wide=true>
            <p class="soft s">{w.yaml_help}</p>
            <pre class="log mt" tabindex="0">{yaml}</pre>
            <div class="row end">
                <CopyButton text=yaml />
                <button type="button" class="btn s" on:click=move |_| show_yaml.set(false)>{w.close}</button>
            </div>
        </Dialog>
        <ResumeDialog open=ask_resume job />
        <Confirm open=ask_stop title=Signal::derive(move || fill(w.stop_title, &[("step", &crate::format::count(steps()))]))
            text=w.stop_help symbol="stop" action=w.stop_save other=w.keep_running testid="run-stop-confirm"
            act=Callback::new(move |()| order(routes::JOB_STOP, id(), |_, _| ())) />
        <Confirm open=ask_delete title=Signal::derive(move || fill(w.delete_run_title, &[("name", &id())]))
            text=w.delete_run_help symbol="trash" action=w.delete_run act=delete testid="run-delete-confirm" />
    }
}

/// On a phone: time left and Stop above the navigation.
#[component]
pub fn RunDock(job: Memo<Option<Job>>, state: Memo<JobState>) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let ask = RwSignal::new(false);
    move || {
        let job = job.get().filter(|_| state.get() == JobState::Running)?;
        let id = StoredValue::new(job.id.clone());
        let steps = fill(
            w.step_of,
            &[("done", &crate::format::count(job.progress.done)), ("total", &crate::format::count(job.progress.total))],
        );
        let percent = share(&job.progress).map(|s| format!(", {:.0} %", (s * 100.0).floor()));
        Some(view! {
            <div class="dock">
                <div class="sum"><b>{left(&job.progress, language).unwrap_or_else(|| w.preparing.into())}</b><small>{steps}{percent}</small></div>
                <button type="button" class="btn danger" on:click=move |_| ask.set(true)>{icon("stop", 18)}{w.stop_save}</button>
            </div>
            <Confirm open=ask title=Signal::stored(fill(w.stop_title, &[("step", &crate::format::count(job.progress.done))]))
                text=w.stop_help symbol="stop" action=w.stop_save other=w.keep_running
                act=Callback::new(move |()| order(routes::JOB_STOP, id.get_value(), |_, _| ())) />
        })
    }
}
