//! OFT (Qiu et al., 2023): the inputs of frozen linears are turned by trained orthogonal blocks, which keeps the angles
//! between neurons, as PEFT 0.18 has it.

use super::{
    Adapter, Tuning,
    extras::{Bias, Extras},
    on_linears::{Common, Method, OnLinears},
    targets::Target,
    values::Values,
};
use crate::{
    Result,
    entry::Entry,
    files::adapter::read_config_as,
    model::{
        LinearLayout, Store,
        blocks::{Linear, Rotate},
    },
};
use api::{Card, Problem, Problems, RunConfig, Text, catalog::ui, params};
use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

pub struct Oft;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OftParams {
    /// Width of a turned block of inputs. A width that doesn't divide the inputs is moved to the nearest that does. 0: from
    /// oft_rank.
    #[schemars(range(min = 0, max = 1024), extend("ui" = ui(["Block size", "块大小"], "每个旋转块包含多少个输入；不能整除时取最近的可整除值。0 表示由 oft_rank 决定。", ["Higher: can learn more, larger file; usual 16 to 64", "调高：能学得更多，文件更大；常用 16 到 64"])))]
    pub oft_block_size: usize,
    /// Number of blocks of a linear, where the block size is 0.
    #[schemars(range(min = 0, max = 65536), extend("ui" = ui(["Blocks", "块数"], "每个线性层的块数，块大小为 0 时使用。", ["Higher: smaller blocks", "调高：块更小"])))]
    pub oft_rank: usize,
    /// Linears that are turned: all, names such as q_proj,v_proj, or a regular expression over whole names.
    #[schemars(extend("ui" = ui(["Targets", "目标层"], "旋转哪些线性层的输入：all、q_proj,v_proj 这样的名称，或匹配全名的正则表达式。", ["Fewer: smaller and faster, learns less", "更少：更小更快，学得也少"])))]
    pub oft_target: String,
    /// One rotation for all blocks of a linear.
    #[schemars(extend("ui" = ui(["Shared block", "共享块"], "同一线性层的各块共用一个旋转。", ["Smaller file, learns less", "文件更小，学得更少"])))]
    pub block_share: bool,
    /// Trained whole and saved beside the adapter: modules by name, such as embed_tokens, lm_head or norm.
    #[schemars(extend("ui" = ui(["Trained whole", "完整训练的模块"], "完整训练并随适配器保存的模块，例如 embed_tokens、lm_head 或 norm。", ["For new tokens", "用于新增词元"])))]
    pub additional_target: Vec<String>,
}

impl Default for OftParams {
    fn default() -> Self {
        Self {
            oft_block_size: 32,
            oft_rank: 0,
            oft_target: "all".into(),
            block_share: false,
            additional_target: Vec::new(),
        }
    }
}

impl Entry for Oft {
    fn card(&self) -> Card {
        Card {
            name: "oft".into(),
            title: Text::new("OFT", "OFT"),
            help: Text::new(
                "Turns what linears see and leaves their weights as they are: keeps what the model knows.",
                "旋转线性层的输入而不改动权重：较好地保留模型已有的知识。",
            ),
            schema: params::schema::<OftParams>(),
        }
    }
}

impl Adapter for Oft {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        let params: OftParams = params::read(config)?;
        let extras = Extras::asked(&params.additional_target, Bias::None, config);
        if (params.oft_block_size == 0) == (params.oft_rank == 0) {
            let (size, rank) = (params.oft_block_size, params.oft_rank);
            return Err(Problem::new(
                "oft_size",
                format!(
                    "oft_block_size is {size} and oft_rank is {rank}; one of them must be 0, the other says the size."
                ),
                format!("oft_block_size 为 {size}，oft_rank 为 {rank}；两者须恰有一个为 0，由另一个决定大小。"),
            )
            .hint("Set oft_block_size to 32 and oft_rank to 0.", "请将 oft_block_size 设为 32，oft_rank 设为 0。")
            .field("oft_block_size")
            .into());
        }
        let tuning = match previous {
            None => Target::parse(&params.oft_target, Rotates::TARGET).map(|target| {
                let OftParams { oft_block_size: size, oft_rank: blocks, block_share: shared, .. } = params;
                OnLinears::new(Rotates { size, blocks, shared, terms: TERMS }, target, extras)
            }),
            Some(dir) => read(dir).map(|tuning| tuning.and(extras)),
        };
        tuning.map(|t| Box::new(t) as _).map_err(|e| Problems(e.into_problems()))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some("OFT")
    }

    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Ok(Box::new(read(dir)?))
    }
}

/// Terms of the series that stands for Cayley's transform.
const TERMS: usize = 5;

/// What of `adapter_config.json` changes the result.
#[derive(Deserialize)]
#[serde(default)]
struct Saved {
    r: usize,
    oft_block_size: usize,
    coft: bool,
    block_share: bool,
    use_cayley_neumann: bool,
    num_cayley_neumann_terms: usize,
    bias: String,
    modules_to_save: Vec<String>,
}

impl Default for Saved {
    fn default() -> Self {
        Self {
            r: 0,
            oft_block_size: 32,
            coft: false,
            block_share: false,
            use_cayley_neumann: true,
            num_cayley_neumann_terms: TERMS,
            bias: "none".into(),
            modules_to_save: Vec::new(),
        }
    }
}

fn read(dir: &Path) -> Result<OnLinears<Rotates>> {
    let saved: Saved = read_config_as(dir)?;
    let refused = [
        (saved.coft, "coft"),
        (!saved.use_cayley_neumann, "use_cayley_neumann: false"),
        (saved.num_cayley_neumann_terms < 2, "num_cayley_neumann_terms under 2"),
        ((saved.r == 0) == (saved.oft_block_size == 0), "neither or both of r and oft_block_size"),
    ];
    if let Some((_, setting)) = refused.iter().find(|(set, _)| *set) {
        let shown = dir.display();
        return Err(Problem::new(
            "adapter_kind",
            format!("{shown} is no OFT adapter that Lathe can read: it has {setting}."),
            format!("{shown} 不是 Lathe 可读取的 OFT 适配器：它含有 {setting}。"),
        )
        .hint("Use an adapter without it.", "请使用不含此设置的适配器。")
        .field("adapter_name_or_path")
        .into());
    }
    let method = Rotates {
        size: saved.oft_block_size,
        blocks: saved.r,
        shared: saved.block_share,
        terms: saved.num_cayley_neumann_terms,
    };
    let bias = match saved.bias.as_str() {
        "none" => Bias::None,
        "all" => Bias::All,
        _ => Bias::LoraOnly,
    };
    let extras = Extras { whole: saved.modules_to_save, vocabulary: false, bias };
    Ok(OnLinears::saved(method, extras, Values::read(dir)?))
}

struct Rotates {
    /// Width of a block, or 0 and `blocks` says how many there are.
    size: usize,
    blocks: usize,
    shared: bool,
    terms: usize,
}

impl Rotates {
    /// Width and number of the blocks of a linear: what doesn't divide its inputs is moved to the nearest number that
    /// does, the lower one of two.
    fn blocks(&self, inp: usize) -> (usize, usize) {
        match self.size {
            0 => {
                let blocks = nearest_divisor(inp, self.blocks);
                (inp / blocks, blocks)
            }
            size => {
                let size = nearest_divisor(inp, size);
                (size, inp / size)
            }
        }
    }
}

fn nearest_divisor(n: usize, wish: usize) -> usize {
    let divides = |d: &usize| n.is_multiple_of(*d);
    if wish >= n {
        return n;
    }
    let above = (wish..=n).find(divides).unwrap_or(n);
    let below = (1..=wish).rev().find(divides).unwrap_or(1);
    if wish - below <= above - wish { below } else { above }
}

impl Method for Rotates {
    const TARGET: &'static str = "oft_target";
    const MARK: &'static str = ".oft_R.weight";

    fn count(&self, linear: &LinearLayout) -> u64 {
        let (size, blocks) = self.blocks(linear.inp);
        (if self.shared { 1 } else { blocks } * size * (size - 1) / 2) as u64
    }

    fn attach(&self, name: &str, linear: Linear, values: &Values, store: &mut Store) -> Result<Linear> {
        let ((inp, _), device) = (linear.dims()?, linear.weight.device());
        let (size, blocks) = self.blocks(inp);
        if size < 2 {
            return Ok(linear);
        }
        let shape = [if self.shared { 1 } else { blocks }, size * (size - 1) / 2];
        let name = format!("{name}{}", Self::MARK);
        let value = match values.get(&name, &shape, &device)? {
            Some(saved) => saved,
            None => Tensor::zeros(&shape, DType::F32, &device)?,
        };
        let patch = Rotate { triangles: store.add(name, value), size, terms: self.terms };
        Ok(Linear { patch: Some(Box::new(patch)), ..linear })
    }

    fn config(&self, common: Common) -> Result<Map<String, Value>> {
        let bias = match common.bias {
            Bias::None => "none",
            Bias::All => "all",
            Bias::LoraOnly => "oft_only",
        };
        let own = json!({
            "r": self.blocks, "oft_block_size": self.size, "block_share": self.shared, "module_dropout": 0.0,
            "coft": false, "use_cayley_neumann": true, "num_cayley_neumann_terms": self.terms, "init_weights": true,
            "bias": bias, "peft_version": crate::files::adapter::PEFT_VERSION,
        });
        Ok(common.with("OFT", own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PEFT's `adjust_oft_parameters`.
    #[test]
    fn sizes_that_do_not_divide_are_moved_to_the_nearest() {
        for (n, wish, found) in [(576, 32, 32), (576, 31, 32), (48, 32, 24), (48, 100, 48), (49, 32, 49), (24, 10, 8)] {
            assert_eq!(nearest_divisor(n, wish), found, "{n}, {wish}");
        }
    }
}
