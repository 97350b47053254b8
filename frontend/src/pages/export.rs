//! Export: a base model and an adapter become one folder that others can load.

use crate::{
    app::title,
    client,
    form::Values,
    format,
    i18n::fill,
    pages::run::delete_job,
    parts::{
        Empty, Field, ProblemNote,
        dialog::{Confirm, CopyButton},
        icon,
        job::{Bar, badge, clock, left, share, status},
        source::{Source, SourceFields},
    },
    setting::{differing, settings},
    store::{Store, store},
    ui,
};
use api::{Job, JobKind, RunConfig, job::NewJob, routes};
use leptos::{prelude::*, task::spawn_local};
use leptos_router::hooks::use_query_map;

/// Settings of LLaMA-Factory that others here say, too.
const HIDDEN: [&str; 2] = ["export_legacy_format", "export_dtype"];

/// What is chosen and set. Lives as long as the page.
#[derive(Clone, Copy)]
pub struct ExportForm {
    source: Source,
    values: Values,
    sending: RwSignal<bool>,
    store: Store,
}

impl ExportForm {
    pub fn provide(store: Store) {
        provide_context(Self { source: Source::new(), values: Values::new(), sending: RwSignal::new(false), store });
    }

    fn config(self) -> Option<RunConfig> {
        let load = self.source.load(self.store)?;
        let mut config = RunConfig::default();
        config.set("model_name_or_path", load.model_name_or_path);
        if let Some(adapter) = load.adapter_name_or_path {
            config.set("adapter_name_or_path", adapter);
        }
        if let Some(template) = load.template {
            config.set("template", template);
        }
        let schema =
            self.store.catalog.with_untracked(|c| c.as_ref().and_then(|c| c.export.as_ref().map(|g| g.schema.clone())));
        let known = schema.as_ref().map(settings).unwrap_or_default();
        config.0.extend(differing(&self.values.set.get(), &known, &[]).0);
        Some(config)
    }

    fn start(self) {
        let Some(config) = self.config() else { return };
        if self.sending.get_untracked() {
            return;
        }
        self.sending.set(true);
        let name = self
            .source
            .run
            .get_untracked()
            .unwrap_or_else(|| format::last_part(&self.source.model.get_untracked()).to_owned());
        spawn_local(async move {
            let job = NewJob::new(JobKind::Export, format!("{name}-export"), config);
            match client::post::<_, Job>(routes::JOBS, &job).await {
                Ok(job) => {
                    self.values.problems.set(Vec::new());
                    self.store.put(job);
                }
                Err(problems) => self.values.problems.set(problems),
            }
            self.sending.set(false);
        });
    }
}

#[component]
pub fn Export() -> impl IntoView {
    let w = ui::words();
    title(w.export);
    let form = expect_context::<ExportForm>();
    let store = store();
    let query = use_query_map();
    Effect::new(move || {
        if let Some(run) = query.with(|q| q.get("run")) {
            form.source.choose_run(&run, query.with(|q| q.get("checkpoint")));
        }
    });
    let fields = move || {
        let schema = store.catalog.with(|c| c.as_ref().and_then(|c| c.export.as_ref().map(|g| g.schema.clone())))?;
        let values = form.values;
        let shown = settings(&schema).into_iter().filter(|s| !HIDDEN.contains(&s.key.as_str()) && !s.is_placed());
        Some(shown.map(|setting| view! { <Field setting values /> }).collect_view())
    };
    let problems = move || {
        let known = ["export_format", "export_quantization", "export_dir", "export_size"];
        let all = form.values.problems.get().into_iter();
        all.filter(|p| !p.field.as_deref().is_some_and(|f| known.contains(&f)))
            .map(|problem| view! { <ProblemNote problem /> })
            .collect_view()
    };
    let adapter = move || {
        let load = form.source.load(store)?;
        let path = load.adapter_name_or_path?;
        Some(view! { <p class="help s muted">{w.adapter_only}" "<code>{path}</code></p> })
    };
    let plain = move || {
        let load = form.source.load(store)?;
        load.adapter_name_or_path.is_none().then(|| view! { <p class="s muted">{w.nothing_to_export}</p> })
    };
    let what = move || form.source.name(store, ui::language());
    let ready = move || form.source.load(store).is_some() && !form.sending.get();
    let button = move |testid: &'static str, large: bool| {
        view! {
            <button type="button" class="btn primary" class:l=large class:block=large data-testid=testid disabled=move || !ready() on:click=move |_| form.start()>
                {icon("export", 18)}{w.export_do}
            </button>
        }
    };
    view! {
        <header class="head"><div><h1>{w.export}</h1><p class="state">{w.export_lead}</p></div></header>
        <div class="split">
            <div class="stack wide">
                <section class="card">
                    <div class="step"><i>"1"</i><h2>{w.what}</h2></div>
                    <div class="cols2"><SourceFields source=form.source testid="export-source" /></div>
                    <div class="mt stack tight">{adapter}{plain}</div>
                </section>
                <section class="card">
                    <div class="step"><i>"2"</i><h2>{w.how}</h2><span class="sub">{w.export_merged}</span></div>
                    <div class="grid three">{fields}</div>
                </section>
                <section class="card wide-only">
                    <div class="row">
                        <span class="soft">{what}</span>
                        <span class="push">{button("export-start", true)}</span>
                    </div>
                    <div class="stack tight">{problems}</div>
                </section>
            </div>
            <aside class="stack"><Exports /></aside>
        </div>
        <div class="dock"><div class="sum"><b class="clip">{what}</b></div>{button("export-start-phone", false)}</div>
    }
}

/// Exports that run and those that are done, newest first.
#[component]
fn Exports() -> impl IntoView {
    let w = ui::words();
    let store = store();
    let doomed = RwSignal::new(None::<String>);
    let asking = RwSignal::new(false);
    let ask = move |id: String| {
        doomed.set(Some(id));
        asking.set(true);
    };
    let rows = move || {
        let jobs = store.jobs_of(JobKind::Export);
        if jobs.is_empty() {
            return view! { <Empty symbol="export" title=w.no_exports.into() text=w.no_exports_help.into() /> }
                .into_any();
        }
        jobs.into_iter().enumerate().map(|(i, job)| row(job, i == 0, ask)).collect_view().into_any()
    };
    let name = move || doomed.get().unwrap_or_default();
    view! {
        <section class="card exports"><div class="card-h"><h2>{w.earlier_exports}</h2></div>{rows}</section>
        <Confirm open=asking title=Signal::derive(move || fill(w.delete_run_title, &[("name", &name())]))
            text=w.delete_job_help symbol="trash" action=w.delete
            act=Callback::new(move |()| if let Some(id) = doomed.get_untracked() { delete_job(id) }) />
    }
}

fn row(job: Job, newest: bool, ask: impl Fn(String) + Copy + Send + 'static) -> impl IntoView {
    let w = ui::words();
    let language = ui::language();
    let active = job.state.is_active();
    let source =
        job.config.text("adapter_name_or_path").or(job.config.text("model_name_or_path")).unwrap_or("–").to_owned();
    let size = job.summary.get("bytes").map(|b| format::bytes(*b as u64));
    let about = [Some(clock(job.created_at, language)), size].into_iter().flatten().collect::<Vec<_>>().join(" · ");
    let progress = active.then(|| {
        let progress = &job.progress;
        let text = status(progress, language).unwrap_or_else(|| w.exporting.into());
        let rest = left(progress, language);
        view! {
            <Bar share=Signal::stored(share(progress)) label=w.exporting>
                <span><b>{text}</b></span><span class="push">{rest}</span>
            </Bar>
        }
    });
    let result = job.artifact.clone().map(|path| {
        view! {
            <div class="note good">
                {icon("check", 18)}<b>{w.exported_to}</b>
                <code data-testid=newest.then_some("export-result")>{path.clone()}</code>
                <span class="acts"><CopyButton text=Signal::stored(path) quiet=true /></span>
            </div>
        }
    });
    let report = verified(&job).map(|figures| {
        view! {
            <p class="s soft" title=w.verified_help data-testid=newest.then_some("export-verified")>
                <b>{w.verified}</b>": "{figures}
            </p>
        }
    });
    let problem = job.problem.clone().map(|problem| view! { <ProblemNote problem /> });
    let id = job.id.clone();
    let delete = (!active).then(|| {
        view! { <button type="button" class="btn quiet icon s" title=w.delete aria-label=format!("{}: {}", w.delete, job.id) on:click=move |_| ask(id.clone())>{icon("trash", 16)}</button> }
    });
    view! {
        <div class="export">
            <div class="row"><b class="clip">{job.id.clone()}</b>{badge(job.state, share(&job.progress))}<span class="push">{delete}</span></div>
            <p class="xs muted clip" title=source.clone()>{format!("{} · {about}", format::last_part(&source))}</p>
            {progress}{result}{report}{problem}
        </div>
    }
}

/// What the verification of an export found, in a line.
fn verified(job: &Job) -> Option<String> {
    let w = ui::words();
    let figure = |name: &str| job.summary.get(name).copied();
    let count = |value: f64| format::count(value as u64);
    let (same, all) = (figure("same_answers")?, figure("prompts")?);
    let (before, after) = (figure("perplexity_before")?, figure("perplexity_after")?);
    let answers = fill(w.same_answers, &[("n", &count(same)), ("all", &count(all))]);
    let (before, after) = (format::measure(before), format::measure(after));
    let perplexity = fill(w.perplexity_from_to, &[("before", &before), ("after", &after)]);
    let apart = figure("max_logit_difference").map(|n| fill(w.logits_apart, &[("n", &format!("{n:.1e}"))]));
    Some([Some(answers), Some(perplexity), apart].into_iter().flatten().collect::<Vec<_>>().join(" · "))
}
