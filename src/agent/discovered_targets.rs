//! The targets that sources gave before the last end of the agent: loaded at its start, so that it probes them at once, whether
//! or not a source answers. Starts to follow the sources, and logs targets that the configuration refuses. Asks no source itself.
//! Called by the agent's start and by `reload`.

use std::time::Duration;

use tracing::{info, warn};

use crate::{
    blocking,
    config::{self, Config, Problem, Sources},
    discovery::{self, Discovered, Discovery, GoodAnswers},
    state::StateDir,
};

/// The kept answers of the configuration's sources, and the configuration with their targets; it stays as it is without any. A
/// state directory that does not answer delays the start by `within`.
pub(super) async fn load(
    config: Config,
    sources: &Sources,
    state: &StateDir,
    within: Duration,
) -> (Config, GoodAnswers) {
    if config.sources.is_empty() {
        return (config, GoodAnswers::new());
    }
    let kept = read(&config, state, within).await;
    if kept.is_empty() {
        return (config, kept);
    }
    let with_kept = Sources { discovered: Discovered::from(&kept), ..sources.clone() };
    // It fails to return only after a panic, which has been reported.
    match blocking::work(move || config::load(&with_kept)).await {
        Ok(Ok(next)) => {
            let targets: usize = kept.values().map(|good| good.targets.count()).sum();
            info!(sources = kept.len(), targets, "the targets that sources gave before are probed until they answer");
            (next, kept)
        }
        Ok(Err(problems)) => {
            for problem in &problems.errors {
                warn!("{}", problem.to_string().replace("\n  help: ", "; "));
            }
            warn!(
                "the targets that sources gave before cannot be probed with this configuration: the sources are asked again"
            );
            (config, GoodAnswers::new())
        }
        Err(_) => (config, GoodAnswers::new()),
    }
}

async fn read(config: &Config, state: &StateDir, within: Duration) -> GoodAnswers {
    let (state, sources) = (state.clone(), config.sources.clone());
    let reading = blocking::work(move || discovery::read_kept(&state, &sources));
    match tokio::time::timeout(within, reading).await {
        Ok(Ok(Ok(kept))) => kept,
        Ok(Ok(Err(error))) => {
            warn!(%error, "the targets that sources gave before cannot be read: they are probed when the sources answer");
            GoodAnswers::new()
        }
        Ok(Err(_)) => GoodAnswers::new(),
        Err(_) => {
            warn!(
                "the targets that sources gave before cannot be read in time: they are probed when the sources answer"
            );
            GoodAnswers::new()
        }
    }
}

/// Follows the sources of a configuration that is in use now. Logs and counts the targets that it cannot have; those `before` were
/// logged.
pub(super) fn follow(discovery: &mut Discovery, config: &Config, before: &[Problem]) {
    for problem in config.refused.iter().filter(|problem| !before.contains(problem)) {
        warn!("a target is not probed: {}", problem.to_string().replace("\n  help: ", "; "));
    }
    discovery.follow(&config.sources, &config.dns);
    for (source, refused) in &config.not_taken {
        discovery.report_invalid(source, *refused);
    }
}
