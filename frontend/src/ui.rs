//! What the person prefers: language, theme, argument names. Remembered in the browser.

use crate::i18n::{Language, Words};
use leptos::prelude::*;

#[derive(Clone, Copy)]
pub struct Ui {
    pub language: RwSignal<Language>,
    /// `light`, `dark`, or nothing for the system's.
    pub theme: RwSignal<Option<&'static str>>,
    /// Show LLaMA-Factory's argument names beside the labels.
    pub names: RwSignal<bool>,
}

impl Ui {
    /// Reads what was remembered and gives it to all components.
    pub fn provide() -> Self {
        let tag = remembered("language").or_else(|| window().navigator().language()).unwrap_or_default();
        let theme = match remembered("theme").as_deref() {
            Some("light") => Some("light"),
            Some("dark") => Some("dark"),
            _ => None,
        };
        let ui = Self {
            language: RwSignal::new(Language::from_tag(&tag)),
            theme: RwSignal::new(theme),
            names: RwSignal::new(remembered("names").is_some()),
        };
        provide_context(ui);
        Effect::new(move || {
            if let Some(root) = document().document_element() {
                let _ = root.set_attribute("lang", ui.language.get().tag());
                let _ = match ui.theme.get() {
                    Some(theme) => root.set_attribute("data-theme", theme),
                    None => root.remove_attribute("data-theme"),
                };
                let _ =
                    if ui.names.get() { root.set_attribute("class", "keys") } else { root.remove_attribute("class") };
            }
        });
        ui
    }

    pub fn switch_language(self) {
        let language = self.language.get_untracked().other();
        remember("language", Some(language.tag()));
        self.language.set(language);
    }

    pub fn switch_theme(self) {
        let system_dark =
            window().match_media("(prefers-color-scheme: dark)").ok().flatten().is_some_and(|query| query.matches());
        let dark = self.theme.get_untracked().map_or(system_dark, |theme| theme == "dark");
        let theme = if dark { "light" } else { "dark" };
        remember("theme", Some(theme));
        self.theme.set(Some(theme));
    }

    pub fn show_names(self, on: bool) {
        remember("names", on.then_some("1"));
        self.names.set(on);
    }
}

/// The language of the page. Pages are drawn anew when it changes, so nothing needs to follow it.
pub fn language() -> Language {
    use_context::<Ui>().map_or_else(Language::default, |ui| ui.language.get_untracked())
}

pub fn words() -> &'static Words {
    language().words()
}

/// What the browser remembers under a name.
pub fn remembered(name: &str) -> Option<String> {
    window().local_storage().ok().flatten()?.get_item(&format!("lathe.{name}")).ok().flatten()
}

/// Remembers a value, or forgets it. A browser that allows no storage is no problem.
pub fn remember(name: &str, value: Option<&str>) {
    if let Some(storage) = window().local_storage().ok().flatten() {
        let key = format!("lathe.{name}");
        let _ = match value {
            Some(value) => storage.set_item(&key, value),
            None => storage.remove_item(&key),
        };
    }
}

/// Whether a key goes into a field, so that it is no command.
pub fn is_typing(event: &web_sys::KeyboardEvent) -> bool {
    use wasm_bindgen::JsCast;
    event.target().is_some_and(|target| {
        let element = target.dyn_ref::<web_sys::Element>();
        element.is_some_and(|e| matches!(e.tag_name().as_str(), "INPUT" | "TEXTAREA" | "SELECT"))
    })
}
