//! What a worker may do, once it is told its work: read models and datasets, write its run folder and the cache, and nothing
//! else. A model or dataset that breaks the code that reads it gets no further than that.
//!
//! On Linux the kernel sees to it for the whole process, for good: Landlock for files, TCP, signals and abstract sockets, a
//! seccomp filter against starting programs, and `no_new_privs`. Elsewhere, and on a kernel that is too old, the worker says
//! in its log what is missing, and works all the same.

use engine::Places;
use serde::Serialize;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

pub use api::routes::Confinement;

/// What is allowed beside the system's own files.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    may_connect: bool,
}

impl Bounds {
    /// The data folder's models, datasets, runs and exports, the hub's cache, and every file and folder that the work names:
    /// a person who gives a path means it to be read. Not the data folder itself, which holds what opens the studio.
    pub fn of(places: &Places, work: &impl Serialize) -> Self {
        let cache = places.home.join("cache");
        let mut read = Vec::new();
        for folder in [places.datasets(), places.models(), places.runs(), places.exports()] {
            read.extend(links(&folder));
            read.push(folder);
        }
        read.push(places.hub_cache.clone());
        if let Ok(work) = serde_json::to_value(work) {
            named(&work, &mut read);
        }
        // Not what the data folder stands in: it holds what opens the studio.
        read.retain(|path| !places.home.starts_with(path));
        // Made here, since a confined worker can't.
        if let Err(error) = fs::create_dir_all(&cache) {
            tracing::warn!("{}: {error}", cache.display());
        }
        Self { read, write: vec![cache], may_connect: false }
    }

    /// And this folder or file may be written.
    pub fn writes(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// And connections may be opened, for work that asks another server; none are taken.
    pub fn connects(mut self, may_connect: bool) -> Self {
        self.may_connect = may_connect;
        self
    }

    /// Confines this process to these bounds. Called before it has other threads: they would stay outside.
    pub fn confine(self) -> Confinement {
        let found = system::confine(&self).unwrap_or_else(|error| {
            tracing::warn!("confinement: {error}");
            Confinement::None
        });
        match found {
            Confinement::Whole => {}
            Confinement::Partly => {
                tracing::warn!("this kernel confines the worker in part only: Linux 6.12 does it wholly")
            }
            Confinement::None => {
                tracing::warn!("this system can't confine the worker: it may do all that its user may")
            }
        }
        found
    }
}

/// How far workers are confined here. Asks the kernel and changes nothing.
pub fn offered() -> Confinement {
    system::offered()
}

/// Where links that stand in a folder lead: a run or a model of another disk.
fn links(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .filter_map(|e| e.path().canonicalize().ok())
}

/// The paths among the texts of a value, also in a list with commas.
fn named(value: &Value, paths: &mut Vec<PathBuf>) {
    match value {
        Value::String(text) => paths.extend(text.split(',').map(str::trim).filter_map(existing)),
        Value::Array(all) => all.iter().for_each(|value| named(value, paths)),
        Value::Object(all) => all.values().for_each(|value| named(value, paths)),
        _ => {}
    }
}

/// The file or folder that a text names. Of a snapshot in a hub's cache, the whole repository: its files are links into it.
fn existing(text: &str) -> Option<PathBuf> {
    if text.is_empty() || text.len() > 4096 {
        return None;
    }
    let path = Path::new(text).canonicalize().ok()?;
    let repository = path.ancestors().find(|folder| {
        folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")) && *folder != path
    });
    Some(repository.map(Path::to_path_buf).unwrap_or(path))
}

#[cfg(target_os = "linux")]
mod system {
    use super::{Bounds, Confinement};
    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus, Scope, path_beneath_rules,
    };
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };
    use std::{collections::BTreeMap, error::Error, fs, path::PathBuf};

    /// The newest rights that are asked for; an older kernel gives those that it knows.
    const NEWEST: ABI = ABI::V6;
    /// Files and TCP, without which nobody is confined wholly: Linux 6.7.
    const NEEDED: ABI = ABI::V4;

    /// Libraries, what the C library reads, and what the kernel tells of the machine and of this process alone: the environment
    /// of others holds secrets.
    const SYSTEM: &[&str] = &[
        "/usr",
        "/lib",
        "/lib64",
        "/opt/cuda",
        "/nix/store",
        "/run/opengl-driver",
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/devices",
        "/proc/driver",
        "/proc/filesystems",
        "/proc/meminfo",
        "/proc/modules",
        "/proc/stat",
        "/proc/sys",
        "/proc/version",
        "/sys",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/dev/zero",
        "/dev/random",
        "/dev/urandom",
    ];
    /// What TLS and the resolver read.
    const NETWORK: [&str; 9] = [
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/nsswitch.conf",
        "/etc/gai.conf",
        "/etc/host.conf",
        "/etc/services",
        "/etc/ssl",
        "/etc/pki",
        "/etc/ca-certificates",
    ];

    pub fn confine(bounds: &Bounds) -> Result<Confinement, Box<dyn Error>> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let mut net: BitFlags<AccessNet> = AccessNet::BindTcp.into();
        if !bounds.may_connect {
            net |= AccessNet::ConnectTcp;
        }
        let network = if bounds.may_connect { NETWORK.as_slice() } else { &[] };
        let system = SYSTEM.iter().chain(network).map(PathBuf::from).chain(libraries());
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(net)?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(system.chain(bounds.read.iter().cloned()), read))?
            .add_rules(path_beneath_rules(&bounds.write, write))?
            .add_rules(path_beneath_rules(devices(), device | read))?
            // Memory that the driver of a GPU shares with the kernel and its other processes, and kernels that it compiled.
            .add_rules(path_beneath_rules(graphics(), write))?
            .restrict_self()?;
        let filter = filter(bounds.may_connect)?;
        // The only thread there is.
        seccompiler::apply_filter(&filter)?;
        Ok(match ruleset.ruleset {
            RulesetStatus::FullyEnforced => Confinement::Whole,
            RulesetStatus::PartiallyEnforced => Confinement::Partly,
            RulesetStatus::NotEnforced => Confinement::None,
        })
    }

    pub fn offered() -> Confinement {
        let offers = |abi| {
            let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
            let ruleset = ruleset.handle_access(AccessFs::from_all(abi)).ok()?;
            let ruleset = if abi >= NEEDED { ruleset.handle_access(AccessNet::from_all(abi)).ok()? } else { ruleset };
            let ruleset = if abi >= NEWEST { ruleset.scope(Scope::from_all(abi)).ok()? } else { ruleset };
            ruleset.create().ok()
        };
        match (offers(NEWEST), offers(ABI::V1)) {
            (Some(_), _) => Confinement::Whole,
            (None, Some(_)) => Confinement::Partly,
            (None, None) => Confinement::None,
        }
    }

    /// Refuses with EPERM: to start programs, to look into processes, to go around this filter (io_uring), to load code into
    /// the kernel; and sockets that leave the machine where nothing has to be asked there, since Landlock knows TCP only.
    fn filter(may_connect: bool) -> Result<BpfProgram, Box<dyn Error>> {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
        ];
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = never.into_iter().map(|call| (call, Vec::new())).collect();
        if !may_connect {
            let family = |family: i32| {
                let is_it = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family as u64)?;
                SeccompRule::new(vec![is_it])
            };
            rules.insert(libc::SYS_socket, vec![family(libc::AF_INET)?, family(libc::AF_INET6)?]);
        }
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, std::env::consts::ARCH.try_into()?)?;
        Ok(filter.try_into()?)
    }

    /// This program, and what the person or the build put beside it to be linked: CUDA's libraries.
    fn libraries() -> impl Iterator<Item = PathBuf> {
        let program = std::env::current_exe().ok();
        let beside =
            program.as_ref().map(|program| program.with_file_name("cuda")).and_then(|cuda| cuda.canonicalize().ok());
        let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let given: Vec<_> = std::env::split_paths(&given).filter(|path| path.is_absolute()).collect();
        program.into_iter().chain(beside).chain(given)
    }

    /// `/dev/null`, and the devices of GPUs, which are driven by ioctl.
    fn devices() -> Vec<PathBuf> {
        let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
        let is_gpu = |name: &str| name.starts_with("nvidia") || matches!(name, "dri" | "dxg" | "kfd");
        let gpus = entries.filter(|entry| is_gpu(&entry.file_name().to_string_lossy())).map(|entry| entry.path());
        gpus.chain([PathBuf::from("/dev/null")]).collect()
    }

    /// Where the driver of NVIDIA's GPUs writes, if there is one.
    fn graphics() -> Vec<PathBuf> {
        if !PathBuf::from("/dev/nvidiactl").exists() {
            return Vec::new();
        }
        let compiled = std::env::home_dir().map(|user| user.join(".nv"));
        if let Some(folder) = &compiled {
            // Without it each start compiles anew; nothing else depends on it.
            let _ = fs::create_dir_all(folder);
        }
        compiled.into_iter().chain([PathBuf::from("/dev/shm")]).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Bounds, Confinement};

    pub fn confine(_: &Bounds) -> Result<Confinement, std::convert::Infallible> {
        Ok(Confinement::None)
    }

    pub fn offered() -> Confinement {
        Confinement::None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_work_names_may_be_read_and_the_data_folder_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let places = Places { home: root.join("home"), hub_cache: root.join("hub") };
        let snapshot = root.join("other/models--a--b/snapshots/1");
        for folder in [&places.models(), &root.join("disk/model"), &root.join("disk/run"), &snapshot, &places.runs()] {
            fs::create_dir_all(folder).unwrap();
        }
        std::os::unix::fs::symlink(root.join("disk/run"), places.runs().join("mine")).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let work = json!({
            "model_name_or_path": text(&snapshot),
            "adapter_name_or_path": format!("nothing, {}", text(&root.join("disk/model"))),
            "dataset_dir": "/",
            "output_dir": text(&root),
            "checkpoints": [{ "path": text(&root.join("absent")) }],
        });
        let bounds = Bounds::of(&places, &work);
        for path in ["disk/model", "disk/run", "other/models--a--b", "home/models", "home/runs", "hub"] {
            assert!(bounds.read.contains(&root.join(path)), "{path}");
        }
        assert!(!bounds.read.iter().any(|path| places.home.starts_with(path)));
        assert!(!bounds.read.contains(&root.join("absent")));
        assert_eq!(bounds.write, [places.home.join("cache")]);
    }
}
