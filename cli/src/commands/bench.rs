//! `lathe bench`: how fast this computer trains, generates and reads data, and with how much memory.

use crate::{
    args::{Bench, BenchData, BenchGenerate, BenchMethods, BenchRollouts, BenchSubject, BenchTrain, LogFormat},
    environment::Environment,
    home, load, log,
    outcome::{Failure, Outcome},
    say::Say,
};
use api::{
    Problem, RunConfig,
    params::{self, ComputeType, QuantizationParams, TrainParams},
};
use engine::bench::{
    self, ChatsReport, DataBench, DataReport, GenerateBench, GenerateReport, MethodBench, MethodReport, PackingReport,
    RolloutBench, RolloutReport, Spent, Subject, TrainBench, TrainReport,
};
use std::{
    process::{Command, Stdio},
    time::Instant,
};

pub fn run(command: Bench, environment: &Environment, say: &Say, begun: Instant) -> Outcome {
    log::to_stderr("warn", LogFormat::Text);
    home::set_up(&environment.home)?;
    let places = environment.places();
    match command {
        Bench::Train(args) => {
            let report = bench::train(&steps(args)?, &places, begun).map_err(Failure::refused)?;
            say.result(&report, || trained(&report, say.is_chinese()));
        }
        Bench::Packing(args) => {
            let report = bench::packing(&steps(args)?, &places, begun).map_err(Failure::refused)?;
            say.result(&report, || packed(&report, say.is_chinese()));
        }
        Bench::Rollouts(args) => {
            let (subject, compute_type) = common(&args.subject)?;
            let BenchRollouts { prompts, answers, prompt, new, steps, batch, rank, .. } = args;
            let [prompts, answers, prompt, new, steps, batch, rank] =
                [prompts, answers, prompt, new, steps, batch, rank].map(|n| n as usize);
            let asked = RolloutBench { subject, prompts, answers, prompt, new, steps, batch, rank, compute_type };
            let report = bench::rollouts(&asked, &places).map_err(Failure::refused)?;
            say.result(&report, || rolled_out(&report, say.is_chinese()));
        }
        Bench::Data(BenchData { subject, data, text, register_only }) => {
            let (subject, _) = common(&subject)?;
            let asked = DataBench { subject, file: data, text, register_only };
            let report = bench::data(&asked, &places).map_err(Failure::refused)?;
            say.result(&report, || read(&report, say.is_chinese()));
        }
        Bench::Methods(args) if args.alone => {
            let mut arguments = RunConfig::default();
            for word in &args.words {
                arguments.set_word(word).map_err(no_word)?;
            }
            let method = args.methods.first().cloned().unwrap_or_default();
            let BenchMethods { model, data, steps, .. } = args;
            let asked = MethodBench { model, data, method, steps: steps.into(), arguments };
            say.json(&bench::method(&asked, &places).map_err(Failure::refused)?);
        }
        Bench::Methods(args) => {
            let reports = each_method(&args, environment, say)?;
            say.result(&reports, || table(&reports, say.is_chinese()));
        }
        Bench::Load(args) => {
            let rows = load::run(&args, say)?;
            say.result(&rows, || load::table(&rows));
        }
        Bench::Generate(args) => {
            let (subject, compute_type) = common(&args.subject)?;
            let BenchGenerate { subject: BenchSubject { profile, .. }, .. } = args;
            let [prompt, new, rounds, chats] = [args.prompt, args.new, args.rounds, args.chats].map(|n| n as usize);
            let asked = GenerateBench { subject, prompt, new, rounds, chats, compute_type, profile };
            let report = bench::generate(&asked, &places, begun).map_err(Failure::refused)?;
            say.result(&report, || generated(&report, say.is_chinese()));
        }
    }
    Ok(())
}

/// Each method in a process of its own, whose peak of memory is its own. One that fails is told and left out.
fn each_method(args: &BenchMethods, environment: &Environment, say: &Say) -> Outcome<Vec<MethodReport>> {
    let methods = if args.methods.is_empty() { bench::methods() } else { args.methods.clone() };
    let program = std::env::current_exe().map_err(|e| Failure::refused(engine::Error::Internal(e.to_string())))?;
    let mut reports = Vec::new();
    for method in &methods {
        let mut child = Command::new(&program);
        child.arg("--home").arg(&environment.home).args(["bench", "methods", "--alone", "--methods", method]);
        child.args(["--model", &args.model, "--steps", &args.steps.to_string()]).arg("--data").arg(&args.data);
        let output = child.args(&args.words).stderr(Stdio::inherit()).output();
        let line = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        match serde_json::from_str(line.trim()) {
            Ok(report) => reports.push(report),
            Err(_) => say.note(&format!("{method}: —")),
        }
    }
    Ok(reports)
}

fn no_word(text: String) -> Failure {
    let hint = ["For example learning_rate=1e-3.", "例如 learning_rate=1e-3。"];
    let problem = Problem::new("bad_argument", format!("{text}."), format!("{text}。")).hint(hint[0], hint[1]);
    Failure::wrong(problem)
}

/// The reports as a table in Markdown.
fn table(reports: &[MethodReport], chinese: bool) -> String {
    let head = match chinese {
        true => "| 方法 | 准确率 | 宏平均 F1 | 训练参数 | 峰值内存 | 时间 |",
        false => "| method | accuracy | macro F1 | trained parameters | peak memory | time |",
    };
    let row = |r: &MethodReport| {
        let (accuracy, f1, memory) = (r.accuracy * 100.0, r.macro_f1 * 100.0, megabytes(r.peak_memory));
        format!("| {} | {accuracy:.1} % | {f1:.1} % | {} | {memory} | {:.0} s |", r.method, r.trainable, r.seconds)
    };
    let last = reports.first().map(|r| {
        let majority = r.majority * 100.0;
        match chinese {
            true => {
                format!("\n\n每种方法 {} 步；{} 行，{} 个标签；多数类 {majority:.1} %。", r.steps, r.rows, r.labels)
            }
            false => format!(
                "\n\n{} steps each; {} rows held back, {} labels; the commonest label {majority:.1} %.",
                r.steps, r.rows, r.labels
            ),
        }
    });
    let rows: Vec<String> = reports.iter().map(row).collect();
    format!("{head}\n|---|---|---|---|---|---|\n{}{}", rows.join("\n"), last.unwrap_or_default())
}

/// Training steps as the options ask for them.
fn steps(args: BenchTrain) -> Outcome<TrainBench> {
    let (subject, compute_type) = common(&args.subject)?;
    let BenchTrain { subject: BenchSubject { profile, .. }, adapter, recompute, data, packing, .. } = args;
    let mut config = RunConfig::default();
    config.set("optim", args.optim.as_str());
    config.set("quantization_bit", args.quantization_bit.as_deref());
    let optim = params::read::<TrainParams>(&config)?.optim;
    let quantization_bit = params::read::<QuantizationParams>(&config)?.quantization_bit;
    let [batch, length, steps, warmup, rank] =
        [args.batch, args.length, args.steps, args.warmup, args.rank].map(|n| n as usize);
    Ok(TrainBench {
        subject,
        batch,
        length,
        steps,
        warmup,
        compute_type,
        adapter,
        rank,
        quantization_bit,
        optim,
        recompute,
        data,
        packing,
        profile,
    })
}

/// What all take, checked; sets the number of threads.
fn common(args: &BenchSubject) -> Outcome<(Subject, ComputeType)> {
    let mut config = RunConfig::default();
    config.set("compute_type", args.compute_type.as_str());
    let params: TrainParams = params::read(&config)?;
    if let Some(threads) = args.threads {
        bench::set_threads(threads as usize).map_err(Failure::refused)?;
    }
    let subject = match (&args.model, &args.shape) {
        (_, Some(shape)) => Subject::Shape(shape.clone()),
        (model, None) => Subject::Model(model.clone().unwrap_or_default()),
    };
    Ok((subject, params.compute_type))
}

fn trained(r: &TrainReport, chinese: bool) -> String {
    let TrainReport { model, batch, length, compute, threads, .. } = r;
    let bits = r.quantization_bit.map(|bits| format!(" on {bits} bits")).filter(|_| !chinese);
    let bits = bits.or(r.quantization_bit.map(|bits| format!("（{bits} 位基座）"))).unwrap_or_default();
    let adapter = format!("{}{bits}", r.adapter);
    let (memory, millions) = (megabytes(r.peak_memory), r.trainable as f64 / 1e6);
    let lines = match chinese {
        true => format!(
            "{model}，{adapter}（训练 {millions:.2}M 参数），{batch} x {length}，{compute}，{threads} 线程\n\
             词元/秒         {:.1}\n\
             每步（中位数）  {:.1} ms\n\
             峰值内存        {memory}\n\
             启动到首步      {:.2} s\n\
             损失            {:.4} 到 {:.4}",
            r.tokens_per_s, r.step_ms, r.first_step_s, r.first_loss, r.last_loss
        ),
        false => format!(
            "{model}, {adapter} ({millions:.2}M parameters trained), {batch} x {length}, {compute}, {threads} threads\n\
             tokens/s             {:.1}\n\
             step (median)        {:.1} ms\n\
             peak memory          {memory}\n\
             start to first step  {:.2} s\n\
             loss                 {:.4} to {:.4}",
            r.tokens_per_s, r.step_ms, r.first_step_s, r.first_loss, r.last_loss
        ),
    };
    lines + &shares(&r.profile)
}

fn generated(r: &GenerateReport, chinese: bool) -> String {
    let GenerateReport { model, prompt, new, compute, threads, .. } = r;
    let memory = megabytes(r.peak_memory);
    let lines = match chinese {
        true => format!(
            "{model}，提示 {prompt} 词元，生成 {new} 词元，{compute}，{threads} 线程\n\
             提示，词元/秒   {:.1}\n\
             生成，词元/秒   {:.1}\n\
             峰值内存        {memory}\n\
             启动到首个词元  {:.2} s",
            r.prompt_per_s, r.decode_per_s, r.first_token_s
        ),
        false => format!(
            "{model}, prompt of {prompt} tokens, {new} after it, {compute}, {threads} threads\n\
             prompt tokens/s       {:.1}\n\
             new tokens/s          {:.1}\n\
             peak memory           {memory}\n\
             start to first token  {:.2} s",
            r.prompt_per_s, r.decode_per_s, r.first_token_s
        ),
    };
    let chats = r.chats.as_ref().map(|chats| chatted(chats, chinese)).unwrap_or_default();
    lines + &chats + &shares(&r.profile)
}

fn chatted(c: &ChatsReport, chinese: bool) -> String {
    let ChatsReport { chats, prompt, new, mixed, most_tokens, .. } = c;
    let ratio = c.at_once_per_s / c.in_a_row_per_s.max(1e-9);
    let (share, cache) = (c.utilisation * 100.0, megabytes(Some(c.cache_bytes)));
    match chinese {
        true => format!(
            "\n{chats} 个对话（提示 {prompt}，生成 {new} 词元）\n\
             逐个，词元/秒   {:.1}\n\
             同时，词元/秒   {:.1}（{ratio:.2} 倍）\n\
             {mixed} 个长短不一的请求\n\
             缓存页利用率    {share:.1} %\n\
             缓存            {cache}，同时最多 {most_tokens} 词元",
            c.in_a_row_per_s, c.at_once_per_s
        ),
        false => format!(
            "\n{chats} chats, prompts of {prompt} tokens, {new} after each\n\
             in a row, tokens/s    {:.1}\n\
             at once, tokens/s     {:.1} ({ratio:.2} times as many)\n\
             {mixed} requests of all lengths\n\
             pages filled          {share:.1} %\n\
             cache                 {cache}, at most {most_tokens} tokens at a time",
            c.in_a_row_per_s, c.at_once_per_s
        ),
    }
}

fn rolled_out(r: &RolloutReport, chinese: bool) -> String {
    let RolloutReport { model, prompts, answers, prompt, new, compute, threads, .. } = r;
    let (memory, share) = (megabytes(r.peak_memory), r.generation_share * 100.0);
    let ratio = r.rollout_tokens_per_s / r.alone_tokens_per_s.max(1e-9);
    match chinese {
        true => format!(
            "{model}，{prompts} 个提示（{prompt} 词元）各 {answers} 个回答（{new} 词元），{compute}，{threads} 线程\n             采样，词元/秒   {:.1}（逐个生成 {:.1}，{ratio:.2} 倍）\n             每步            {:.2} s，其中采样占 {share:.1} %\n             峰值内存        {memory}",
            r.rollout_tokens_per_s, r.alone_tokens_per_s, r.step_s
        ),
        false => format!(
            "{model}, {prompts} prompts of {prompt} tokens, {answers} answers of {new} to each, {compute}, {threads} threads\n             rollout tokens/s  {:.1} ({:.1} one by one, {ratio:.2} times as many)\n             step              {:.2} s, {share:.1} % of it in generation\n             peak memory       {memory}",
            r.rollout_tokens_per_s, r.alone_tokens_per_s, r.step_s
        ),
    }
}

fn packed(r: &PackingReport, chinese: bool) -> String {
    let PackingReport { model, batch, length, compute, threads, rows, packed, compared, .. } = r;
    let ratio = r.packed_per_s / r.unpacked_per_s.max(1e-9);
    match chinese {
        true => format!(
            "{model}，{compute}，{threads} 线程；{rows} 行装成 {packed} 个样本，每个至多 {length} 词元\n\
             {compared} 行的损失     最大相差 {:.1e}（均值 {:.4}）\n\
             词元/秒，逐行   {:.1}（批大小 {batch}）\n\
             词元/秒，打包   {:.1}（批大小 {batch}），{ratio:.2} 倍",
            r.worst, r.mean_loss, r.unpacked_per_s, r.packed_per_s
        ),
        false => format!(
            "{model}, {compute}, {threads} threads; {rows} rows in {packed} samples of {length} tokens at most\n\
             losses of {compared} rows    {:.1e} apart at most (mean {:.4})\n\
             tokens/s, one by one  {:.1} (batch {batch})\n\
             tokens/s, packed      {:.1} (batch {batch}), {ratio:.2} times as many",
            r.worst, r.mean_loss, r.unpacked_per_s, r.packed_per_s
        ),
    }
}

fn read(r: &DataReport, chinese: bool) -> String {
    let DataReport { model, threads, rows, .. } = r;
    let (size, above) = (r.bytes as f64 / 1e6, r.register_memory.zip(r.idle_memory).map(|(peak, idle)| peak - idle));
    let above = megabytes(above);
    let registered = match chinese {
        true => format!(
            "{size:.0} MB，{rows} 行，{threads} 线程\n登记            {:.0} MB/s（{:.2} s），比空闲时多占 {above}",
            r.register_mb_per_s, r.register_s
        ),
        false => format!(
            "{size:.0} MB, {rows} rows, {threads} threads\nregistered   {:.0} MB/s ({:.2} s), {above} above idle",
            r.register_mb_per_s, r.register_s
        ),
    };
    let Some(e) = &r.encoded else { return registered };
    let (tokens, peak) = (e.tokens, megabytes(e.peak_memory));
    let encoded = match chinese {
        true => format!(
            "编码（{model}）  {:.1} MB/s，{:.0} 词元/秒（{:.1} s，{tokens} 词元）\n取自缓存        {:.2} s\n峰值内存        {peak}",
            e.encode_mb_per_s, e.tokens_per_s, e.encode_s, e.again_s
        ),
        false => format!(
            "encoded      {:.1} MB/s, {:.0} tokens/s ({:.1} s, {tokens} tokens; {model})\n\
             from cache   {:.2} s\npeak memory  {peak}",
            e.encode_mb_per_s, e.tokens_per_s, e.encode_s, e.again_s
        ),
    };
    format!("{registered}\n{encoded}")
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".into(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6))
}

/// A line for each operation: share, seconds, calls.
fn shares(profile: &[Spent]) -> String {
    let line =
        |s: &Spent| format!("\n  {:<20} {:>5.1} % {:>9.3} s {:>8} x", s.name, s.share * 100.0, s.seconds, s.calls);
    profile.iter().map(line).collect()
}
