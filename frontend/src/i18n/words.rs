//! Every word of the interface, one a line: name, English, 简体中文.

macro_rules! words {
    ($($name:ident: $en:literal, $zh:literal;)*) => {
        /// The words of one language.
        pub struct Words { $(pub $name: &'static str,)* }

        pub const ENGLISH: Words = Words { $($name: $en,)* };
        pub const CHINESE: Words = Words { $($name: $zh,)* };

        #[cfg(test)]
        impl Words {
            pub fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

words! {
    // Shell
    skip: "Skip to content", "跳到内容";
    main_nav: "Main", "主导航";
    train: "Train", "训练";
    data: "Data", "数据";
    runs: "Runs", "运行";
    chat: "Chat", "对话";
    export: "Export", "导出";
    theme: "Theme", "主题";
    theme_switch: "Switch between light and dark", "切换浅色与深色";
    other_language: "中文", "English";
    memory: "Memory", "内存";
    cores: "{n} cores, {name}", "{n} 核，{name}";
    confined_not: "Workers aren't confined", "工作进程未受限制";
    confined_not_hint: "This system can't keep a worker to its files: train only with models and data that you trust. Linux 6.12 can.", "此系统无法将工作进程限制在其文件范围内：请仅使用可信的模型和数据。Linux 6.12 及以上支持。";
    confined_partly: "Workers are confined in part", "工作进程仅部分受限";
    confined_partly_hint: "This kernel keeps a worker to its files, but not from the network. Linux 6.12 does both.", "此内核可限制工作进程访问的文件，但不能限制其网络访问。Linux 6.12 及以上两者皆可。";
    sign_out: "Sign out", "退出登录";
    offline: "Lathe does not answer. Trying again…", "Lathe 没有响应，正在重试…";
    offline_hint: "Runs go on without this page. If it lasts, start `lathe` again.", "没有此页面，运行也会继续。如果一直这样，请重新启动 `lathe`。";
    not_found: "Nothing is here", "这里什么也没有";
    not_found_help: "This address has no page.", "此地址没有页面。";
    no_answer: "Lathe did not answer.", "Lathe 没有响应。";
    no_answer_hint: "Check that it still runs, then try again.", "请确认它仍在运行，然后重试。";
    bad_answer: "Lathe sent an answer that this page can't read ({status}).", "Lathe 的答复无法读取（{status}）。";
    bad_answer_hint: "Reload the page; it may be older than the program.", "请刷新页面；页面可能比程序旧。";
    dismiss: "Dismiss", "关闭";
    close: "Close", "关闭";
    cancel: "Cancel", "取消";
    copy: "Copy", "复制";
    copied: "Copied", "已复制";
    loading: "Loading…", "正在加载…";
    delete: "Delete", "删除";
    keep: "Keep", "保留";
    default_value: "default {value}", "默认 {value}";
    preset_value: "preset {value}", "预设 {value}";
    on: "on", "开";
    off: "off", "关";
    empty_value: "automatic", "自动";

    chain: "The whole chain in one go", "一次完成整条链";
    chain_help: "Instructions first, then a reward model, then this run, each begun when the one before it is done.", "先训练指令，再训练奖励模型，最后是此运行；前一个完成后自动开始下一个。";
    chain_switch: "Train SFT and the reward model before it", "先训练 SFT 与奖励模型";
    chain_sft: "Instructions for SFT", "SFT 的指令数据";
    chain_rm: "Pairs for the reward model", "奖励模型的偏好数据";
    chain_line: "{stage}: {steps} steps, about {time}", "{stage}：{steps} 步，约 {time}";
    choose_dataset: "Choose a dataset", "选择数据集";

    // States
    queued: "Waiting", "等待中";
    running: "Running", "运行中";
    stopping: "Stopping, saving", "正在停止并保存";
    succeeded: "Done", "已完成";
    stopped: "Stopped", "已停止";
    failed: "Failed", "失败";
    interrupted: "Interrupted", "已中断";

    // Train: model
    train_lead: "Three choices make a run: a model, data, a method. The plan at the side says what will happen.", "三项选择构成一次运行：模型、数据、方法。旁边的计划说明会发生什么。";
    argument_names: "Argument names", "参数名";
    yaml: "YAML", "YAML";
    open_config: "Open a configuration", "打开配置";
    model: "Model", "模型";
    starter_what: "Comes with Lathe. For a first try, in under a minute.", "Lathe 自带。适合初次尝试，一分钟之内。";
    home_what: "In the data folder of Lathe.", "在 Lathe 的数据文件夹中。";
    hub_what: "From the Hugging Face cache of this computer.", "来自本机的 Hugging Face 缓存。";
    run_what: "Trained here, all weights.", "在此训练的完整模型。";
    other_model: "Another model…", "其他模型…";
    other_model_what: "A folder, a GGUF file or a hub id, such as Qwen/Qwen3-0.6B.", "文件夹、GGUF 文件或 Hub 名称，例如 Qwen/Qwen3-0.6B。";
    other_model_label: "Folder, .gguf file or hub id", "文件夹、.gguf 文件或 Hub 名称";
    other_model_help: "A hub id is downloaded once; a folder or a file is read where it is.", "Hub 名称只需下载一次；文件夹和文件在原处读取。";
    more_models: "{n} more on this computer", "本机另有 {n} 个";
    pull: "Download", "下载";
    pulling: "Downloading {name}", "正在下载 {name}";
    pull_first: "Not on this computer yet.", "尚未在本机。";
    no_models: "No model yet", "还没有模型";
    no_models_help: "Name a hub id or a folder below.", "请在下方填写 Hub 名称或文件夹。";
    continue_from: "Continue from", "继续自";
    base_model: "The base model", "基础模型";
    continue_help: "Or an adapter that you trained before.", "或以前训练的适配器。";
    checkpoint: "Checkpoint", "检查点";
    template: "Chat template", "对话模板";
    template_own: "The model’s own", "模型自带";
    template_help: "How messages become tokens. Keep the model’s own.", "消息如何变成词元。一般用模型自带的。";
    final_checkpoint: "final, step {step}", "最终，第 {step} 步";
    step_checkpoint: "step {step}", "第 {step} 步";
    no_checkpoints: "No checkpoint yet", "还没有检查点";

    // Train: data
    datasets: "Datasets", "数据集";
    rows_tokens: "{rows} rows, {tokens} tokens", "{rows} 行，{tokens} 个词元";
    rows_n: "{n} rows", "{n} 行";
    add_dataset: "Add a dataset", "添加数据集";
    remove_dataset: "Remove {name}", "移除 {name}";
    no_datasets: "No dataset yet.", "还没有数据集。";
    upload_one: "Upload one", "上传一个";
    no_match: "Nothing matches.", "没有匹配项。";
    longest_row: "longest row {n} tokens", "最长一行 {n} 个词元";
    look_at_rows: "Look at the rows", "查看各行";
    has_problem: "has a problem", "有问题";

    // Train: method
    method: "Method", "方法";
    goal: "Goal", "目标";
    tuning: "What is trained", "训练内容";
    preset: "Preset", "预设";
    family_examples: "From examples", "从示例学习";
    family_preferences: "From preferences", "从偏好学习";
    family_rewards: "From rewards", "从奖励学习";
    family_weights: "Weights", "权重";
    family_adapters: "Adapters", "适配器";
    family_prompts: "Learned prompts", "可学习提示";
    family_more: "More", "其他";

    // Train: settings
    settings: "Settings", "设置";
    nothing_changed: "nothing changed", "未改动";
    n_changed: "{n} changed", "改动 {n} 项";
    one_problem: "1 problem", "1 个问题";
    n_problems: "{n} problems", "{n} 个问题";
    back_to_preset: "Back to the preset", "恢复预设";
    back_to_defaults: "Back to the defaults", "恢复默认值";
    find_setting: "Find a setting", "查找设置";
    no_setting: "No setting has this in its name or help.", "没有名称或说明包含它的设置。";

    // Plan
    plan: "Plan", "计划";
    ready: "Ready", "就绪";
    checking: "Checking…", "正在检查…";
    not_yet: "Not yet", "还不行";
    plan_empty: "Choose a model and at least one dataset, and the plan appears here.", "选择模型和至少一个数据集后，计划会显示在这里。";
    time: "Time", "时间";
    time_unknown: "known after a few steps", "几步之后可知";
    of_total: "of {total}", "共 {total}";
    samples: "Samples", "样本";
    held_back: "{n} held back for validation", "留出 {n} 个用于验证";
    tokens: "Tokens", "词元";
    share_trained: "{share} of them trained", "其中训练 {share}";
    steps: "Steps", "步数";
    epochs_times: "{epochs} epochs × {steps}", "{epochs} 轮 × {steps}";
    trainable: "Trainable", "可训练";
    share_of: "{share} of {total}", "{total} 的 {share}";
    disk: "Disk", "磁盘";
    device: "Computes on", "计算设备";
    left_out: "{n} left out: nothing of them would be trained", "略去 {n} 个：其中没有可训练的内容";
    cut_rows: "{n} cut at the cutoff length", "{n} 个按截断长度截断";
    ignored_keys: "Without effect here: {names}", "在此无作用：{names}";
    start: "Start", "开始";
    starting: "Starting…", "正在开始…";
    show_field: "Show the setting", "查看此设置";
    start_blocked: "Start waits for the problems above.", "解决以上问题后即可开始。";
    plan_line: "{steps} steps", "{steps} 步";
    warnings_n: "{n} warnings", "{n} 条提醒";

    // YAML dialogs
    yaml_title: "This run as YAML", "此运行的 YAML";
    yaml_help: "Save it as run.yaml: `lathe train run.yaml` makes the same run. LLaMA-Factory reads it too.", "保存为 run.yaml 后，`lathe train run.yaml` 会得到相同的运行。LLaMA-Factory 也能读取。";
    open_title: "Open a configuration", "打开配置";
    open_help: "YAML or JSON, of Lathe or LLaMA-Factory. It fills the form; nothing starts.", "Lathe 或 LLaMA-Factory 的 YAML 或 JSON。只填写表单，不会开始运行。";
    choose_file: "Choose a file", "选择文件";
    paste_here: "Configuration", "配置内容";
    fill_form: "Fill the form", "填写表单";
    form_filled: "The form is filled: {n} arguments.", "表单已填写：{n} 个参数。";

    // Run page
    all_runs: "All runs", "全部运行";
    started_at: "started {time}", "{time} 开始";
    created_at: "created {time}", "{time} 创建";
    run_not_found: "There is no run {id}", "没有运行 {id}";
    run_not_found_help: "It may have been deleted.", "它可能已被删除。";
    step_of: "Step {done} of {total}", "第 {done} 步，共 {total} 步";
    epoch_of: "epoch {done} of {total}", "第 {done} 轮，共 {total} 轮";
    gone: "{time} gone", "已用 {time}";
    left: "{time} left", "剩余 {time}";
    done_at: "done at {time}", "{time} 完成";
    ended_at: "ended {time}", "{time} 结束";
    preparing: "Preparing…", "正在准备…";
    waiting_turn: "Waits for its turn. It starts by itself.", "正在排队，会自动开始。";
    training_progress: "Training progress", "训练进度";
    loss_smoothed: "Loss, smoothed", "损失（平滑）";
    reward_smoothed: "Reward, smoothed", "奖励（平滑）";
    from_value: "↓ from {value}", "↓ 起始 {value}";
    up_from_value: "↑ from {value}", "↑ 起始 {value}";
    validation_loss: "Validation loss", "验证损失";
    best_step: "best at step {step}", "第 {step} 步最佳";
    speed: "Speed", "速度";
    tokens_per_s: "tokens/s", "词元/秒";
    s_a_step: "{time} a step", "每步 {time}";
    learning_rate: "Learning rate", "学习率";
    better_higher: "Higher is better.", "越高越好。";
    better_lower: "Lower is better.", "越低越好。";
    two_sentences: "{first} {second}", "{first}{second}";
    of_validation: "{name}, validation", "{name}（验证）";
    reward: "Reward", "奖励";
    kl: "KL", "KL 散度";
    entropy: "Entropy", "熵";
    advantage: "Advantage", "优势";
    clipped_share: "Clipped", "裁剪比例";
    rollouts: "Rollouts", "采样记录";
    rollouts_none: "No samples of this step are kept.", "没有保留此步的采样。";
    rollouts_before: "Step before", "上一步";
    rollouts_after: "Step after", "下一步";
    rollouts_newest: "Newest", "最新";
    rollout_reference: "Reference:", "参考答案：";
    rollout_sample: "Sample", "样本";
    loss: "Loss", "损失";
    each_step: "each step", "每步";
    smoothed: "smoothed", "平滑";
    validation: "validation", "验证";
    smoothing: "Smoothing", "平滑";
    scale: "Scale", "刻度";
    linear: "Linear", "线性";
    logarithmic: "Log", "对数";
    step: "step", "步";
    epoch: "epoch", "轮";
    epoch_n: "epoch {n}", "第 {n} 轮";
    raw: "raw", "原始";
    no_points: "The curve begins with the first step.", "第一步之后开始绘制曲线。";
    show_table: "Show as table", "以表格显示";
    chart_help: "Loss by step. Arrow keys move one step, Page Up and Page Down ten.", "各步的损失。方向键移动一步，Page Up、Page Down 移动十步。";
    log: "Log", "日志";
    log_empty: "The worker has written nothing yet.", "工作进程尚未写入内容。";
    following: "following", "实时跟随";
    checkpoints: "Checkpoints", "检查点";
    checkpoints_none: "The first checkpoint appears here.", "第一个检查点会显示在这里。";
    final_name: "Final", "最终";
    step_name: "Step {step}", "第 {step} 步";
    close_safe: "You can close this page. The run goes on, and you will find it here again.", "可以关闭此页面。运行会继续，之后仍可在此查看。";
    stop_save: "Stop and save", "停止并保存";
    stop_title: "Stop at step {step}?", "在第 {step} 步停止？";
    stop_help: "Lathe saves a checkpoint first, so you can chat with it, export it or go on later from the same step.", "Lathe 会先保存检查点，之后可以对话、导出，或从同一步继续。";
    keep_running: "Keep running", "继续运行";
    resume: "Resume", "继续运行";
    resumed: "The run goes on from its last checkpoint.", "运行从最后一个检查点继续。";
    use_settings: "Use these settings", "使用这些设置";
    delete_run: "Delete the run", "删除此运行";
    delete_run_title: "Delete {name}?", "删除 {name}？";
    delete_run_help: "Its checkpoints and its log are removed from the disk. Exports made from it stay.", "其检查点和日志将从磁盘删除。由它导出的模型会保留。";
    deleted: "{name} is deleted.", "{name} 已删除。";
    chat_with_it: "Chat with it", "与它对话";
    all_steps: "All {n} steps", "全部 {n} 步";

    // Runs
    runs_lead: "{active} active, {done} finished. Everything that a run needs to be made again is kept with it.", "{active} 个进行中，{done} 个已结束。重做一次运行所需的一切都随它保存。";
    new_run: "New run", "新运行";
    find_run: "Find a run", "查找运行";
    find_run_hint: "Name, model, dataset or setting", "名称、模型、数据集或设置";
    all: "All", "全部";
    active: "Active", "进行中";
    done: "Done", "已完成";
    ended_early: "Ended early", "提前结束";
    state: "State", "状态";
    run: "Run", "运行";
    model_and_data: "Model and data", "模型与数据";
    started: "Started", "开始于";
    actions: "Actions", "操作";
    no_runs: "No run yet", "还没有运行";
    no_runs_help: "Choose a model and data, and start the first one. The starter model takes under a minute.", "选择模型和数据，开始第一次运行。用自带的 starter 模型不到一分钟。";
    no_run_matches: "No run matches.", "没有匹配的运行。";
    show_all: "Show all", "全部显示";

    // Chat
    chat_lead: "Ask the base model and what you made of it. Answers stay on this computer.", "向基础模型或训练成果提问。回答只留在本机。";
    chat_loaded: "{name} is loaded. Answers stay on this computer.", "已加载 {name}。回答只留在本机。";
    base_models: "Models", "模型";
    trained_runs: "Runs", "运行";
    what_to_load: "Model or run", "模型或运行";
    load: "Load", "加载";
    loaded: "Loaded", "已加载";
    more_settings: "More", "更多";
    loading_model: "Loading…", "正在加载…";
    not_loaded: "Not loaded", "未加载";
    unload: "Free the memory", "释放内存";
    load_took: "{bytes} in memory", "占用内存 {bytes}";
    no_model_loaded: "No model is loaded", "未加载模型";
    no_model_loaded_help: "Choose a model or a run at the side, load it, and ask it something.", "在旁边选择模型或运行，加载后即可提问。";
    say_first: "Say something", "说点什么";
    say_first_help: "For example: Who are you?", "例如：你是谁？";
    message: "Message", "消息";
    message_hint: "Say something", "输入消息";
    message_hint_load: "Load a model first", "请先加载模型";
    send: "Send", "发送";
    stop: "Stop", "停止";
    send_key: "send", "发送";
    newline_key: "new line", "换行";
    system_prompt: "System prompt", "系统提示";
    system_prompt_help: "Told to the model before the first message. Empty: none.", "在第一条消息之前告诉模型。留空则没有。";
    clear: "Clear", "清空";
    again: "Again", "重新回答";
    answers: "Answers", "回答";
    reset: "Reset", "重置";
    writing: "writing", "正在回答";
    tokens_n: "{n} tokens", "{n} 个词元";
    tokens_speed: "{n} tokens/s", "{n} 词元/秒";
    cut_length: "cut at the longest answer", "达到最长回答，已截断";
    you_stopped: "you stopped it", "已手动停止";
    conversation: "Conversation", "对话内容";
    stream_ended: "The answer ended before it was whole.", "回答未完成就结束了。";
    stream_ended_hint: "Load the model again and ask once more.", "请重新加载模型后再问一次。";

    // Export
    export_lead: "Take the model with you: base and adapter become one folder that others can load.", "带走模型：基础模型与适配器合并为一个文件夹，可供其他程序加载。";
    what: "What", "内容";
    how: "How", "方式";
    export_do: "Export", "导出";
    export_merged: "A full model folder in Hugging Face’s format, for transformers, vLLM, llama.cpp’s converter and further training.", "Hugging Face 格式的完整模型文件夹，可用于 transformers、vLLM、llama.cpp 转换及继续训练。";
    adapter_only: "The adapter alone is already on the disk, as PEFT loads it:", "适配器本身已在磁盘上，可由 PEFT 直接加载：";
    earlier_exports: "Exports", "导出记录";
    no_exports: "No export yet", "还没有导出";
    no_exports_help: "Each export is listed here with its folder.", "每次导出都会连同文件夹列在这里。";
    exporting: "Exporting…", "正在导出…";
    exported_to: "Written to", "已写入";
    delete_job_help: "It leaves the list. The exported folder stays.", "它会从列表中移除，导出的文件夹会保留。";
    nothing_to_export: "A full model is exported as it is.", "完整模型将按原样导出。";

    // Data
    data_lead: "{n} datasets, {rows} rows. What you see here is what the trainer reads.", "{n} 个数据集，{rows} 行。这里所见即训练所读。";
    data_lead_none: "What you see here is what the trainer reads.", "这里所见即训练所读。";
    drop_here: "Drop files here", "将文件拖到这里";
    drop_kinds: "or choose one: json, jsonl, csv, tsv, txt (each also .gz), parquet, arrow", "或点击选择：json、jsonl、csv、tsv、txt（均可 .gz 压缩）、parquet、arrow";
    upload: "Upload", "上传";
    uploading: "Uploading {name}", "正在上传 {name}";
    upload_checking: "Reading {name}", "正在读取 {name}";
    upload_waiting: "{name} waits for its turn", "{name} 正在排队";
    upload_lost: "Connection lost, trying again: {name}", "连接中断，正在重试：{name}";
    upload_lost_hint: "Nothing is lost: it goes on from here.", "已传部分不会丢失，会从这里继续。";
    upload_refused: "{name} could not be added", "未能添加 {name}";
    uploaded: "{name}: {rows} rows are ready.", "{name}：{rows} 行已就绪。";
    uploaded_faulty: "{name} is added: {rows} rows, and a problem.", "已添加 {name}：{rows} 行，但有问题。";
    of_bytes: "{done} of {total}", "{done} / {total}";
    find_dataset: "Find a dataset", "查找数据集";
    kind_instructions: "instructions", "指令";
    kind_preferences: "preferences", "偏好";
    kind_kto: "ratings", "评价";
    kind_text: "text", "文本";
    train_with_it: "Train with it", "用它训练";
    delete_dataset: "Delete the dataset", "删除此数据集";
    delete_dataset_help: "Its entry in dataset_info.json and its file in the data folder are removed. Runs made with it stay.", "将删除 dataset_info.json 中的条目及数据文件夹中的文件。用它做过的运行会保留。";
    rows: "Rows", "行";
    as_read: "As read", "读取结果";
    as_file: "As in the file", "文件原文";
    range_found: "matches {from} to {to}", "匹配项 {from} 到 {to}";
    range_of: "{from} to {to} of {total}", "第 {from} 到 {to} 行，共 {total} 行";
    previous: "Previous", "上一页";
    next: "Next", "下一页";
    row_n: "Row {n}", "第 {n} 行";
    all_datasets: "All datasets", "全部数据集";
    no_datasets_title: "No dataset yet", "还没有数据集";
    no_datasets_help: "Upload a file with your rows: questions and answers, conversations, or plain text.", "上传含有数据行的文件：问答、对话或纯文本。";
    role_user: "user", "用户";
    role_assistant: "assistant", "助手";
    role_system: "system", "系统";
    role_tool: "tool", "工具";
    role_function: "tool call", "工具调用";
    columns: "Columns", "列";
    statistics: "Statistics", "统计";
    dataset_parts: "Parts of the dataset", "数据集的各部分";
    undo: "Undo the last change", "撤销上次更改";
    rows_changed: "Rows changed: {n}.", "已更改 {n} 行。";
    change_saved: "The change is saved.", "更改已保存。";
    not_editable: "Its file is not in Lathe’s data folder, so it can’t be changed here.", "文件不在 Lathe 的数据文件夹中，无法在此更改。";

    // Data: rows
    search_rows: "Search in rows", "在行中搜索";
    only_faulty: "Only with problems", "仅有问题的行";
    show_faulty: "Show the rows with problems", "查看有问题的行";
    no_faulty_rows: "No row has a problem.", "没有行有问题。";
    no_rows: "No rows.", "没有数据行。";
    of_row: "{what}, row {n}", "{what}，第 {n} 行";
    edit: "Edit", "编辑";
    fields: "Fields", "字段";
    save_row: "Save the row", "保存此行";
    row_json: "The row as JSON", "此行的 JSON";
    row_not_json: "Not JSON yet: line {line}, column {column}.", "还不是 JSON：第 {line} 行第 {column} 列。";
    row_not_object: "A row is an object in braces, for example {\"instruction\": \"…\", \"output\": \"…\"}.", "一行是花括号中的对象，例如 {\"instruction\": \"…\", \"output\": \"…\"}。";

    // Data: tokens
    row: "Row", "行";
    row_before: "Previous row", "上一行";
    row_after: "Next row", "下一行";
    as_model_reads: "as {model} reads it, with the settings of Train", "按 {model} 的读法，采用“训练”页的设置";
    no_model_chosen: "No model is chosen", "尚未选择模型";
    no_model_chosen_help: "Tokens depend on the model. Choose one on the page Train.", "词元取决于模型。请在“训练”页选择一个。";
    token_trained: "trained", "训练";
    token_read: "read only", "仅读取";
    token_special: "special", "特殊";
    token_cut: "cut off", "截去";
    token_counts: "{kept} tokens kept, {trained} of them trained ({share}), {cut} cut off", "保留 {kept} 个词元，其中训练 {trained} 个（{share}），截去 {cut} 个";
    token_help: "Point at a token, or move with the arrow keys, to see its id.", "将指针移到词元上，或用方向键移动，即可查看其 id。";
    token_place: "id {id} · position {n}", "id {id} · 第 {n} 个";
    show_ids: "Show ids", "显示 id";
    cut_at: "cut at cutoff_len {n}", "在 cutoff_len {n} 处截断";
    more_tokens: "Show more, {n} left", "显示更多，还有 {n} 个";

    // Data: statistics
    counting: "Counting the tokens of every row", "正在统计各行的词元";
    first_rows_only: "the first {n} rows", "前 {n} 行";
    findings: "What stands out", "值得注意";
    nothing_stands_out: "Nothing: every row can be read, fits and is trained.", "没有：每行都可读取、长度合适且会被训练。";
    lengths: "Lengths", "长度";
    tokens_a_row: "tokens a row", "每行词元数";
    none_longer: "No row is longer than cutoff_len, {cutoff}.", "没有行超过 cutoff_len {cutoff}。";
    some_longer: "Rows longer than cutoff_len, {cutoff}: {n}.", "超过 cutoff_len {cutoff} 的行：{n}。";
    at_a_glance: "At a glance", "概览";
    median_length: "Median length", "长度中位数";
    longest_length: "Longest row", "最长一行";
    language: "Language", "语言";
    lang_en: "English", "英语";
    lang_zh: "Chinese", "中文";
    lang_ja: "Japanese", "日语";
    lang_ko: "Korean", "韩语";
    lang_code: "code", "代码";
    lang_other: "other", "其他";
    flaw_faulty: "Can’t be read: {n}", "无法读取：{n} 行";
    flaw_duplicate: "The same as an earlier row: {n}", "与前面的行相同：{n} 行";
    flaw_empty: "An answer is empty: {n}", "回答为空：{n} 行";
    flaw_masked: "Nothing of it would be trained: {n}", "没有可训练的内容：{n} 行";
    flaw_truncated: "Longer than the cutoff length: {n}", "超过截断长度：{n} 行";
    fix_drop: "Drop these rows", "删除这些行";
    fix_keep_one: "Keep one of each", "每种只留一行";
    fix_truncate: "Shorten the last answer", "缩短最后的回答";
    fix_split: "Split between turns", "按轮次拆分";
    fix_reaches_all: "What mends them reaches all rows.", "修正会作用于所有行。";

    // Data: columns
    choose_columns: "Choose the columns", "选择列";
    columns_help: "Which column of the file is what. The file stays as it is.", "说明文件中各列的含义。文件本身不变。";
    columns_guessed: "Filled in by Lathe from the first rows. Check it, then save.", "由 Lathe 根据前几行填写。请核对后保存。";
    format_alpaca: "A question and an answer in columns of their own.", "问题和回答各占一列。";
    format_sharegpt: "A conversation in one column, with from and value.", "对话在一列中，含 from 和 value。";
    format_openai: "A conversation in one column, with role and content.", "对话在一列中，含 role 和 content。";
    ranking: "Pairs of answers", "成对的回答";
    ranking_help: "Each row has a better and a worse answer.", "每行有一个较好和一个较差的回答。";
    no_column: "none", "无";
    column_prompt: "Question", "问题";
    column_query: "Added to the question", "问题的补充";
    column_response: "Answer", "回答";
    column_messages: "Conversation", "对话";
    column_chosen: "Better answer", "较好的回答";
    column_rejected: "Worse answer", "较差的回答";
    column_system: "System message", "系统提示";
    column_history: "Earlier turns", "之前的轮次";
    column_tools: "Tools", "工具";
    column_kto: "Rating, true or false", "评价（true 或 false）";
    message_names: "Names inside a message", "消息内部的名称";
    save_columns: "Save the columns", "保存列设置";

    // Data: writing and downloading
    write_rows: "Write rows", "编写数据";
    create_help: "A question and an answer in each row. Enter goes down, Shift Enter makes a new line; cells of a spreadsheet can be pasted.", "每行一个问题和一个回答。Enter 移到下一行，Shift Enter 换行；可粘贴电子表格的单元格。";
    dataset_name: "Name of the dataset", "数据集名称";
    question: "Question", "问题";
    answer: "Answer", "回答";
    system_optional: "System (optional)", "系统提示（可选）";
    add_row: "Add a row", "添加一行";
    save_dataset: "Save the dataset", "保存数据集";
    row_needs_question: "Row {n} has no question.", "第 {n} 行没有问题。";
    row_needs_answer: "Row {n} has no answer.", "第 {n} 行没有回答。";
    download: "Download", "下载";
    download_title: "Download {name}", "下载 {name}";
    download_help: "The file holds {size} now. Rows as they stand keep all their columns.", "当前文件为 {size}。保持原样时保留所有列。";
    file_type: "File type", "文件类型";
    row_format: "Format of the rows", "行的格式";
    as_it_stands: "as it stands", "保持原样";

    // Data from a hub
    from_hub: "From a hub", "从数据集库下载";
    hub: "Hub", "数据集库";
    hub_usual: "As the settings prefer", "按设置自动选择";
    hub_id: "Dataset", "数据集";
    hub_subset: "Subset", "子集";
    hub_split: "Split", "划分";

    // Making data
    make_data: "Make data", "生成数据";
    make_task: "What to make", "生成方式";
    make_instruct: "New tasks after seeds, with answers", "仿照种子任务生成新任务和回答";
    make_label: "Answers to rows without one", "为没有回答的数据补上回答";
    make_from: "From", "来源";
    make_question: "Question about each row", "对每行的提问";
    make_rows: "Rows", "行数";
    make_server: "Server of the teacher, or empty", "教师模型地址（可留空）";
    make_teacher: "Teacher", "教师模型";
    make_help: "The teacher is a model of this computer, or one of an OpenAI-compatible server. Each row keeps where it comes from.", "教师模型可以是本机模型，也可以是 OpenAI 兼容服务上的模型。每行都会记录来源。";
    make_start: "Make rows", "开始生成";
    make_dropped: "{n} dropped", "丢弃 {n} 条";

    // Preferences
    preferences: "Preferences", "偏好";
    preferences_short: "Pairs", "偏好";
    pref_lead: "Collect pairs of answers, keep the telling ones, and train on them.", "收集成对的回答，留下有价值的，再用来训练。";
    pref_train: "Train with {n} pairs", "用 {n} 对训练";
    pref_train_kto: "Train with the ratings", "用这些评价训练";
    pref_which: "Which is better?", "哪个更好？";
    pref_answers_of: "Answers of", "回答来自";
    pref_progress: "{done} of {total}", "{done} / {total}";
    pref_saving: "Saving…", "正在保存…";
    pref_saved: "Each vote is kept at once.", "每次投票都会立即保存。";
    pref_left: "A is better", "A 更好";
    pref_right: "B is better", "B 更好";
    pref_tie: "Equal", "一样好";
    pref_skip: "Skip", "跳过";
    pref_undo: "Undo the last", "撤销上一次";
    pref_vote: "Your vote", "你的投票";
    pref_answer_a: "Answer A", "回答 A";
    pref_answer_b: "Answer B", "回答 B";
    pref_prompt: "Prompt", "提示";
    pref_none_title: "Nothing to compare yet", "还没有可比较的回答";
    pref_none_help: "Choose a dataset with several answers to a prompt, or sample answers below.", "请选择一个每个提示有多个回答的数据集，或在下方采样回答。";
    pref_choose: "Choose a dataset", "选择数据集";
    pref_done_title: "All pairs are voted on", "已对所有回答对投票";
    pref_done_help: "{n} votes, {ties} ties, {skipped} skipped. Undo brings the last one back.", "共 {n} 票，{ties} 个平局，跳过 {skipped} 个。撤销可返回上一对。";
    pref_pairs: "Pairs", "回答对";
    pref_kept_of: "{kept} kept of {found}", "保留 {kept} / {found}";
    pref_all_sources: "All sources", "全部来源";
    pref_origin_votes: "votes", "投票";
    pref_origin_judge: "judge", "评审";
    pref_origin_scores: "scores", "评分";
    pref_origin_ranking: "ranking", "排名";
    pref_origin_pairs: "dataset", "数据集";
    pref_source: "Source", "来源";
    pref_gap: "Gap", "分差";
    pref_no_pairs: "No pairs yet. Vote on answers, or add a source.", "还没有回答对。请投票，或添加来源。";
    pref_result: "The dataset", "数据集";
    pref_kept: "Kept", "保留";
    pref_pairs_unit: "pairs", "对";
    pref_rows_weighted: "{n} rows with the weights", "按权重共 {n} 行";
    pref_agreement: "Agreement", "一致率";
    pref_agreement_help: "How often the judge names the same answer in both orders.", "评审在两种顺序下选出同一回答的比例。";
    pref_own_share: "From this model", "来自该模型";
    pref_for: "For", "用于";
    pref_make: "Make the dataset", "生成数据集";
    pref_made: "{name}: {rows} rows are ready.", "{name}：{rows} 行已就绪。";
    pref_filters: "What is kept", "保留哪些";
    pref_pairing: "Of scored and ranked answers", "评分与排名的回答";
    pref_pairing_all: "All pairs", "两两成对";
    pref_pairing_adjacent: "Neighbours", "仅相邻";
    pref_min_gap: "Smallest gap", "最小分差";
    pref_min_gap_help: "Drops {n} pairs whose answers score nearly the same.", "去掉 {n} 对评分相近的回答。";
    pref_max_gap: "Largest gap", "最大分差";
    pref_max_gap_help: "Hard pairs only: drops {n} that lie further apart.", "仅保留难分的对：去掉 {n} 对分差更大的。";
    pref_on_policy: "From this model, at least", "来自该模型的比例至少";
    pref_on_policy_help: "Answers of the model itself teach more; drops {n} pairs.", "模型自己的回答更有用；去掉 {n} 对。";
    pref_adversarial: "Adversarial prompts", "对抗性提示";
    pref_adversarial_tag: "adversarial", "对抗性";
    pref_adversarial_any: "All", "全部";
    pref_adversarial_only: "Only", "仅这些";
    pref_adversarial_without: "None", "排除";
    pref_adversarial_help: "Drops {n} pairs.", "去掉 {n} 对。";
    pref_sources: "Sources", "来源";
    pref_sources_none: "Datasets with pairs, scored or ranked answers, or samples to vote on.", "可添加含回答对、评分或排名回答的数据集，或用于投票的采样。";
    pref_add_source: "Add a source", "添加来源";
    pref_weight: "Weight of {name}", "{name} 的权重";
    pref_remove_source: "Remove {name}", "移除 {name}";
    pref_source_counts: "{kept} of {found} pairs", "{kept} / {found} 对";
    pref_ties_out: "{n} tied", "去掉 {n} 个平局";
    pref_with_votes: "Agrees with you", "与你一致";
    pref_with_votes_help: "On {n} pairs that you both compared. Cohen's kappa {kappa}: 0 is chance, 1 always the same.", "双方都比较过的有 {n} 对。Cohen’s kappa 为 {kappa}：0 为随机水平，1 为完全一致。";
    pref_votes_agree_n: "{agreed} of {n} as you voted", "{n} 对中 {agreed} 对与你的投票一致";
    pref_agree_n: "{share} agreement", "一致率 {share}";
    pref_duplicates: "{n} pairs are in two sources and count once.", "{n} 对在两个来源中重复，只计一次。";
    pref_sample: "Sample answers", "采样回答";
    pref_sample_from: "Prompts from", "提示来自";
    pref_sample_n: "Answers to each prompt", "每个提示的回答数";
    pref_sample_prompts: "Prompts, at most", "最多多少个提示";
    pref_sample_length: "Longest answer", "最长回答";
    pref_sample_target: "Model that is to be trained", "待训练的模型";
    pref_sample_others: "Other checkpoints", "其他检查点";
    pref_sample_add: "Let it answer too", "也让它回答";
    pref_sample_share: "Share of the model that is trained", "待训练模型的占比";
    pref_sample_adversarial: "These prompts are adversarial", "这些提示是对抗性的";
    pref_sample_start: "Sample", "开始采样";
    pref_temperature: "Temperature", "温度";
    pref_judge: "Ask a judge", "请评审比较";
    pref_judge_of: "Answers to compare", "待比较的回答";
    pref_judge_is: "The judge", "评审";
    pref_judge_local: "A model of this computer", "本机模型";
    pref_judge_server: "A server", "服务";
    pref_judge_url: "Address of the server", "服务地址";
    pref_judge_name: "Model there", "该服务上的模型";
    pref_judge_criteria: "What is better", "评判标准";
    pref_judge_criteria_hint: "helpful, correct, harmless and to the point", "有帮助、正确、无害、切题";
    pref_judge_pairs: "Pairs, at most", "最多多少对";
    pref_judge_start: "Judge", "开始评审";
    pref_judge_help: "Both orders are asked; pairs on which they disagree are ties and stay out.", "两种顺序都会询问；结论不一致的视为平局，不会保留。";
    pref_use_samples: "Vote on these", "对这些投票";
    pref_use_pairs: "Use these pairs", "使用这些回答对";
}
