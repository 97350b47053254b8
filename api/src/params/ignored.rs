//! LLaMA-Factory arguments that Lathe accepts and has no need of, each with the reason.

use crate::catalog::{Ignored, Text};

/// Every accepted argument without effect.
pub fn ignored() -> Vec<Ignored> {
    let table: &[(&[&str], [&str; 2])] = &[
        (
            &["do_train", "do_eval", "do_predict", "predict_with_generate"],
            ["The command says what is done.", "由命令决定做什么。"],
        ),
        (
            &[
                "preprocessing_num_workers",
                "dataloader_num_workers",
                "overwrite_cache",
                "preprocessing_batch_size",
                "tokenized_path",
                "streaming",
                "buffer_size",
            ],
            [
                "Lathe reads data as fast as it is needed, without a cache to manage.",
                "Lathe 按需读取数据，无需管理缓存。",
            ],
        ),
        (
            &["loraplus_lr_embedding"],
            [
                "LoRA is put on linears; an embedding is trained whole, at the usual rate.",
                "LoRA 只加在线性层上；嵌入若训练则完整训练，使用通常的学习率。",
            ],
        ),
        (
            &["reward_model_quantization_bit", "ref_model_quantization_bit"],
            [
                "Other models on the base of the run are kept in as few bits as it is.",
                "与本次运行同一基座的其他模型使用与其相同的量化位数。",
            ],
        ),
        (&["reward_model_adapters"], ["reward_model names the adapter.", "适配器由 reward_model 指定。"]),
        (
            &[
                "galore_proj_type",
                "apollo_proj",
                "apollo_proj_type",
                "badam_mode",
                "badam_update_ratio",
                "badam_mask_mode",
            ],
            [
                "Lathe has the usual form of each: the standard projection, and BAdam by layers.",
                "Lathe 采用各方法的常用形式：标准投影，BAdam 按层进行。",
            ],
        ),
        (&["pref_bco_weight"], ["Lathe has no loss called bco_pair.", "Lathe 没有名为 bco_pair 的损失。"]),
        (&["trust_remote_code"], ["Lathe never runs code from a model folder.", "Lathe 从不运行模型文件夹中的代码。"]),
        (
            &["tf32", "infer_dtype", "upcast_layernorm", "upcast_lmhead_output"],
            [
                "compute_type says it; sums and norms are in float32 always.",
                "由 compute_type 决定；求和与归一化始终使用 float32。",
            ],
        ),
        (
            &[
                "flash_attn",
                "use_unsloth",
                "enable_liger_kernel",
                "low_cpu_mem_usage",
                "infer_backend",
                "use_fast_tokenizer",
                "split_special_tokens",
            ],
            ["Lathe has its own kernels.", "Lathe 使用自己的算子。"],
        ),
        (
            &["ddp_timeout", "ddp_find_unused_parameters", "local_rank", "deepspeed", "fsdp", "cutoff_strategy"],
            ["This version runs on one device.", "此版本在单个设备上运行。"],
        ),
        (
            &[
                "plot_loss",
                "report_to",
                "include_num_input_tokens_seen",
                "log_level",
                "disable_tqdm",
                "logging_first_step",
                "logging_dir",
            ],
            ["The studio draws the curves.", "曲线由工作室绘制。"],
        ),
        (
            &["export_device", "export_hub_model_id", "hub_model_id", "push_to_hub", "hf_hub_token"],
            ["Lathe exports on the CPU to a folder.", "Lathe 在 CPU 上导出到文件夹。"],
        ),
        (
            &[
                "save_strategy",
                "eval_strategy",
                "evaluation_strategy",
                "eval_on_start",
                "per_device_eval_batch_size",
                "save_only_model",
                "save_safetensors",
            ],
            ["save_steps and eval_steps say when.", "由 save_steps 和 eval_steps 决定时机。"],
        ),
        (
            &["disable_gradient_checkpointing", "use_reentrant_gc"],
            ["gradient_checkpointing says it.", "由 gradient_checkpointing 决定。"],
        ),
        (
            &["galore_layerwise", "apollo_layerwise", "badam_verbose"],
            ["Lathe steps through one parameter after another.", "Lathe 逐个更新参数。"],
        ),
        (
            &["ignore_pad_token_for_loss", "dataset_shards", "remove_unused_columns"],
            ["Lathe has no padding.", "Lathe 不做填充。"],
        ),
    ];
    let entry = |name: &&str, why: [&str; 2]| Ignored { name: (*name).into(), why: Text::new(why[0], why[1]) };
    table.iter().flat_map(|(names, why)| names.iter().map(move |name| entry(name, *why))).collect()
}
