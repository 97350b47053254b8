//! The model: one decoder for all families, composed of blocks that know their own backward, with parameters named as
//! Hugging Face names them.

pub mod blocks;
mod build;
mod cache;
pub mod config;
mod decoder;
pub mod encoder_decoder;
pub mod families;
mod layout;
mod names;
pub mod network;
mod parameter;
mod pass;
mod rope;
mod virtual_tokens;

pub use build::{Attach, Source, build, build_as};
pub use cache::{Cache, PAGE};
pub use config::DecoderConfig;
pub use decoder::{Batch, Model, Piece};
pub use layout::{LayerLayout, LinearLayout};
pub use network::{Building, Layout, ModelConfig, Network};
pub use parameter::{Grads, Parameter, Store, Value};
pub use pass::{Keep, Pass, Weights};
pub use rope::{RopeConfig, RopeScaling};
pub use virtual_tokens::{Encode, Place, VirtualTokens};
