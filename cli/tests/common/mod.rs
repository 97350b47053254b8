//! What every test of the command line begins with.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// The binary with a data folder of its own, `home/lathe`, and nothing of this machine's environment.
pub fn lathe(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(words).env_clear().env("HOME", home).env("LATHE_HOME", home.join("lathe")).stdin(Stdio::null());
    command
}
