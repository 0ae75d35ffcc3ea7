//! Reading configs: unknown fields are refused with the nearest known name, secrets do not print.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// A secret from a config. It never prints.
#[derive(Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is the empty text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Parses a config against its type.
///
/// `schema` is the type's JSON Schema: field names are checked against it first, at every depth, so that a
/// mistyped one is answered with the nearest known name. `place` names the file or object in errors.
///
/// # Errors
/// `Config`, naming the field by its path. Values are never quoted: one of them may be a secret.
pub fn parse_config<T: DeserializeOwned>(value: Value, schema: &Value, place: &str) -> Result<T> {
    check_fields(&value, schema, schema, "").map_err(|error| error.at("in", place))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let failed = Error::new(ErrorKind::Config, "a config cannot be read");
        let field = error.path().to_string();
        // The path of the whole is a dot.
        let failed = if field == "." { failed } else { failed.at("field", field) };
        failed.at("in", place).hint(redact(&error.into_inner().to_string()))
    })
}

fn check_fields(value: &Value, schema: &Value, root: &Value, path: &str) -> Result<()> {
    let schema = resolve(schema, root);
    if let Some(Value::Array(options)) = schema.get("anyOf").or_else(|| schema.get("oneOf")) {
        let object = options.iter().find(|option| resolve(option, root).get("properties").is_some());
        return object.map_or(Ok(()), |option| check_fields(value, option, root, path));
    }
    if let (Value::Array(items), Some(item)) = (value, schema.get("items")) {
        return items.iter().try_for_each(|value| check_fields(value, item, root, path));
    }
    let (Value::Object(fields), Some(Value::Object(known))) = (value, schema.get("properties")) else {
        return Ok(());
    };
    let open = matches!(schema.get("additionalProperties"), Some(Value::Object(_) | Value::Bool(true)));
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match known.get(name) {
            Some(schema) => check_fields(value, schema, root, &path)?,
            None if open => {}
            None => {
                let error = Error::new(ErrorKind::Config, format!("no field is called \"{path}\""));
                return Err(match nearest(name, known.keys().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint(format!(
                        "known fields: {}",
                        known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                    )),
                });
            }
        }
    }
    Ok(())
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .unwrap_or(schema)
}

/// The known name that a mistyped one most likely meant, whatever its case.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.8;
    // A namespace that both have says nothing of how alike the names are.
    let alike = |candidate: &str| {
        let (name, candidate) = match (name.rsplit_once('.'), candidate.rsplit_once('.')) {
            (Some((namespace, name)), Some((other, candidate))) if namespace == other => (name, candidate),
            _ => (name, candidate),
        };
        strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase())
    };
    known
        .map(|candidate| (alike(candidate), candidate))
        .filter(|(similarity, _)| *similarity > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// serde quotes the offending value in its messages, before it says what it expected; a password may be it.
fn redact(message: &str) -> String {
    // The name of a field that is absent is ours.
    if message.starts_with("missing field") {
        return message.to_owned();
    }
    let (found, expected) = match message.rfind(", expected ") {
        Some(at) => message.split_at(at),
        None => (message, ""),
    };
    let quote = |c: char| matches!(c, '"' | '`');
    match (found.find(quote), found.rfind(quote)) {
        (Some(first), Some(last)) if first < last => {
            format!("{}***{}{expected}", &found[..=first], &found[last..])
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    struct Config {
        password: Secret,
    }

    #[test]
    fn a_shared_namespace_makes_no_names_alike() {
        let known = ["public.orders", "public.v_paid"];
        assert_eq!(nearest("public.oders", known.into_iter()), Some("public.orders"));
        assert_eq!(nearest("publc.orders", known.into_iter()), Some("public.orders"));
        assert_eq!(nearest("public.nix", known.into_iter()), None);
    }

    fn schema() -> Value {
        json!({"properties": {"password": {"type": "string"}, "ssl": {"$ref": "#/$defs/Ssl"}},
               "$defs": {"Ssl": {"properties": {"mode": {"type": "string"}}}}})
    }

    #[test]
    fn a_mistyped_field_is_answered_with_the_nearest_name() {
        let error = parse_config::<Config>(json!({"pasword": "x"}), &schema(), "source.json").unwrap_err();
        assert_eq!(error.remedy(), Some("did you mean \"password\"?"));
        let error =
            parse_config::<Config>(json!({"ssl": {"moed": 1}}), &schema(), "source.json").unwrap_err();
        assert!(error.to_string().contains("ssl.moed"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_by_its_field() {
        let error = parse_config::<Config>(json!({"password": 7}), &schema(), "s").unwrap_err();
        assert!(error.to_string().contains("password"), "{error}");
        let error = parse_config::<Config>(json!({}), &schema(), "s").unwrap_err();
        assert_eq!(error.remedy(), Some("missing field `password`"));
    }

    #[test]
    fn errors_and_debug_output_hold_no_secret() {
        let error = parse_config::<Config>(json!({"password": {"a": "canary"}}), &schema(), "s").unwrap_err();
        assert!(!format!("{error:?} {:?}", error.remedy()).contains("canary"));
        let config: Config = parse_config(json!({"password": "canary"}), &schema(), "s").unwrap();
        assert_eq!(config.password.expose(), "canary");
        assert!(!format!("{config:?}").contains("canary"));
    }
}
