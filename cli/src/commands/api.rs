//! `lathe api`: one model behind OpenAI's API, with LLaMA-Factory's arguments and environment. It runs beside a studio on the
//! same data folder: what it keeps is its own.

use super::{chat, webui};
use crate::{
    args::Api,
    config,
    environment::Environment,
    home, log,
    outcome::{Failure, Outcome},
    say::Say,
};
use api::{
    Problem, RunConfig,
    chat::LoadChat,
    params::{self, GenerateParams},
};
use serde_json::{Map, Value, json};
use server::Serving;
use std::net::IpAddr;

const PORT: u16 = 8000;
/// As LLaMA-Factory calls a model without a name.
const NAME: &str = "gpt-3.5-turbo";

pub fn run(args: Api, environment: &Environment, say: &Say) -> Outcome {
    let config = config::read(&args.words)?;
    let (model, _) = chat::arguments(&config)?;
    let host = args.host.map_or_else(|| given("API_HOST", environment.api_host.as_deref()), |host| Ok(Some(host)))?;
    let port = args.port.map_or_else(|| given("API_PORT", environment.api_port.as_deref()), |port| Ok(Some(port)))?;
    log::to_stderr("info", args.log_format.unwrap_or_default());
    home::set_up(&environment.home)?;
    let port = port.unwrap_or(PORT);
    let own = environment.home.join("api").join(port.to_string());
    std::fs::create_dir_all(&own).map_err(|e| Failure::failed(crate::outcome::internal(e)))?;
    let mut options = webui::options(own, environment)?;
    options.host = host.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    options.port = port;
    options.names = args.name;
    // Whoever can reach it needs a key for all that there is.
    options.token = environment.api_keys.first().filter(|_| !options.host.is_loopback()).cloned();
    let name = args.model_name.or_else(|| environment.api_model_name.clone()).unwrap_or_else(|| NAME.into());
    options.serving = Some(Serving {
        load: LoadChat {
            model_name_or_path: model.model_name_or_path,
            adapter_name_or_path: model.adapter_name_or_path,
            adapters: args.adapter,
            template: model.template,
        },
        name: name.clone(),
        defaults: generation(&config),
    });
    webui::serve(options, |address| {
        let url = format!("http://{address}/v1");
        say.result(&json!({ "url": url, "pid": std::process::id(), "model": name }), || match say.is_chinese() {
            true => format!("模型 {name} 已就绪：{url}。按 Ctrl-C 结束。"),
            false => format!("The model {name} answers at {url}. Ctrl-C ends it."),
        });
    })
}

/// What the command line says of how answers are made.
fn generation(config: &RunConfig) -> Map<String, Value> {
    let schema = params::schema::<GenerateParams>();
    let known = |key: &String| schema["properties"].get(key).is_some();
    config.0.iter().filter(|(key, _)| known(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What a variable of the environment says.
fn given<T: std::str::FromStr>(name: &str, text: Option<&str>) -> Outcome<Option<T>> {
    let read = |text: &str| {
        text.parse().map_err(|_| {
            let problem = Problem::new(
                "bad_environment",
                format!("{name} is {text:?}, which isn't one."),
                format!("{name} 为 {text:?}，无效。"),
            );
            Failure::wrong(problem.hint(
                "Write, for example, API_HOST=127.0.0.1 API_PORT=8000.",
                "请写成例如 API_HOST=127.0.0.1 API_PORT=8000。",
            ))
        })
    };
    text.map(read).transpose()
}
