//! Tools that an answer may call, and the form of one that has to: the engine then writes nothing else than a call.

use super::request::refused;
use crate::error::Reply;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// Whether the model may call tools, has to, or has to call this one.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    Mode(ToolMode),
    Named { function: ToolName },
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolMode {
    None,
    Auto,
    Required,
}

#[derive(Deserialize, JsonSchema)]
pub struct ToolName {
    name: String,
}

/// What a request says of tools.
#[derive(Debug, Default, PartialEq)]
pub struct Tools {
    /// For the chat template.
    pub list: Option<Value>,
    /// What the answer must look like, as `response_format` has it.
    pub format: Option<Value>,
}

/// The tools of a request, checked.
pub fn read(tools: Option<Vec<Value>>, choice: Option<ToolChoice>) -> Reply<Tools> {
    let tools = tools.unwrap_or_default();
    for (i, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" || !tool["function"]["name"].is_string() {
            return Err(refused(
                &format!("tools[{i}]"),
                format!("tools[{i}] isn't a function with a name."),
                format!("tools[{i}] 不是有名称的函数。"),
                [
                    "Write {\"type\": \"function\", \"function\": {\"name\": …}}.",
                    "请写成 {\"type\": \"function\", \"function\": {\"name\": …}}。",
                ],
            ));
        }
    }
    let must = match &choice {
        Some(ToolChoice::Mode(ToolMode::None)) => return Ok(Tools::default()),
        None | Some(ToolChoice::Mode(ToolMode::Auto)) => Vec::new(),
        Some(ToolChoice::Mode(ToolMode::Required)) if tools.is_empty() => return Err(no_such_tool("required")),
        Some(ToolChoice::Mode(ToolMode::Required)) => tools.iter().collect(),
        Some(ToolChoice::Named { function }) => {
            let named = tools.iter().find(|tool| tool["function"]["name"] == function.name.as_str());
            vec![named.ok_or_else(|| no_such_tool(&function.name))?]
        }
    };
    let format = (!must.is_empty()).then(|| {
        let mut calls: Vec<Value> = must.into_iter().map(call).collect();
        let schema = if calls.len() == 1 { calls.remove(0) } else { json!({ "anyOf": calls }) };
        json!({ "type": "json_schema", "json_schema": { "name": "call", "strict": true, "schema": schema } })
    });
    Ok(Tools { list: (!tools.is_empty()).then(|| tools.into()), format })
}

/// The schema of a call of a tool.
fn call(tool: &Value) -> Value {
    let arguments = match &tool["function"]["parameters"] {
        Value::Object(schema) if !schema.is_empty() => json!(schema),
        _ => json!({ "type": "object", "properties": {} }),
    };
    json!({
        "type": "object",
        "properties": { "name": { "enum": [tool["function"]["name"]] }, "arguments": arguments },
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

fn no_such_tool(name: &str) -> crate::error::Failure {
    let name: String = name.chars().take(100).collect();
    refused(
        "tool_choice",
        format!("tool_choice is {name:?}, and tools has nothing of that kind."),
        format!("tool_choice 为 {name:?}，而 tools 中没有对应的工具。"),
        ["Name a function of tools, or leave it out.", "请指定 tools 中的函数，或省略该参数。"],
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_must_be_called_is_a_schema_of_its_call() {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}});
        let read = |tools: &[Value], choice: Value| read(Some(tools.to_vec()), serde_json::from_value(choice).unwrap());
        let schema = |tools: Tools| tools.format.unwrap()["json_schema"]["schema"].take();

        let (a, b) = (tool("a"), tool("b"));
        let named = json!({"type": "function", "function": {"name": "b"}});
        let one = schema(read(&[a.clone(), b.clone()], named).unwrap());
        assert_eq!(one["properties"]["name"]["enum"], json!(["b"]));
        assert_eq!(one["properties"]["arguments"], b["function"]["parameters"]);
        let any = schema(read(&[a.clone(), b.clone()], json!("required")).unwrap());
        assert_eq!(any["anyOf"].as_array().unwrap().len(), 2);

        let auto = read(std::slice::from_ref(&a), Value::Null).unwrap();
        assert_eq!((auto.list, auto.format), (Some(json!([a])), None));
        assert_eq!(read(std::slice::from_ref(&a), json!("none")).unwrap(), Tools::default());
        for (tools, choice) in [(vec![], json!("required")), (vec![a], json!({"function": {"name": "c"}}))] {
            assert_eq!(read(&tools, choice).unwrap_err().problems[0].field.as_deref(), Some("tool_choice"));
        }
        assert!(read(&[json!({"type": "function"})], Value::Null).is_err());
    }
}
