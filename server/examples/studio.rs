//! A studio in a process of its own, with the stand-in for the worker, that tests can kill: `studio HOME WORKER`. Its one
//! line on stdout is the address. `LATHE_RESTART_MS`: how soon an interrupted job starts again.

use server::{Options, Program, hub::HubSettings};
use std::{ffi::OsString, path::PathBuf, time::Duration};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args_os().skip(1);
    let home: PathBuf = words.next().ok_or("HOME WORKER")?.into();
    let path: PathBuf = words.next().ok_or("HOME WORKER")?.into();
    let env = vec![(OsString::from("LATHE_HOME"), home.clone().into_os_string())];
    let program = Program { path, args: Vec::new(), env, cuda: None };
    let hub = HubSettings { home: home.join("hf"), offline: true, ..Default::default() };
    let mut options = Options::new(home, program, api::Catalog::default(), hub);
    options.port = 0;
    if let Some(ms) = std::env::var("LATHE_RESTART_MS").ok().and_then(|ms| ms.parse().ok()) {
        options.restarts.first = Duration::from_millis(ms);
    }
    server::runtime()?.block_on(server::serve(options, |address| println!("{address}")))?;
    Ok(())
}
