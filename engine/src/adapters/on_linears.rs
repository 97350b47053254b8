//! What LoRA, AdaLoRA, (IA)³ and OFT have in common: they change linears, and PEFT saves them alike.

use super::{
    Base, Precision, Tuning,
    extras::{Bias, Extras},
    targets::{Target, no_target},
    values::Values,
};
use crate::{
    Result,
    files::{
        adapter::{Targets, write_parts},
        export,
    },
    model::{Attach, Grads, Layout, LinearLayout, Network, Parameter, Store, blocks::Linear, network::Vocabulary},
};
use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// How one type changes linears.
pub trait Method: Send + Sync {
    /// The argument that names its linears.
    const TARGET: &'static str;
    /// What the tensor of an adapted linear that tells PEFT's folder of this type ends in, behind the linear's name.
    const MARK: &'static str;

    /// Trained values on a linear.
    fn count(&self, linear: &LinearLayout) -> u64;

    /// Refuses what doesn't fit the model, for example a rank that is too large.
    fn check(&self, linear: &LinearLayout) -> Result<()> {
        let _ = linear;
        Ok(())
    }

    /// See [`Tuning::changes_base`].
    fn changes_base(&self) -> Option<&'static str> {
        None
    }

    /// Puts it on the linear of this name, with what `values` has.
    fn attach(&self, name: &str, linear: Linear, values: &Values, store: &mut Store) -> Result<Linear>;

    /// `adapter_config.json`, given the keys that all types have.
    fn config(&self, common: Common) -> Result<Map<String, Value>>;

    /// Changes tensors and configuration on their way to the disk.
    fn written(&self, model: &dyn Network, written: Written, precision: Precision) -> Result<Written> {
        let _ = (model, precision);
        Ok(written)
    }

    /// See [`Tuning::rate_factor`].
    fn rate_factor(&self, parameter: &Parameter) -> f64 {
        let _ = parameter;
        1.0
    }

    /// See [`Tuning::begin`].
    fn begin(&self, steps: u64) -> Result<()> {
        let _ = steps;
        Ok(())
    }

    /// See [`Tuning::penalise`].
    fn penalise(&self, store: &Store, grads: &mut Grads) -> Result<f64> {
        let _ = (store, grads);
        Ok(0.0)
    }

    /// See [`Tuning::after_step`].
    fn after_step(&self, store: &Store, grads: &Grads, scale: f64, step: u64) -> Result<()> {
        let _ = (store, grads, scale, step);
        Ok(())
    }

    /// Writes what a resumed run needs besides the parameters.
    fn save_state(&self, dir: &Path) -> Result<()> {
        let _ = dir;
        Ok(())
    }

    fn restore_state(&self, checkpoint: &Path) -> Result<()> {
        let _ = checkpoint;
        Ok(())
    }
}

/// Keys of `adapter_config.json` that every type has.
pub struct Common {
    pub base: String,
    pub targets: Targets,
    pub modules_to_save: Option<Vec<String>>,
    pub bias: Bias,
    /// The base model stores its weights transposed.
    pub fan_in_fan_out: bool,
    pub tied: bool,
    pub task_type: &'static str,
}

impl Common {
    /// The configuration of a type whose own keys are `own`.
    pub fn with(self, peft_type: &str, own: Value) -> Map<String, Value> {
        let common = json!({
            "peft_type": peft_type,
            "task_type": self.task_type,
            "base_model_name_or_path": self.base,
            "target_modules": self.targets,
            "modules_to_save": self.modules_to_save,
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
        });
        let both = [common, own].into_iter().filter_map(|part| part.as_object().cloned());
        both.flatten().collect()
    }
}

/// What is to be written: tensors by the name of the model's part, and the configuration.
pub struct Written {
    pub tensors: BTreeMap<String, Tensor>,
    pub config: Map<String, Value>,
}

/// A tuning that puts `method` on linears, new or read from a PEFT folder.
pub struct OnLinears<M> {
    pub method: M,
    target: Target,
    extras: Extras,
    values: Values,
    /// Names that the run's own settings gave are checked.
    asked: bool,
}

impl<M: Method> OnLinears<M> {
    pub fn new(method: M, target: Target, extras: Extras) -> Self {
        Self { method, target, extras, values: Values::default(), asked: true }
    }

    /// What was saved: the linears are those that have a value.
    pub fn saved(method: M, extras: Extras, values: Values) -> Self {
        let names = values.names().filter_map(|name| name.strip_suffix(M::MARK)).map(str::to_owned).collect();
        Self { method, target: Target::Names(names), extras, values, asked: false }
    }

    /// Trains more of the base than what was saved did.
    pub fn and(mut self, more: Extras) -> Self {
        self.extras.whole.extend(more.whole);
        self.extras.vocabulary |= more.vocabulary;
        if more.bias != Bias::None {
            self.extras.bias = more.bias;
        }
        self
    }

    /// Whether the linear of this name carries the adapter: those that are trained whole don't.
    fn adapts(&self, name: &str) -> bool {
        self.target.matches(name) && !self.extras.holds(&format!("{name}.weight"))
    }

    fn chosen(&self, layout: &dyn Layout) -> Vec<LinearLayout> {
        layout.linears().into_iter().filter(|linear| self.adapts(&linear.name)).collect()
    }
}

impl<M: Method> Attach for OnLinears<M> {
    fn trains(&self, name: &str) -> bool {
        self.extras.trains(name, |module| self.adapts(module))
    }

    fn linear(&self, name: &str, linear: Linear, store: &mut Store) -> Result<Linear> {
        for parameter in [Some(&linear.weight), linear.bias.as_ref()].into_iter().flatten() {
            self.values.put(parameter)?;
        }
        match self.adapts(name) {
            true => self.method.attach(name, linear, &self.values, store),
            false => Ok(linear),
        }
    }
}

impl<M: Method> Tuning for OnLinears<M> {
    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)> {
        let all = layout.linears();
        for name in self.values.names().filter_map(|name| name.strip_suffix(M::MARK)) {
            if !all.iter().any(|linear| linear.name == name) {
                return Err(self.values.other_model(name, "—", "—"));
            }
        }
        if self.asked {
            self.extras.check(layout)?;
        }
        let chosen = self.chosen(layout);
        if chosen.is_empty() {
            return Err(no_target(M::TARGET, layout).into());
        }
        chosen.iter().try_for_each(|linear| self.method.check(linear))?;
        let own: u64 = chosen.iter().map(|linear| self.method.count(linear)).sum();
        let targets = super::targets::last_parts(chosen.iter().map(|linear| linear.name.as_str()));
        Ok((own + self.extras.count(layout, |module| self.adapts(module)), targets))
    }

    fn switches_off(&self) -> bool {
        self.extras.is_empty() && self.values.is_empty()
    }

    fn changes_base(&self) -> Option<&'static str> {
        self.method.changes_base()
    }

    fn place(&self, model: &dyn Network) -> Result<()> {
        self.values.place(model)
    }

    fn rate_factor(&self, parameter: &Parameter) -> f64 {
        self.method.rate_factor(parameter)
    }

    fn begin(&self, steps: u64) -> Result<()> {
        self.method.begin(steps)
    }

    fn penalise(&self, store: &Store, grads: &mut Grads) -> Result<f64> {
        self.method.penalise(store, grads)
    }

    fn after_step(&self, store: &Store, grads: &Grads, scale: f64, step: u64) -> Result<()> {
        self.method.after_step(store, grads, scale, step)
    }

    /// A PEFT folder: the adapter in float32 always, what was trained of the base as the precision says.
    fn save(&self, dir: &Path, model: &dyn Network, store: &Store, base: &Base, precision: Precision) -> Result<()> {
        let layout = model.layout();
        let Vocabulary { embedding, head, tied } = layout.vocabulary();
        let stored = match precision {
            Precision::Exact => DType::F32,
            Precision::Storage => export::storage_type(base.files),
        };
        let mut tensors = BTreeMap::new();
        for parameter in store.trainable() {
            let (name, mut value) = (parameter.name.clone(), parameter.stored(parameter.get())?);
            if self.trains(&name) {
                value = value.to_dtype(stored)?;
            }
            if tied && name == format!("{embedding}.weight") {
                tensors.insert(format!("{head}.weight"), value.clone());
            }
            // In PEFT's model an adapted linear stands inside its adapter.
            let inside = name.strip_suffix(".bias").filter(|module| self.adapts(module));
            tensors.insert(inside.map_or(name.clone(), |module| format!("{module}.base_layer.bias")), value);
        }
        let modules = self.extras.peft(store.trainable().map(AsRef::as_ref), layout);
        let names: Vec<String> = self.chosen(layout).into_iter().map(|linear| linear.name).collect();
        let common = Common {
            base: base.name.into(),
            targets: self.target.peft(&names),
            tied: tied && !modules.is_empty(),
            modules_to_save: (!modules.is_empty()).then_some(modules),
            bias: self.extras.bias,
            fan_in_fan_out: layout.transposed(),
            task_type: layout.task_type(),
        };
        let written = Written { tensors, config: self.method.config(common)? };
        let Written { tensors, config } = self.method.written(model, written, precision)?;
        if precision == Precision::Exact {
            self.method.save_state(dir)?;
        }
        write_parts(dir, config, &tensors)
    }

    fn restore(&self, store: &Store, checkpoint: &Path) -> Result<()> {
        super::restore_by_name(store, checkpoint)?;
        self.method.restore_state(checkpoint)
    }
}
