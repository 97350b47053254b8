//! The download of a dataset: what is wanted, which files that are, the files, and the entry in `dataset_info.json`. The
//! engine knows the first, second and last, and is asked.

use super::{Hub, HubSettings, Progress, Repo, cache::RepoFolder, listing, problems, request::Client};
use api::{
    Problem,
    data::DatasetInfo,
    hub::{HubSource, PullDataset, is_repo},
    question::{Answer, Question},
};
use std::{future::Future, path::Path};
use tokio_util::sync::CancellationToken;

/// A README that is larger is not looked at.
const LARGEST_README: u64 = 4 << 20;

/// Downloads a dataset into the dataset folder `dir` and registers it. What is there already isn't downloaded again; what
/// was cut off goes on where it stopped. Offline, a dataset that is there is registered. `ask` puts a question to the
/// engine.
pub async fn pull_dataset<A, F>(
    settings: HubSettings,
    dir: &Path,
    wanted: PullDataset,
    ask: A,
    progress: impl Fn(Progress) + Send + Sync,
    cancel: CancellationToken,
) -> Result<DatasetInfo, Problem>
where
    A: Fn(Question) -> F,
    F: Future<Output = Result<Answer, Problem>>,
{
    let planned = ask(Question::PlanPull { wanted, preferred: settings.preferred() }).await?;
    let Answer::PullPlanned { plan } = planned else { return Err(unexpected()) };
    let hub = Hub::of_datasets(settings, plan.hub, dir)?;
    let id = plan.source.on(plan.hub).unwrap_or_default();
    if !is_repo(id) {
        return Err(problems::bad_id(id));
    }
    let repo = Repo { id, revision: plan.hub.revision() };
    if hub.offline {
        let folder = RepoFolder::new(&hub.cache_dir, hub.kind, repo.id);
        folder.known(repo.revision).ok_or_else(|| problems::offline(id))?;
    } else {
        let choose = |names, readme| choose(&ask, &plan.source, names, readme);
        tokio::select! {
            _ = cancel.cancelled() => return Err(problems::cancelled(id)),
            result = hub.pull_chosen(repo, choose, &progress) => result.map_err(|p| problems::of_dataset(p, plan.hub))?,
        }
    }
    match ask(Question::RegisterPulled { plan }).await? {
        Answer::Registered { dataset } => Ok(dataset),
        _ => Err(unexpected()),
    }
}

impl Hub {
    /// Downloads the files that `choose` picks, by all names and the text of the README.
    async fn pull_chosen<F>(
        &self,
        repo: Repo<'_>,
        choose: impl Fn(Vec<String>, String) -> F,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<(), Problem>
    where
        F: Future<Output = Result<Vec<String>, Problem>>,
    {
        let client = Client::new(self)?;
        let listing = self.list(&client, repo).await?;
        listing.check(repo.id)?;
        let mut commit = listing.commit();
        let folder = self.folder(repo)?;
        let readme =
            listing.siblings.iter().find(|s| s.name == "README.md" && s.size.is_none_or(|n| n < LARGEST_README));
        let mut files = self.resolve(&client, repo, &readme.into_iter().collect::<Vec<_>>(), &mut commit).await?;
        let mut text = String::new();
        for file in &files {
            self.download(&client, &folder, file, &|_| {}).await?;
            let path = folder.blob(&file.etag);
            if super::length(&path).is_some_and(|bytes| bytes < LARGEST_README) {
                text = std::fs::read_to_string(&path).unwrap_or_default();
            }
        }
        let names = listing.siblings.iter().map(|s| s.name.clone()).collect();
        let chosen = choose(names, text).await?;
        let is_chosen = |s: &&listing::Sibling| chosen.contains(&s.name);
        let chosen: Vec<_> = listing.siblings.iter().filter(is_chosen).collect();
        files.extend(self.resolve(&client, repo, &chosen, &mut commit).await?);
        self.obtain(&client, &folder, repo, commit, &files, progress).await?;
        Ok(())
    }
}

async fn choose<F>(
    ask: &impl Fn(Question) -> F,
    source: &HubSource,
    names: Vec<String>,
    readme: String,
) -> Result<Vec<String>, Problem>
where
    F: Future<Output = Result<Answer, Problem>>,
{
    match ask(Question::ChooseFiles { source: source.clone(), names, readme }).await? {
        Answer::Chosen { names } => Ok(names),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Problem {
    Problem::new("internal", "The worker answered something else.", "工作进程给出了意外的答复。")
        .hint("Please report this with the command that you used.", "请附上所用命令报告此问题。")
}
