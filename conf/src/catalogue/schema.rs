//! JSON schemas of the TOML files, for editors and for checks before a file reaches a station.

use serde_json::{Map, Value, json};

use super::{Default, File, Kind, Setting};

/// The schema of `file` (JSON Schema, draft 2020-12).
pub fn schema(file: File) -> Value {
    let mut schema = table(file.settings());
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(file.name());
    schema
}

fn table(settings: &[Setting]) -> Value {
    let properties: Map<String, Value> =
        settings.iter().map(|setting| (setting.name.to_owned(), property(setting))).collect();
    let required: Vec<&str> = settings
        .iter()
        .filter(|setting| setting.default == Default::Required)
        .map(|setting| setting.name)
        .collect();
    // A key of a later version is a remark to the daemons, and no error here either.
    json!({ "type": "object", "properties": properties, "required": required })
}

fn property(setting: &Setting) -> Value {
    let mut property = match setting.kind {
        Kind::Text | Kind::Path => json!({ "type": "string" }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Duration => {
            json!({ "type": "string", "pattern": "^([+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|µs|ms|s|m|h))*$|^0?$" })
        }
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Kind::Number => json!({ "type": "number" }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Tables(inner) => json!({ "type": "array", "items": table(inner) }),
    };
    property["description"] = json!(setting.meaning);
    if let Default::Value(value) = setting.default
        && let Ok(value) = value.parse::<toml::Value>()
        && let Ok(value) = serde_json::to_value(value)
    {
        property["default"] = value;
    }
    property
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_every_setting() {
        for file in File::ALL {
            let schema = schema(file);
            for setting in file.settings() {
                let property = &schema["properties"][setting.name];
                assert_eq!(property["description"], setting.meaning, "{}", setting.name);
                if matches!(setting.default, Default::Value(_)) {
                    assert!(!property["default"].is_null(), "{}", setting.name);
                }
            }
        }
        let schema = schema(File::Registrar);
        assert_eq!(schema["properties"]["api_port"]["maximum"], 65_535);
        assert_eq!(schema["required"][0], "log_level");
        let tables = &schema["properties"]["override_subnet"]["items"];
        assert_eq!(tables["properties"]["prefix_id"]["minimum"], -1);
    }
}
