//! `lathe` and `lathe webui`: the studio.

use crate::{
    args::Webui,
    confine,
    environment::{self, Environment},
    gpu, home, log,
    outcome::{self, FAILED, Failure, HELD, Outcome, WRONG},
    say::Say,
    signals,
};
use serde_json::json;
use server::{CudaWorker, Options, Program, Webhook};
use std::{net::SocketAddr, path::PathBuf};

pub fn run(args: Webui, environment: &Environment, say: &Say) -> Outcome {
    if cfg!(feature = "cuda") {
        return Err(Failure::wrong(outcome::no_studio()));
    }
    log::to_stderr("info", args.log_format.unwrap_or_default());
    home::set_up(&environment.home)?;
    let mut options = options(environment.home.clone(), environment)?;
    options.host = args.host.unwrap_or(options.host);
    options.port = args.port.unwrap_or(options.port);
    options.token = match args.token.or_else(|| environment.token.clone()) {
        None => home::token(&environment.home)?,
        given => given,
    };
    options.names = args.name;
    options.restarts.most = args.restarts.unwrap_or(options.restarts.most);
    let webhook = args.webhook.or_else(|| environment.webhook.clone());
    options.webhook = webhook.map(|url| Webhook { url, secret: environment.webhook_secret.clone() });

    serve(options, |address| {
        let url = format!("http://{address}");
        let home = &environment.home;
        say.result(&json!({ "url": url, "pid": std::process::id(), "home": home }), || match say.is_chinese() {
            true => format!("Lathe 已就绪：{url}（数据文件夹 {}）。按 Ctrl-C 结束。", home.display()),
            false => format!("Lathe is at {url} (data folder {}). Ctrl-C ends it.", home.display()),
        });
    })
}

/// What every server of this program has: its own workers, which work in the data folder whatever `home` the server has,
/// and what the environment says.
pub fn options(home: PathBuf, environment: &Environment) -> Outcome<Options> {
    let path = std::env::current_exe().map_err(|e| Failure::failed(outcome::internal(e)))?;
    let args = vec!["worker".into(), "--home".into(), environment.home.clone().into_os_string()];
    let cuda = gpu::worker().map(|path| CudaWorker { path, gpus: gpu::probe().gpus.len() }).filter(|w| w.gpus > 0);
    let program = Program { path, args, env: environment::all(), cuda };
    let mut options = Options::new(home, program, engine::catalog::catalog(), environment.hub.clone());
    options.processor = engine::compute::processor().into();
    options.confinement = confine::offered();
    options.api_keys = environment.api_keys.clone();
    Ok(options)
}

/// Serves until it is ended; `ready` says where.
pub fn serve(options: Options, ready: impl FnOnce(SocketAddr)) -> Outcome {
    let runtime = server::runtime().map_err(|e| Failure::failed(outcome::internal(e)))?;
    signals::end_on_second();
    runtime.block_on(server::serve(options, ready)).map_err(|error| {
        let code = match () {
            () if error.is_held() => HELD,
            () if error.is_usage() => WRONG,
            () => FAILED,
        };
        Failure::new(code, vec![error.problem()])
    })
}
