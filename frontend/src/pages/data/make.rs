//! Making data: what a teacher is to do, and the jobs that do it.

use crate::{
    client, format,
    parts::{
        ProblemNote, icon,
        making::{self, making_job},
    },
    store::store,
    ui,
};
use api::{JobKind, Problem, RunConfig, job::NewJob, routes};
use leptos::{prelude::*, task::spawn_local};

/// Jobs shown, newest first.
const SHOWN: usize = 3;

/// `chosen` is the dataset at hand: rows are made from it unless another is named.
#[component]
pub fn MakeData(chosen: Memo<Option<String>>) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let [task, dataset, rows, server, teacher, question, model] = [(); 7].map(|()| RwSignal::new(String::new()));
    task.set("self_instruct".into());
    let problems = RwSignal::new(Vec::<Problem>::new());
    Effect::new(move || dataset.set(chosen.get().unwrap_or_default()));
    let is_label = move || task.with(|task| task == "pseudo_label");
    let has_server = move || server.with(|server| !server.trim().is_empty());
    let start = move |e: leptos::ev::SubmitEvent| {
        e.prevent_default();
        let mut config = RunConfig::default();
        let keys = [("task", task), ("dataset", dataset)].into_iter();
        let keys = keys.chain(is_label().then_some(("question", question)));
        let by = if has_server() {
            vec![("base_url", server), ("teacher", teacher)]
        } else {
            vec![("model_name_or_path", model)]
        };
        for (key, value) in keys.chain(by) {
            let value = value.get_untracked().trim().to_owned();
            if !value.is_empty() {
                config.set(key, value);
            }
        }
        if let Ok(rows) = rows.get_untracked().trim().parse::<u64>() {
            config.set("num_rows", rows);
        }
        spawn_local(async move {
            let job = NewJob::new(JobKind::Make, "", config);
            problems.set(client::order(routes::JOBS, &job).await.err().unwrap_or_default());
        });
    };
    let field = move |key: &'static str, label: &'static str, value: RwSignal<String>, hint: &'static str| {
        view! {
            <div class="field">
                <label for=format!("make-{key}")>{label}<span class="key">{key}</span></label>
                <div class="input"><input id=format!("make-{key}") data-testid=format!("make-{key}") autocomplete="off" spellcheck="false"
                    placeholder=hint prop:value=value on:input=move |e| value.set(event_target_value(&e)) /></div>
            </div>
        }
    };
    let models = move || {
        let usable = store.models.get().into_iter().flatten().filter(|m| m.problem.is_none());
        let options =
            usable.map(|m| view! { <option value=m.name.clone()>{format::last_part(&m.name).to_owned()}</option> });
        options.collect_view()
    };
    // The first model stands chosen until another is.
    Effect::new(move || {
        let first = store.models.with(|all| all.iter().flatten().find(|m| m.problem.is_none()).map(|m| m.name.clone()));
        if let Some(first) = first.filter(|_| model.with_untracked(String::is_empty)) {
            model.set(first);
        }
    });
    let by = move || {
        match has_server() {
        true => field("teacher", w.make_teacher, teacher, "").into_any(),
        false => view! {
            <div class="field">
                <label for="make-model">{w.model}<span class="key">"model_name_or_path"</span></label>
                <div class="input sel"><select id="make-model" data-testid="make-model" on:change=move |e| model.set(event_target_value(&e))>{models}</select></div>
            </div>
        }
        .into_any(),
    }
    };
    view! {
        <section class="card">
            <details class="more">
                <summary data-testid="make-open">{w.make_data}</summary>
                <form class="stack mt" on:submit=start>
                    <div class="field">
                        <label for="make-task">{w.make_task}<span class="key">"task"</span></label>
                        <div class="input sel"><select id="make-task" data-testid="make-task" on:change=move |e| task.set(event_target_value(&e))>
                            <option value="self_instruct">{w.make_instruct}</option><option value="pseudo_label">{w.make_label}</option>
                        </select></div>
                    </div>
                    {field("dataset", w.make_from, dataset, "")}
                    {move || is_label().then(|| field("question", w.make_question, question, "{text}"))}
                    {field("num_rows", w.make_rows, rows, "100")}
                    {field("base_url", w.make_server, server, "http://localhost:8000/v1")}
                    {by}
                    <p class="help">{w.make_help}</p>
                    <button type="submit" class="btn" data-testid="make-start" disabled=move || dataset.with(|d| d.trim().is_empty())>
                        {icon("plus", 18)}{w.make_start}
                    </button>
                </form>
            </details>
            {move || problems.get().into_iter().map(|problem| view! { <div class="mt"><ProblemNote problem /></div> }).collect_view()}
            {move || making::jobs(store, &["self_instruct", "pseudo_label"]).take(SHOWN).map(|job| making_job(job, ())).collect_view()}
        </section>
    }
}
