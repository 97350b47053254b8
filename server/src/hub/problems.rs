//! What a person reads when a download fails: the thing, the number, the next step, in both languages.

use api::{Problem, hub::HubName};
use std::io;
use std::path::Path;

pub fn bad_endpoint(variable: &str, endpoint: &str) -> Problem {
    Problem::new(
        "hub_bad_endpoint",
        format!("{variable} is {endpoint:?}, must be an http or https address."),
        format!("{variable} 是 {endpoint:?}，必须是 http 或 https 地址。"),
    )
    .hint(
        "Set it to, for example, https://my-mirror.example, or unset it.",
        "请将其设为例如 https://my-mirror.example，或取消设置。",
    )
}

pub fn bad_id(id: &str) -> Problem {
    Problem::new(
        "hub_bad_id",
        format!("{id:?} is not a hub id."),
        format!("{id:?} 不是有效的模型编号。"),
    )
    .hint(
        "Write it as owner/name, for example HuggingFaceTB/SmolLM2-135M-Instruct; one GGUF file as owner/name/file.gguf.",
        "请写成 所有者/名称，例如 HuggingFaceTB/SmolLM2-135M-Instruct；单个 GGUF 文件写成 所有者/名称/文件.gguf。",
    )
    .field("id")
}

pub fn bad_revision(revision: &str) -> Problem {
    Problem::new(
        "hub_bad_revision",
        format!("{revision:?} is not a revision."),
        format!("{revision:?} 不是有效的版本。"),
    )
    .hint("Give a branch, a tag or a commit; main is the default.", "请填写分支、标签或提交编号；默认为 main。")
    .field("revision")
}

/// A problem of a dataset's download: no script fetches it another way, and each hub has settings of its own.
pub fn of_dataset(problem: Problem, hub: HubName) -> Problem {
    if problem.code == "hub_unreachable" {
        return problem.hint(
            format!("Check the network, set {} to a mirror, or choose the other hub.", endpoint_variable(hub)),
            format!("请检查网络，将 {} 设为镜像地址，或改用另一个数据集库。", endpoint_variable(hub)),
        );
    }
    if hub == HubName::Hf {
        return problem;
    }
    let own =
        |text: &str| text.replace("HF_ENDPOINT", endpoint_variable(hub)).replace("HF_TOKEN", "MODELSCOPE_API_TOKEN");
    let zh = own(problem.hint_in("zh"));
    let en = own(&problem.hint);
    problem.hint(en, zh)
}

fn endpoint_variable(hub: HubName) -> &'static str {
    match hub {
        HubName::Hf => "HF_ENDPOINT",
        HubName::Ms => "MODELSCOPE_DOMAIN",
    }
}

pub fn offline(id: &str) -> Problem {
    Problem::new(
        "hub_offline",
        format!("{id} can't be downloaded: HF_HUB_OFFLINE is set."),
        format!("无法下载 {id}：已设置 HF_HUB_OFFLINE。"),
    )
    .hint(
        "Unset HF_HUB_OFFLINE, or copy its files to this computer and name them there.",
        "请取消 HF_HUB_OFFLINE，或将其文件复制到本机后使用。",
    )
}

pub fn cancelled(id: &str) -> Problem {
    Problem::new("cancelled", format!("The download of {id} was stopped."), format!("已停止下载 {id}。"))
        .hint("Start it again: it goes on where it stopped.", "重新开始即可从中断处继续。")
}

pub fn unreachable(host: &str, reason: &str) -> Problem {
    Problem::new(
        "hub_unreachable",
        format!("The hub at {host} can't be reached: {reason}."),
        format!("无法连接到 {host}：{reason}。"),
    )
    .hint(
        "Check the network or set HF_ENDPOINT to a mirror. Without a hub, scripts/fetch-smollm2.sh gets SmolLM2 another way.",
        "请检查网络，或将 HF_ENDPOINT 设为镜像地址。没有可用的镜像时，可用 scripts/fetch-smollm2.sh 以其他方式获取 SmolLM2。",
    )
}

pub fn denied(id: &str, status: u16) -> Problem {
    Problem::new(
        "hub_denied",
        format!(
            "The hub refuses {id} (status {status}): it needs a token or an accepted licence, or it does not exist."
        ),
        format!("模型库拒绝访问 {id}（状态 {status}）：需要令牌或接受许可协议，或者它不存在。"),
    )
    .hint(
        "Check the id, accept the licence on its page, and set HF_TOKEN to your access token.",
        "请检查编号，在其页面接受许可协议，并将 HF_TOKEN 设为您的访问令牌。",
    )
    .field("id")
}

pub fn not_found(id: &str, revision: &str) -> Problem {
    Problem::new(
        "hub_not_found",
        format!("The hub has no {id} at revision {revision}."),
        format!("模型库中没有 {id}（版本 {revision}）。"),
    )
    .hint("Check the spelling of the id and of the revision.", "请检查编号和版本的拼写。")
    .field("id")
}

pub fn no_weights(id: &str, pickled: bool) -> Problem {
    let (en, zh) = if pickled {
        (
            "only pickle files (.bin, .pt), which can run code when opened",
            "只有 pickle 文件（.bin、.pt），打开时可能执行代码",
        )
    } else {
        ("no .safetensors and no .gguf file", "没有 .safetensors 或 .gguf 文件")
    };
    Problem::new("hub_no_weights", format!("{id} has {en}."), format!("{id} {zh}。"))
        .hint("Choose a repository that carries safetensors or GGUF.", "请选择含有 safetensors 或 GGUF 的模型。")
        .field("id")
}

pub fn no_file(id: &str, file: &str) -> Problem {
    Problem::new("hub_no_file", format!("{id} has no file {file}."), format!("{id} 中没有文件 {file}。"))
        .hint("Look at the list of files on the model's page.", "请查看模型页面的文件列表。")
        .field("id")
}

pub fn bad_name(id: &str, name: &str) -> Problem {
    Problem::new(
        "hub_bad_name",
        format!("{id} lists a file with an unsafe name, {name:?}; nothing was downloaded."),
        format!("{id} 列出了名称不安全的文件 {name:?}；未下载任何内容。"),
    )
    .hint("Don't use this repository, or check HF_ENDPOINT.", "请勿使用此模型，或检查 HF_ENDPOINT。")
}

pub fn bad_answer(url: &str, what: &str) -> Problem {
    Problem::new(
        "hub_bad_answer",
        format!("The answer of {url} is not a hub's: {what}."),
        format!("{url} 的回答不符合模型库格式：{what}。"),
    )
    .hint("Check HF_ENDPOINT and the proxy.", "请检查 HF_ENDPOINT 和代理。")
}

pub fn status(url: &str, status: u16) -> Problem {
    Problem::new("hub_status", format!("{url} answered with status {status}."), format!("{url} 返回状态 {status}。"))
        .hint("Try again later, or set HF_ENDPOINT to a mirror.", "请稍后重试，或将 HF_ENDPOINT 设为镜像地址。")
}

pub fn busy(host: &str, seconds: u64) -> Problem {
    Problem::new(
        "hub_busy",
        format!("{host} asks to wait {seconds} seconds before the next request."),
        format!("{host} 要求等待 {seconds} 秒后再请求。"),
    )
    .hint(
        "Try again after that, or set HF_TOKEN: signed-in users may ask more often. What was downloaded is kept.",
        "请在此之后重试，或设置 HF_TOKEN：登录用户的限额更高。已下载的部分会保留。",
    )
}

pub fn corrupt(file: &str, what: &str) -> Problem {
    Problem::new(
        "hub_corrupt",
        format!("{file} arrived damaged twice ({what}) and was deleted."),
        format!("{file} 两次下载均已损坏（{what}），已删除。"),
    )
    .hint(
        "Set HF_ENDPOINT to another mirror, or check the proxy, then pull again.",
        "请将 HF_ENDPOINT 设为其他镜像，或检查代理，然后重新下载。",
    )
}

pub fn no_room(folder: &Path, needed: u64, free: u64) -> Problem {
    let (needed, free) = (needed / 1_000_000 + 1, free / 1_000_000);
    let shown = folder.display();
    Problem::new(
        "disk_full",
        format!("The download needs {needed} MB in {shown}, where {free} MB are free."),
        format!("下载需要 {needed} MB，而 {shown} 仅剩 {free} MB。"),
    )
    .hint("Free some space or set HF_HOME to another disk.", "请腾出空间，或将 HF_HOME 设到其他磁盘。")
}

pub fn io(path: &Path, source: &io::Error) -> Problem {
    let shown = path.display();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Problem::new(
            "disk_full",
            format!("The disk is full: {shown} could not be written."),
            format!("磁盘已满：无法写入 {shown}。"),
        )
        .hint(
            "Free some space or set HF_HOME to another disk, then pull again: it goes on where it stopped.",
            "请腾出空间或将 HF_HOME 设到其他磁盘，然后重新下载，将从中断处继续。",
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Problem::new("no_permission", format!("{shown} may not be written."), format!("没有写入 {shown} 的权限。"))
                .hint(
                    "Change its permissions or set HF_HOME to another folder.",
                    "请更改权限，或将 HF_HOME 设为其他文件夹。",
                )
        }
        _ => Problem::new("io", format!("{shown}: {source}."), format!("{shown}：{source}。"))
            .hint("Check the disk, or set HF_HOME to another folder.", "请检查磁盘，或将 HF_HOME 设为其他文件夹。"),
    }
}
