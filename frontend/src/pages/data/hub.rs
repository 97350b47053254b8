//! Datasets from a hub: which one, from where, and how far its download is.

use crate::{
    client,
    parts::{ProblemNote, Pulls, icon},
    store::store,
    ui,
};
use api::{
    Problem,
    hub::{HubName, PullDataset},
    routes,
};
use leptos::{prelude::*, task::spawn_local};

/// `chosen` is the dataset at hand: one that isn't downloaded yet stands in the form already.
#[component]
pub fn FromHub(chosen: Memo<Option<String>>) -> impl IntoView {
    let w = ui::words();
    let store = store();
    let [id, subset, split] = [(); 3].map(|()| RwSignal::new(String::new()));
    let hub = RwSignal::new(None::<HubName>);
    let problems = RwSignal::new(Vec::<Problem>::new());
    let open = RwSignal::new(false);
    let is_missing = |problem: &Problem| problem.code == "dataset_not_downloaded";
    let missing = Memo::new(move |_| {
        store.datasets.with(|all| {
            let of = all.iter().flatten().filter(|d| d.problem.as_ref().is_some_and(is_missing));
            of.map(|d| d.name.clone()).collect::<Vec<_>>()
        })
    });
    Effect::new(move || {
        if let Some(name) = chosen.get().filter(|name| missing.with(|all| all.contains(name))) {
            id.set(name);
            open.set(true);
        }
    });
    let pull = move |e: leptos::ev::SubmitEvent| {
        e.prevent_default();
        let given = |text: RwSignal<String>| Some(text.get_untracked().trim().to_owned()).filter(|t| !t.is_empty());
        let wanted = PullDataset {
            id: given(id).unwrap_or_default(),
            hub: hub.get_untracked(),
            subset: given(subset),
            split: given(split),
            name: None,
        };
        spawn_local(async move {
            problems.set(client::order(routes::DATASETS_PULL, &wanted).await.err().unwrap_or_default());
        });
    };
    let field = move |key: &'static str, label: &'static str, value: RwSignal<String>, hint: &'static str| {
        let list = (key == "id").then_some("hub-missing");
        view! {
            <div class="field">
                <label for=format!("hub-{key}")>{label}</label>
                <div class="input"><input id=format!("hub-{key}") data-testid=format!("hub-{key}") list=list autocomplete="off" spellcheck="false"
                    placeholder=hint prop:value=value on:input=move |e| value.set(event_target_value(&e)) /></div>
            </div>
        }
    };
    let pick = move |e| hub.set(event_target_value(&e).parse().ok());
    let hubs = HubName::ALL.map(|hub| view! { <option value=hub.word()>{hub.title()}</option> }).collect_view();
    let names = move || missing.get().into_iter().map(|name| view! { <option value=name></option> }).collect_view();
    view! {
        <section class="card">
            <details class="more" prop:open=open>
                <summary data-testid="hub-open">{w.from_hub}</summary>
                <form class="stack mt" on:submit=pull>
                    {field("id", w.hub_id, id, "owner/name")}
                    <datalist id="hub-missing">{names}</datalist>
                    <div class="field">
                        <label for="hub-name">{w.hub}</label>
                        <div class="input sel"><select id="hub-name" on:change=pick><option value="">{w.hub_usual}</option>{hubs}</select></div>
                    </div>
                    <div class="grid two">{field("subset", w.hub_subset, subset, "")}{field("split", w.hub_split, split, "train")}</div>
                    <button type="submit" class="btn" data-testid="hub-pull" disabled=move || id.with(|id| id.trim().is_empty())>
                        {icon("down", 18)}{w.pull}
                    </button>
                </form>
            </details>
            <Pulls key="id" testid="hub" />
            {move || problems.get().into_iter().map(|problem| view! { <div class="mt"><ProblemNote problem /></div> }).collect_view()}
        </section>
    }
}
