//! From exactly what was asked to everything resolved: model, tokenizer, template, samples, steps, memory; or all
//! problems at once.

mod encoder_decoder;
mod opened;

pub use opened::{Opened, encoder, open};

use crate::{
    Error, Places, Result,
    adapters::{self, Tuning},
    base,
    catalog::catalog,
    compute,
    data::{Cache, Encoder, LoadOptions, Loader, Needs, Reading, Registry, Samples},
    estimate::{self, fit, measure::Estimated},
    files::{ModelFiles, disk, grow::grown_note},
    kernels::{cpu::Compute, quantised::Quantisation},
    memory,
    model::ModelConfig,
    provenance::Machine,
    stages::{Sampled, Stage, online as rollout, reference, stage},
    train::{
        Order, Sampler,
        checkpoint::{Best, Space},
        optimizers,
    },
};
use api::{
    Plan, Problem, Problems, RunConfig, Text,
    params::{
        self, ComputeType, DataParams, MixStrategy, ModelParams, OptimizerParams, OutputParams, QuantizationParams,
        TrainParams,
    },
    plan::{Part, gigabytes},
};
use std::{cmp::Reverse, collections::BinaryHeap, path::PathBuf};

/// A training run with everything resolved; no weights are loaded yet.
pub struct Prepared {
    pub model: ModelParams,
    pub data: DataParams,
    pub train: TrainParams,
    pub optimizer: OptimizerParams,
    pub output: OutputParams,
    pub stage: &'static dyn Stage,
    pub tuning: Box<dyn Tuning>,
    pub files: ModelFiles,
    pub config: ModelConfig,
    pub compute: Compute,
    /// How the linears of the frozen base are kept, if not as in their files.
    pub quantisation: Option<Quantisation>,
    /// Whether activations are computed again on the way back.
    pub recompute: bool,
    pub encoder: Encoder,
    pub samples: Samples,
    pub eval: Samples,
    pub sampler: Sampler,
    /// What the run's files take.
    pub space: Space,
    pub estimated: Estimated,
    pub plan: Plan,
}

/// What a run asks for, as far as a kind of model may have no use for it.
struct Settings<'a> {
    model: &'a ModelParams,
    data: &'a DataParams,
    train: &'a TrainParams,
    quantization: &'a QuantizationParams,
}

/// Resolves a training run and encodes its datasets. `progress` hears rows encoded and rows in all, while that takes long; its
/// error ends the work.
pub fn prepare(
    config: &RunConfig,
    places: &Places,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Prepared> {
    resolve(config, places, Reading::Whole, progress)
}

/// What a training run will do. Of large datasets that were never encoded, only the beginning is read.
pub fn plan(config: &RunConfig, places: &Places) -> Result<Plan> {
    Ok(resolve(config, places, Reading::Beginning, &mut |_, _| Ok(()))?.plan)
}

fn resolve(
    config: &RunConfig,
    places: &Places,
    reading: Reading,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Prepared> {
    let mut problems = Problems::default();
    let ignored = check_keys(config, &mut problems);
    let model: ModelParams = read(config, &mut problems);
    let data: DataParams = read(config, &mut problems);
    let train: TrainParams = read(config, &mut problems);
    let optimizer: OptimizerParams = read(config, &mut problems);
    let quantization: QuantizationParams = read(config, &mut problems);
    let output: OutputParams = read(config, &mut problems);
    let stage = keep(stage(&train.stage), &mut problems);
    let quiet = stage.filter(|stage| !stage.drops_out()).map(|_| adapters::without_dropout(config));
    let tuned_by = quiet.as_ref().unwrap_or(config);
    let mut tuning = keep(adapters::start(&train.finetuning_type, tuned_by, &model), &mut problems);
    // What the stage refuses, it refuses before anything is read.
    let sampled = stage.and_then(|stage| {
        let started = keep(stage.start(config).map_err(Error::from), &mut problems);
        started.and(keep(stage.sampled(config, &train).map_err(Error::from), &mut problems))
    });
    let opened = keep(open(&model, places), &mut problems);
    if let (Some(tuning), Some(opened)) = (&mut tuning, &opened) {
        keep(tuning.tokenize(&opened.tokenizer.tokenizer), &mut problems);
    }
    let registry = Registry::open(dataset_dir(&data, places)).map(|registry| registry.also_in(&places.datasets()));
    let registry = keep(registry, &mut problems);
    if let (Some(registry), false) = (&registry, data.dataset.is_empty()) {
        for name in data.dataset.iter().chain(&data.eval_dataset) {
            keep(registry.entry(name), &mut problems);
        }
    }
    if data.dataset.is_empty() {
        problems.push(no_dataset());
    }
    problems.0.extend(wrong_shares(&data));
    problems.0.extend(stage.and_then(|stage| never_packed(stage, &data)));
    let settings = Settings { model: &model, data: &data, train: &train, quantization: &quantization };
    let refused = opened.as_ref().map(|opened| encoder_decoder::refused(opened, stage, &settings)).unwrap_or_default();
    let fits = refused.is_empty();
    problems.0.extend(refused);
    let counted = match (&tuning, &opened) {
        (Some(tuning), Some(opened)) if fits => keep(tuning.count(opened.config.layout()), &mut problems),
        _ => None,
    };
    if let (Some(tuning), Some(opened), true) = (&tuning, &opened, fits) {
        // What it trains depends on the model.
        if counted.is_some() {
            keep(tuning.meet(opened.config.layout()), &mut problems);
        }
        let tuning_type = &train.finetuning_type;
        keep(base::check(&quantization, tuning.as_ref(), opened.config.layout(), tuning_type), &mut problems);
        keep(optimizers::check(&train, &optimizer, tuning.as_ref(), opened.config.layout()), &mut problems);
    }
    let device = keep(crate::device::name(model.device.as_deref()), &mut problems);
    let compute = keep(ComputeType::asked(config, train.compute_type).map_err(Error::from), &mut problems)
        .zip(device.as_deref())
        .and_then(|((asked, field), device)| keep(compute::pick_for(device, asked, field), &mut problems));
    let (
        Some(stage),
        Some(sampled),
        Some(tuning),
        Some(opened),
        Some(registry),
        Some((trainable, targets)),
        Some(device),
        Some((compute, note)),
        true,
    ) = (stage, sampled, tuning, opened, registry, counted, device, compute, problems.is_empty())
    else {
        return Err(problems.into());
    };

    let (parameters, size) = (opened.config.layout().parameters(), compute.dtype().size_in_bytes() as u64);
    let quantised = base::quantisation(&quantization).map(|q| base::size(q, opened.config.layout()));
    let kept = base::bytes(parameters, size, quantised);
    let others = reference::kept(stage, config, &opened, tuning.as_ref(), places, [parameters * size, kept])?;
    let encoder = encoder(&opened, &data)?;
    let packing = data.packing.unwrap_or(stage.packs()) || data.neat_packing;
    let blocks = joins_rows(stage, &data);
    let options = LoadOptions {
        needs: stage.needs(),
        cutoff_len: data.cutoff_len,
        max_samples: data.max_samples,
        blocks,
        mix: data.mix_strategy,
        shares: data.interleave_probs.clone(),
        seed: train.seed,
    };
    let cache = Cache::new(places.tokens());
    let mut loader = Loader { registry: &registry, encoder: &encoder, cache: &cache, reading, progress };
    let loaded = loader.load(&data.dataset, &options)?;
    let (mut samples, mut eval) = loaded.samples.split(data.val_size, train.seed)?;
    if !data.eval_dataset.is_empty() {
        let options = LoadOptions { mix: MixStrategy::Concat, shares: Vec::new(), ..options };
        eval = eval.and(loader.load(&data.eval_dataset, &options)?.samples);
    }
    let (longest, crowded) = match sampled {
        None => {
            let longest = samples.longest().max(eval.longest());
            opened.config.check_length(longest, tuning.tokens_ahead())?;
            (longest, None)
        }
        Some(Sampled { tokens, .. }) => {
            let context = opened.config.decoder()?.context.saturating_sub(tuning.tokens_ahead());
            rollout::room([&samples, &eval], context, tokens)?
        }
    };
    if packing && !blocks && sampled.is_none() {
        samples = samples.packed(data.cutoff_len);
    }
    let sampler = match sampled {
        None => sampler(&samples, &train),
        Some(Sampled { prompts, .. }) => Sampler { batch: prompts, accumulation: 1, ..sampler(&samples, &train) },
    };
    let steps = steps(&sampler, &train);
    tuning.begin(steps * sampled.map_or(1, |sampled| sampled.updates as u64))?;
    let epochs = steps as f64 / sampler.steps_per_epoch().max(1) as f64;
    let tokens: u64 = (0..samples.len()).map(|i| samples.length(i) as u64).sum();
    let trained: u64 = (0..samples.len()).map(|i| samples.targets(i) as u64).sum();
    let validations = match eval.is_empty() {
        true => 0,
        false => {
            steps.div_ceil(if output.eval_steps > 0 { output.eval_steps } else { sampler.steps_per_epoch().max(1) })
        }
    };
    let validated = validations * (0..eval.len()).map(|i| eval.length(i) as u64).sum::<u64>();
    // No adapter beside the weights: what is trained and saved is the model itself.
    let full = trainable == opened.config.layout().parameters();
    let mut load = estimate::Load {
        parameters: opened.config.layout().parameters(),
        trainable,
        full,
        samples: (samples.len() + eval.len()) as u64,
        batch_tokens: largest_batch(&samples, &sampler, steps)
            + (tuning.tokens_ahead() * train.per_device_train_batch_size) as u64,
        total_tokens: (tokens as f64 * epochs + validated as f64 * estimate::FORWARD) as u64,
        trained_share: trained as f64 / tokens.max(1) as f64,
        compute: compute.dtype(),
        recompute: train.gradient_checkpointing,
        quantised,
        state: optimizers::bytes(&train, &optimizer, trainable),
        sampled: (0, 0),
    };
    if let Some(sampled) = sampled {
        load.sample(&sampled, &samples, train.per_device_train_batch_size, steps);
        if sampled.times > 1 {
            // A step of several updates keeps what was before it.
            load.state = 2 * load.state + trainable * 4;
        }
    }
    // Where nobody has decided, activations are computed again if they don't fit otherwise.
    let undecided = device == "cpu" && config.get("gradient_checkpointing").is_none();
    let too_large = if undecided { estimate::too_large(&opened.config, &load) } else { None };
    load.recompute |= too_large.is_some();
    let recompute = load.recompute;
    let machine =
        Machine { compute: compute::describe(&device, compute), threads: rayon::current_num_threads(), device };
    let estimated = Estimated::new(load, others, &opened.files, &train, &machine, places);
    let measured = estimated.measured();
    let (seconds, basis) = match &measured {
        Some(measured) => (measured.seconds(&load, steps), measured_basis()),
        None => estimate::seconds(&opened.config, &load),
    };
    let mut memory: Vec<Part> =
        estimate::by_part(&opened.config, &load).into_iter().chain(other_models(others)).collect();
    measured.iter().for_each(|measured| measured.correct(&mut memory));
    let saved = if tuning.saves_model() { load.parameters * 2 } else { trainable * 4 };
    let held = if tuning.saves_model() { load.parameters } else { trainable };
    Best::check(&output, stage, !eval.is_empty())?;
    let saves = if output.save_steps > 0 { steps.div_ceil(output.save_steps) } else { 1 };
    let pins_best = Best::wanted(&output, stage).is_some();
    let at_once = |limit| Space::at_once(saves + u64::from(pins_best), limit, pins_best);
    let space = Space {
        // A checkpoint holds weights in float32 and the optimizer's state.
        checkpoint: held * 4 + optimizers::bytes(&train, &optimizer, trainable),
        log: Space::log(steps / output.logging_steps.max(1)),
        saves,
        at_once: at_once(output.save_total_limit),
        result: saved,
    };
    let bits = QuantizationParams { quantization_bit: Some(4), ..QuantizationParams::default() };
    let can_be_quantised = quantised.is_none()
        && !full
        && base::check(&bits, tuning.as_ref(), opened.config.layout(), &train.finetuning_type).is_ok();
    let saving =
        estimate::saving(saves.saturating_mul(space.checkpoint.saturating_add(space.log / 2)).saturating_add(saved));
    let needs = fit::Needs {
        model: &opened.config,
        load,
        factor: measured.map_or(1.0, |measured| measured.factor()),
        others,
        batch: train.per_device_train_batch_size,
        accumulation: if sampled.is_some() { 0 } else { train.gradient_accumulation_steps },
        longest,
        in_4_bits: base::quantisation(&bits)
            .filter(|_| can_be_quantised)
            .map(|q| base::size(q, opened.config.layout())),
        disk: space,
        disk_with_fewest: Space { at_once: at_once(Some(1)), ..space },
    };
    let mut plan = Plan {
        model: model.model_name_or_path.clone(),
        family: opened.family.clone(),
        stage: train.stage.clone(),
        finetuning_type: train.finetuning_type.clone(),
        parameters: load.parameters,
        trainable,
        targets,
        template: opened.template_name.clone(),
        datasets: loaded.datasets,
        samples: samples.len() as u64,
        eval_samples: eval.len() as u64,
        tokens,
        trained_tokens: trained,
        longest: longest as u64,
        truncated: loaded.truncated,
        skipped: loaded.skipped,
        epochs,
        steps_per_epoch: sampler.steps_per_epoch(),
        steps,
        memory,
        checkpoint: space.checkpoint,
        disk: space.total(),
        compute: machine.compute,
        device: machine.device,
        seconds: Some(seconds + saving),
        basis,
        measured: measured.is_some(),
        warnings: loaded
            .notes
            .into_iter()
            .chain(note)
            .chain(crowded)
            .chain(too_large.map(recomputing))
            .chain(opened.grown.map(grown_note))
            .collect(),
        ignored,
        ..Plan::default()
    };
    let free_memory = if plan.device == "cpu" { memory::free() } else { None };
    needs.tell(free_memory, disk::free(&places.home), &mut plan);
    plan.warnings.extend(short_of_memory(&plan));
    let Opened { files, config, .. } = opened;
    Ok(Prepared {
        model,
        data,
        train,
        optimizer,
        output,
        stage,
        tuning,
        files,
        config,
        compute,
        quantisation: base::quantisation(&quantization),
        recompute,
        encoder,
        samples,
        eval,
        sampler,
        space,
        estimated,
        plan,
    })
}

/// The part of the memory that models besides the trained one take.
fn other_models(bytes: u64) -> Option<Part> {
    (bytes > 0).then(|| Part { name: Text::new("Other models", "其他模型"), bytes })
}

fn recomputing((needed, free): (u64, u64)) -> Problem {
    let [needed, free] = [needed, free].map(gigabytes);
    Problem::new(
        "recomputes",
        format!("Activations are computed again on the way back: keeping them takes {needed}, {free} are free."),
        format!("反向时将重算激活：全部保留需要 {needed}，而可用内存为 {free}。"),
    )
    .hint(
        "This takes about a third longer. Shorter rows, smaller batches or gradient_checkpointing: false avoid it.",
        "耗时约增加三分之一。缩短样本、减小批大小，或设置 gradient_checkpointing: false 可避免。",
    )
    .field("gradient_checkpointing")
}

fn measured_basis() -> Text {
    Text::new("measured with two steps of such a run on this computer", "依据在本机上实测的两步")
}

/// A warning where a run needs more memory than there is.
fn short_of_memory(plan: &Plan) -> Option<Problem> {
    let needed: u64 = plan.memory.iter().map(|part| part.bytes).sum();
    let free = plan.free_memory.filter(|free| needed > *free)?;
    let problem = Problem::new(
        "memory_short",
        format!("The run needs about {}, {} are free.", gigabytes(needed), gigabytes(free)),
        format!("此运行约需 {}，可用内存为 {}。", gigabytes(needed), gigabytes(free)),
    );
    let problem = match (&plan.fit, plan.remedies.is_empty()) {
        (Some(fit), _) => problem.steps([fit.step(Some(needed))]),
        (None, false) => problem.steps(plan.remedies.iter().map(|fix| fix.step(Some(needed)))),
        (None, true) => problem,
    };
    Some(problem.step(
        "Close other programs, or choose a smaller model or one in fewer bits.",
        "关闭其他程序，或选择更小、位数更低的模型。",
    ))
}

/// Whether a run joins texts to blocks, in which they see each other.
pub fn joins_rows(stage: &dyn Stage, data: &DataParams) -> bool {
    stage.needs() == Needs::Text && data.packing.unwrap_or(stage.packs()) && !data.neat_packing
}

/// The order of a run's samples.
pub fn sampler(samples: &Samples, train: &TrainParams) -> Sampler {
    let order = match (train.disable_shuffling, train.group_by_length) {
        (true, _) => Order::AsGiven,
        (false, true) => Order::Grouped((0..samples.len()).map(|i| samples.length(i) as u32).collect()),
        (false, false) => Order::Random,
    };
    Sampler {
        samples: samples.len(),
        batch: train.per_device_train_batch_size,
        accumulation: train.gradient_accumulation_steps,
        seed: train.seed,
        order,
    }
}

/// Folder with `dataset_info.json`.
pub fn dataset_dir(data: &DataParams, places: &Places) -> PathBuf {
    data.dataset_dir.as_deref().filter(|d| !d.is_empty()).map_or_else(|| places.datasets(), PathBuf::from)
}

fn steps(sampler: &Sampler, train: &TrainParams) -> u64 {
    if train.max_steps > 0 {
        return train.max_steps as u64;
    }
    (train.num_train_epochs * sampler.steps_per_epoch() as f64).ceil() as u64
}

/// Tokens of the largest micro-batch of a run. Of a very long one it is the largest that could come up.
fn largest_batch(samples: &Samples, sampler: &Sampler, steps: u64) -> u64 {
    if steps.saturating_mul((sampler.batch * sampler.accumulation) as u64) <= MOST_LOOKED_AT {
        let batches = sampler.clone().steps(0).take(steps as usize).flatten();
        return batches.map(|batch| samples.tokens_of(&batch)).max().unwrap_or(0);
    }
    let mut longest = BinaryHeap::new();
    for i in 0..samples.len() {
        longest.push(Reverse(samples.length(i) as u64));
        if longest.len() > sampler.batch {
            longest.pop();
        }
    }
    longest.iter().map(|Reverse(n)| n).sum()
}

/// Samples of all steps up to which each step is looked at.
const MOST_LOOKED_AT: u64 = 1_000_000;

/// Reports unknown keys, and returns those without effect.
fn check_keys(config: &RunConfig, problems: &mut Problems) -> Vec<String> {
    let catalog = catalog();
    let groups = catalog.groups.iter().map(|group| &group.schema);
    let cards = catalog.stages.iter().chain(&catalog.adapters).map(|card| &card.schema);
    problems.0.extend(params::check_keys(config, groups.chain(cards), &[]));
    catalog.ignored.into_iter().map(|i| i.name).filter(|name| config.get(name).is_some()).collect()
}

fn read<T: schemars::JsonSchema + serde::de::DeserializeOwned + Default>(
    config: &RunConfig,
    problems: &mut Problems,
) -> T {
    params::read(config).unwrap_or_else(|found: Problems| {
        // What is left of the group still names the stage, the model and so on, whose problems belong in the same answer.
        let mut rest = config.clone();
        found.0.iter().filter_map(|p| p.field.as_deref()).for_each(|field| rest.remove(field));
        problems.0.extend(found.0);
        params::read(&rest).unwrap_or_default()
    })
}

fn keep<T>(result: Result<T>, problems: &mut Problems) -> Option<T> {
    result.map_err(|e| problems.0.extend(e.into_problems())).ok()
}

fn no_dataset() -> Problem {
    Problem::new("no_dataset", "No dataset is chosen.", "未选择数据集。")
        .hint("Set dataset, for example to identity.", "请设置 dataset，例如 identity。")
        .field("dataset")
}

/// A problem unless there is a positive share for each dataset, or none at all.
fn wrong_shares(data: &DataParams) -> Option<Problem> {
    let (shares, datasets) = (data.interleave_probs.len(), data.dataset.len());
    let fine = data.interleave_probs.iter().all(|share| share.is_finite() && *share > 0.0);
    if shares == 0 || (shares == datasets && fine) {
        return None;
    }
    let problem = match fine {
        true => Problem::new(
            "wrong_shares",
            format!("interleave_probs has {shares} shares for {datasets} datasets."),
            format!("interleave_probs 有 {shares} 个比例，而数据集有 {datasets} 个。"),
        ),
        false => Problem::new(
            "wrong_shares",
            "interleave_probs has a share that isn't above 0.",
            "interleave_probs 中有不大于 0 的比例。",
        ),
    };
    let hint = "Give one positive number for each dataset, for example 0.7,0.3.";
    Some(problem.hint(hint, "请为每个数据集给出一个正数，例如 0.7,0.3。").field("interleave_probs"))
}

/// A problem where samples are asked to be packed that are pairs, or prompts to be answered.
fn never_packed(stage: &dyn Stage, data: &DataParams) -> Option<Problem> {
    let field = match (data.packing, data.neat_packing) {
        (Some(true), _) => "packing",
        (_, true) => "neat_packing",
        _ => return None,
    };
    let (code, does, zh) = match stage.needs() {
        Needs::Prompts => ("packing_prompts", "answers prompts by itself", "自行回答提示"),
        needs if needs.sequences() > 1 => ("packing_pairs", "compares answers two by two", "成对比较回答"),
        _ => return None,
    };
    let name = stage.card().name;
    let problem = Problem::new(
        code,
        format!("{field} is on, but the stage {name} {does} and packs nothing."),
        format!("{field} 已开启，但 {name} 阶段{zh}，不做打包。"),
    );
    let hint = "Turn it off: batches have no padding in any case.";
    Some(problem.hint(hint, "请关闭它：批次本来就没有填充。").field(field))
}
