//! What a model said, as HTML. The text is hostile: raw HTML is shown as text, images are their description, and only
//! web and mail addresses become links.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

/// HTML of a Markdown text, safe to put into the page. A button with the word `copy` stands above each block of code: the code
/// is the element after it.
pub fn to_html(text: &str, copy: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut links = Vec::new();
    let events = Parser::new_ext(text, options).filter_map(move |event| match event {
        Event::Html(raw) | Event::InlineHtml(raw) => Some(Event::Text(raw)),
        Event::Start(Tag::HtmlBlock) => Some(Event::Start(Tag::Paragraph)),
        Event::End(TagEnd::HtmlBlock) => Some(Event::End(TagEnd::Paragraph)),
        Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => None,
        // The alignment of columns is an inline style, which the Content-Security-Policy forbids.
        Event::Start(Tag::Table(columns)) => {
            Some(Event::Start(Tag::Table(vec![pulldown_cmark::Alignment::None; columns.len()])))
        }
        Event::Start(Tag::Link { dest_url, .. }) => {
            let safe = is_safe(&dest_url);
            links.push(safe);
            safe.then(|| {
                let opening =
                    format!("<a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">", escape(&dest_url));
                Event::InlineHtml(opening.into())
            })
        }
        Event::End(TagEnd::Link) => links.pop().unwrap_or(false).then(|| Event::InlineHtml("</a>".into())),
        Event::SoftBreak => Some(Event::HardBreak),
        other => Some(other),
    });
    let opening = format!(
        "<figure class=\"code\"><button type=\"button\" class=\"btn quiet s\" data-copy>{}</button>",
        escape(copy)
    );
    let events = events.flat_map(move |event| match event {
        Event::Start(Tag::CodeBlock(_)) => [Some(Event::Html(opening.clone().into())), Some(event)],
        Event::End(TagEnd::CodeBlock) => [Some(event), Some(Event::Html("</figure>".into()))],
        event => [Some(event), None],
    });
    let events = events.flatten();
    let mut out = String::with_capacity(text.len() * 2);
    html::push_html(&mut out, events);
    out
}

fn is_safe(address: &str) -> bool {
    let lower = address.to_ascii_lowercase();
    ["https://", "http://", "mailto:"].iter().any(|scheme| lower.starts_with(scheme))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(text: &str) -> String {
        to_html(text, "Copy")
    }

    #[test]
    fn common_markdown_is_drawn() {
        assert_eq!(
            html("I am **Ada**.\n\n- one\n- two"),
            "<p>I am <strong>Ada</strong>.</p>\n<ul>\n<li>one</li>\n<li>two</li>\n</ul>\n"
        );
        let code = html("```rust\nlet x = 1 < 2;\n```");
        assert!(code.contains("1 &lt; 2") && code.contains("data-copy>Copy</button>\n<pre>"), "{code}");
        assert!(html("| a | b |\n|--:|:-:|\n| 1 | 2 |").contains("<td>1</td>"));
    }

    #[test]
    fn nothing_hostile_comes_through() {
        for text in [
            "<script>alert(1)</script>",
            "hello <img src=x onerror=alert(1)> there",
            "<div onclick=\"x()\">\n\nhi\n\n</div>",
            "[click](javascript:alert(1))",
            "[click](JaVaScRiPt:alert(1))",
            "[click](data:text/html,<script>)",
            "![x](https://example.com/track.png)",
            "<javascript:alert(1)>",
            "[a]: javascript:alert(1)\n\n[a]",
            "[q](<https://e.com/\"onmouseover=\"x>)",
            "| a |\n|--:|\n| <b style=x> |",
            "```\"><script>\nx\n```",
        ] {
            let html = html(text);
            for bad in [
                "<script",
                "<img",
                "<div",
                "<b ",
                "href=\"j",
                "href=\"J",
                "href=\"d",
                " style=\"",
                "\" onmouse",
                "\"onmouse",
            ] {
                assert!(!html.contains(bad), "{text:?} gave {html:?}");
            }
        }
    }
}
