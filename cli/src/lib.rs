//! `lathe` and `lathe-cuda-worker`: they read the command line and the environment, and join the rest.

mod args;
mod commands;
mod config;
pub mod confine;
mod environment;
mod events;
mod gpu;
mod heartbeat;
mod home;
mod job;
mod load;
mod log;
mod memory;
mod outcome;
mod progress;
mod pulls;
mod runs;
mod say;
mod signals;
mod teacher;

use args::{Args, Command};
use clap::Parser;
use environment::Environment;
use outcome::{Failure, Outcome};
use say::Say;
use std::{process::ExitCode, time::Instant};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Does what the command line says.
pub fn main() -> ExitCode {
    let begun = Instant::now();
    let environment = Environment::read();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error, &environment),
    };
    let say = Say { json: args.json, language: environment.language.clone() };
    match run(args, &environment, &say, begun) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints the GPUs that this program can compute on, as [`api::device::Probe`].
pub fn probe() -> ExitCode {
    gpu::print()
}

fn run(args: Args, environment: &Environment, say: &Say, begun: Instant) -> Outcome {
    let environment = &environment.with_home(args.home.clone());
    if let Some(cpu) = &environment.cpu {
        engine::kernels::cpu::limit(cpu).map_err(Failure::refused)?;
    }
    let computes = !matches!(args.command, None | Some(Command::Webui(_) | Command::Api(_)));
    memory::huge_pages(computes);
    if computes {
        memory::keep_freed_for_a_minute();
    }
    let Some(command) = args.command else {
        return commands::webui::run(args.webui, environment, say);
    };
    if args.webui.is_given() {
        return Err(Failure::wrong(outcome::studio_options()));
    }
    if matches!(
        command,
        Command::Worker(_)
            | Command::Train { .. }
            | Command::Rerun { .. }
            | Command::Export { .. }
            | Command::Eval { .. }
    ) {
        let limit = environment.memory_limit().map_err(Failure::wrong)?;
        limit.map(memory::limit).transpose().map_err(|e| Failure::failed(outcome::internal(e)))?;
    }
    match command {
        Command::Webui(webui) => commands::webui::run(webui, environment, say),
        Command::Api(api) => commands::api::run(api, environment, say),
        Command::Train { mut words, accept_changes, dry_run } => {
            words.extend(accept_changes.then(|| "accept_changes=true".to_string()));
            match dry_run {
                true => commands::train::dry_run(&words, environment, say),
                false => commands::train::run(&words, environment, say),
            }
        }
        Command::Rerun { run } => commands::compare::rerun(&run, environment, say),
        Command::Diff { runs } => commands::compare::diff([&runs[0], &runs[1]], environment, say),
        Command::Chat { words, prompt, system } => commands::chat::run(&words, prompt, system, environment, say),
        Command::Eval { words } => commands::eval::run(&words, environment, say),
        Command::Export { words } => commands::export::run(&words, environment, say),
        Command::Worker(worker) => commands::worker::run(worker, environment),
        Command::Data { command } => commands::data::run(command, environment, say),
        Command::Checkpoint { command } => commands::checkpoint::run(command, environment, say),
        Command::Catalog => commands::about::catalog(say),
        Command::Models { command } => commands::models::run(command, environment, say),
        Command::Bench { command } => commands::bench::run(command, environment, say, begun),
        Command::Env => commands::about::env(environment, say),
        Command::Version => commands::about::version(say),
    }
}

/// clap's own errors end with 2 and its help and version with 0; with `--json` an error is a problem on stdout as well.
fn usage(error: &clap::Error, environment: &Environment) -> ExitCode {
    if error.use_stderr() && std::env::args().any(|word| word == "--json") {
        let text = error.render().to_string();
        let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string();
        let failure = Failure::wrong(outcome::bad_usage(&text));
        Say { json: true, language: environment.language.clone() }.failure(&failure);
        return ExitCode::from(failure.code);
    }
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { outcome::WRONG } else { outcome::DONE })
}
