//! Reading config files: JSON or YAML, with `${VAR}` and `file:///…` resolved in every string.
//!
//! Guaranteed: no error of this module holds a value from a config, a variable or a named file, except the
//! connector's name in `type`. Errors name the file and the field.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakeward_core::{Catalog, Destination, DriverInterface, Error, ErrorKind, Result};
use serde_json::Value;

use crate::registry::{self, Connector};

const FILE_SCHEME: &str = "file://";
/// How large a file may be that a field names: a certificate or a password, in bytes.
const MOST_REFERENCED: u64 = 1 << 20;

/// Builds the source that a config file describes.
///
/// # Errors
/// `Config`, naming file and field.
pub(crate) fn source(path: &Path) -> Result<Arc<dyn DriverInterface>> {
    build(path, registry::source)
}

/// Builds the destination that a config file describes.
///
/// # Errors
/// As [`source`].
pub(crate) fn destination(path: &Path) -> Result<Arc<dyn Destination>> {
    build(path, registry::destination)
}

fn build<T: ?Sized + 'static>(
    path: &Path,
    find: impl Fn(&str) -> Result<&'static Connector<T>>,
) -> Result<Arc<T>> {
    let written = read(path)?;
    let config = resolved(&written, path)?;
    let connector = match config.get("type") {
        Some(Value::String(kind)) => find(kind),
        Some(_) => Err(Error::new(ErrorKind::Config, "field \"type\" is no text")),
        None => Err(Error::new(ErrorKind::Config, "field \"type\" is missing")
            .hint("it names the connector; `lakeward spec` lists them")),
    };
    let built = connector.and_then(|connector| {
        let schema = (connector.spec)();
        connector.build(retyped(config, &written, &schema, &schema))
    });
    built.map_err(|error| error.at("file", path.display()))
}

/// A destination's config that can be pointed at another directory.
pub(crate) struct Movable {
    /// As it stands in its file, so that no resolved secret is ever written anywhere.
    written: Value,
    field: &'static str,
    /// The directory that it names now.
    pub(crate) directory: PathBuf,
}

impl Movable {
    /// The same config with another directory, to be written as JSON.
    ///
    /// # Errors
    /// `Config` where the directory's name is not UTF-8.
    pub(crate) fn moved_to(&self, directory: &Path) -> Result<Value> {
        let text = directory.to_str().ok_or_else(|| {
            Error::new(ErrorKind::Config, "a directory's name is not UTF-8")
                .at("directory", directory.display())
        })?;
        let mut config = self.written.clone();
        config[self.field] = Value::String(text.replace("${", "$${"));
        Ok(config)
    }
}

/// The destination's config, where it names a directory of this machine; `None` where it keeps nothing there.
///
/// # Errors
/// As [`source`].
pub(crate) fn movable(path: &Path) -> Result<Option<Movable>> {
    // Everything that can be wrong with it is found here.
    destination(path)?;
    let written = read(path)?;
    let config = resolved(&written, path)?;
    let text = |field: &str| config.get(field).and_then(Value::as_str);
    let Some(field) = registry::destination(text("type").unwrap_or_default())?.directory else {
        return Ok(None);
    };
    let named = text(field).unwrap_or_default();
    let directory =
        std::path::absolute(named.strip_prefix(FILE_SCHEME).unwrap_or(named)).map_err(|error| {
            Error::new(ErrorKind::Config, "a directory cannot be found").at("field", field).source(error)
        })?;
    Ok(Some(Movable { written, field, directory }))
}

/// Reads a config file as it is written.
fn read(path: &Path) -> Result<Value> {
    let text = read_text(path, "config file")?;
    let value: Value = parse(&text, path, Quoting::Withheld)?;
    if value.is_object() {
        return Ok(value);
    }
    Err(Error::new(ErrorKind::Config, "a config is an object with a \"type\"").at("file", path.display()))
}

/// A config with its strings resolved from the environment and from files.
fn resolved(written: &Value, path: &Path) -> Result<Value> {
    let mut value = written.clone();
    resolve(&mut value, "", &|name| std::env::var(name).ok())
        .map_err(|error| error.at("file", path.display()))?;
    Ok(value)
}

/// A variable holds text, but `"port": "${PGPORT}"` means a number: where a whole string was one variable, and
/// the schema wants a number or a truth value there, it becomes one. What does not parse is left for the
/// connector to refuse.
fn retyped(value: Value, written: &Value, schema: &Value, root: &Value) -> Value {
    let schema = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .unwrap_or(schema);
    match (value, written) {
        (Value::Object(fields), Value::Object(written)) => {
            // An optional object is one of several shapes: the one that has fields.
            let shapes =
                ["anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
            let retype_by = |schema: &Value, fields: serde_json::Map<String, Value>| {
                let field = |(name, value): (String, Value)| {
                    let value =
                        match (written.get(&name), schema.get("properties").and_then(|it| it.get(&name))) {
                            (Some(written), Some(schema)) => retyped(value, written, schema, root),
                            _ => value,
                        };
                    (name, value)
                };
                Value::Object(fields.into_iter().map(field).collect())
            };
            let mut value = retype_by(schema, fields);
            for shape in shapes {
                let written = Value::Object(written.clone());
                value = retyped(value, &written, shape, root);
            }
            value
        }
        (Value::String(text), Value::String(written)) if is_one_variable(written) => {
            let wants = |name: &str| match schema.get("type") {
                Some(Value::String(kind)) => kind == name,
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == name),
                _ => false,
            };
            let parses = wants("integer") || wants("number") || wants("boolean");
            match serde_json::from_str::<Value>(&text) {
                Ok(parsed @ (Value::Number(_) | Value::Bool(_))) if parses && !wants("string") => parsed,
                _ => Value::String(text),
            }
        }
        (value, _) => value,
    }
}

fn is_one_variable(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_variable_name)
}

/// Reads streams.json (or .yaml). Nothing is resolved in it: a filter may hold any text.
///
/// # Errors
/// `Config`, naming file and line.
pub(crate) fn load_catalog(path: &Path) -> Result<Catalog> {
    let text = read_text(path, "streams file")
        .map_err(|error| error.hint("`lakeward discover` writes it; --streams names another one"))?;
    parse(&text, path, Quoting::Allowed)
}

/// Where the state lies when the user does not say: `state.json` beside the streams file.
pub(crate) fn default_state(streams: &Path) -> PathBuf {
    streams.with_file_name("state.json")
}

/// Whether a file is YAML, by its name.
pub(crate) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("yaml") || ext.eq_ignore_ascii_case("yml"))
}

/// Whether a parser's message may be shown: it quotes the text around the mistake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Allowed,
    Withheld,
}

fn read_text(path: &Path, what: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let result = Error::new(ErrorKind::Config, format!("the {what} cannot be read"))
            .at("file", path.display())
            .hint(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "there is no such file: `lakeward spec postgres` shows what stands in a config, \
                     --config, --destination and --streams name other files"
                }
                std::io::ErrorKind::InvalidData => "the file must be UTF-8 text",
                _ => "the file must be readable by this user",
            });
        result.source(error)
    })
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path, quoting: Quoting) -> Result<T> {
    let (error, line, column) = if is_yaml(path) {
        match serde_norway::from_str(text) {
            Ok(value) => return Ok(value),
            Err(error) => {
                let place = error.location();
                let (line, column) = place.map_or((0, 0), |place| (place.line(), place.column()));
                (error.to_string(), line, column)
            }
        }
    } else {
        match serde_json::from_str(text) {
            Ok(value) => return Ok(value),
            Err(error) => (error.to_string(), error.line(), error.column()),
        }
    };
    let format = if is_yaml(path) { "YAML" } else { "JSON" };
    // Text that is well formed may still have fields that nobody knows.
    let well_formed = match is_yaml(path) {
        true => serde_norway::from_str::<serde::de::IgnoredAny>(text).is_ok(),
        false => serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(),
    };
    let message = match well_formed {
        true => "the file is not what it should be".to_owned(),
        false => format!("the file cannot be read as {format}"),
    };
    let failure = Error::new(ErrorKind::Config, message)
        .at("file", path.display())
        .at("line", line)
        .at("column", column);
    Err(match quoting {
        Quoting::Allowed => failure.hint(error),
        Quoting::Withheld if format == "JSON" => {
            failure.hint("check commas, quotes and brackets there; YAML files end in .yaml or .yml")
        }
        Quoting::Withheld => failure.hint("check indentation, colons and quotes there"),
    })
}

/// Resolves every string of a config in place: `${VAR}` from `variable`, then a whole `file:///…` from that file,
/// without its last line break. `$${` stands for `${`.
///
/// What a variable or a file holds is not resolved again: a password may look like anything.
///
/// # Errors
/// `Config`, naming the field's path, never a value.
pub(crate) fn resolve(
    value: &mut Value,
    path: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<()> {
    match value {
        Value::String(text) => {
            *text = resolve_text(text, variable).map_err(|error| error.at("field", path))?;
            Ok(())
        }
        Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(index, item)| resolve(item, &format!("{path}[{index}]"), variable)),
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, field)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            resolve(field, &path, variable)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn resolve_text(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let expanded = expand(text, variable)?;
    // Asked of the text as written: a variable's value never makes Lakeward read a file.
    if !text.starts_with(FILE_SCHEME) {
        return Ok(expanded);
    }
    let path = Path::new(&expanded[FILE_SCHEME.len()..]);
    if !path.is_absolute() {
        return Err(Error::new(ErrorKind::Config, "a file is not named by its full path")
            .hint("write file:/// and the path from the root, such as file:///etc/ssl/db.pem"));
    }
    let contents = read_small(path).map_err(|error| {
        // As it is written: what a variable holds is not shown.
        Error::new(ErrorKind::Config, "the file that a field names cannot be read")
            .at("path", &text[FILE_SCHEME.len()..])
            .hint("it must be a regular file of UTF-8 text, of 1 MiB at most, that this user may read")
            .source(error)
    })?;
    let trimmed = contents.strip_suffix('\n').unwrap_or(&contents);
    Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
}

/// What a regular file holds. Anything else might never come to an end, or never begin.
fn read_small(path: &Path) -> io::Result<String> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if about.len() > MOST_REFERENCED {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read_to_string(path)
}

fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            result.push_str(&rest[..at - 1]);
            result.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let name = after.split_once('}').map(|(name, _)| name);
        // A name is shown only where it is one: after a stray `${` stands a part of a secret.
        let Some(name) = name.filter(|name| is_variable_name(name)) else {
            return Err(Error::new(
                ErrorKind::Config,
                "\"${\" is not followed by a variable's name and \"}\"",
            )
            .hint("write ${NAME} for a variable, $${ for the two characters themselves"));
        };
        let value = variable(name).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("the environment variable {name} is not set"))
                .hint(format!("set it, or write $${{{name}}} for the text itself"))
        })?;
        result.push_str(&value);
        rest = &after[name.len() + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CANARY: &str = "canary-7f3a";

    fn resolved(mut value: Value) -> Result<Value> {
        let variable = |name: &str| match name {
            "PGPASSWORD" => Some(CANARY.to_owned()),
            "TRICKY" => Some("file:///etc/hostname ${PGPASSWORD}".to_owned()),
            _ => None,
        };
        resolve(&mut value, "", &variable)?;
        Ok(value)
    }

    fn shown(error: &Error) -> String {
        format!("{} {error:?} {}", crate::failure::text(error), crate::failure::value(error))
    }

    #[test]
    fn variables_are_resolved_at_every_depth_and_only_once() {
        let value = json!({ "a": "${PGPASSWORD}", "b": [{ "c": "x${PGPASSWORD}y" }], "d": 5, "e": "$5 $" });
        let expected = json!({ "a": CANARY, "b": [{ "c": format!("x{CANARY}y") }], "d": 5, "e": "$5 $" });
        assert_eq!(resolved(value).unwrap(), expected);
        let tricky = resolved(json!("${TRICKY}")).unwrap();
        assert_eq!(tricky, json!("file:///etc/hostname ${PGPASSWORD}"));
    }

    #[test]
    fn two_dollars_stand_for_the_text_itself() {
        assert_eq!(resolved(json!("$${PGPASSWORD}")).unwrap(), json!("${PGPASSWORD}"));
        assert_eq!(resolved(json!("a$${b${PGPASSWORD}")).unwrap(), json!(format!("a${{b{CANARY}")));
    }

    #[test]
    fn a_missing_variable_is_named_with_its_field() {
        let error = resolved(json!({ "ssl": { "keys": ["${NOT_SET}"] } })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = shown(&error);
        assert!(text.contains("ssl.keys[0]") && text.contains("NOT_SET"), "{text}");
    }

    #[test]
    fn a_password_that_only_looks_like_a_variable_is_not_shown() {
        for password in [format!("x${{{CANARY}"), format!("${{{CANARY} with spaces}}")] {
            let text = shown(&resolved(json!({ "password": password })).unwrap_err());
            assert!(text.contains("password") && !text.contains(CANARY), "{text}");
        }
    }

    #[test]
    fn a_file_is_read_without_its_last_line_break_and_named_by_its_full_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, format!("{CANARY}\r\n")).unwrap();
        let value = resolved(json!({ "password": format!("file://{}", path.display()) })).unwrap();
        assert_eq!(value, json!({ "password": CANARY }));
        for (missing, told) in [
            ("file:///nowhere/at/all", "/nowhere/at/all"),
            ("file:///nowhere/${PGPASSWORD}", "/nowhere/${PGPASSWORD}"),
            ("file:///dev/zero", "not a regular file"),
            ("file://relative", "full path"),
        ] {
            let error = resolved(json!({ "ssl": { "server_ca": missing } })).unwrap_err();
            let text = shown(&error);
            assert!(
                text.contains("ssl.server_ca") && text.contains(told) && !text.contains(CANARY),
                "{text}"
            );
        }
    }

    #[test]
    fn a_broken_config_is_located_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.json", format!("{{ \"password\": \"{CANARY}\" \"x\": 1 }}")),
            ("b.yaml", format!("password: \"{CANARY}\n  x: [")),
            ("c.yml", format!("? {CANARY}\n- *{CANARY}")),
            ("d.yaml", CANARY.to_owned()),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err();
            let text = shown(&error);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(text.contains(name) && !text.contains(CANARY), "{text}");
        }
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (json, yaml) = (directory.path().join("a.json"), directory.path().join("a.yaml"));
        std::fs::write(&json, r#"{"type": "null", "n": 1, "list": ["a"]}"#).unwrap();
        std::fs::write(&yaml, "type: \"null\"\nn: 1\nlist: [a]\n").unwrap();
        assert_eq!(read(&json).unwrap(), read(&yaml).unwrap());
    }

    #[test]
    fn a_variable_may_hold_a_number_where_one_is_wanted() {
        let schema = json!({
            "properties": {
                "port": { "type": "integer" },
                "password": { "type": "string" },
                "ssl": { "anyOf": [{ "$ref": "#/$defs/Ssl" }, { "type": "null" }] },
            },
            "$defs": { "Ssl": { "properties": { "verify": { "type": ["boolean", "null"] } } } },
        });
        let written = json!({ "port": "${P}", "password": "${P}", "ssl": { "verify": "${V}" }, "x": "${P}" });
        let value = json!({ "port": "5432", "password": "5432", "ssl": { "verify": "true" }, "x": "5432" });
        let expected = json!({ "port": 5432, "password": "5432", "ssl": { "verify": true }, "x": "5432" });
        assert_eq!(retyped(value, &written, &schema, &schema), expected);
        // What was written as text stays text.
        let text = json!({ "port": "5432" });
        assert_eq!(retyped(text.clone(), &text, &schema, &schema), text);
    }

    #[test]
    fn the_state_lies_beside_the_streams() {
        assert_eq!(default_state(Path::new("a/b/streams.json")), Path::new("a/b/state.json"));
        assert_eq!(default_state(Path::new("streams.yaml")), Path::new("state.json"));
    }
}
