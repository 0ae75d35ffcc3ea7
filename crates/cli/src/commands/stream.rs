//! `lakeward files` and `lakeward view`: one stream at the destination.

use lakeward_core::{Destination, Error, ErrorKind, Result, StreamId, nearest};
use serde_json::json;

use crate::args::{FilesArgs, OutputFormat, ViewArgs};
use crate::config;
use crate::failure::ExitCode;
use crate::output::{print, print_json};
use crate::quantity::listed;

/// Lists the files that one commit says make the stream.
pub(crate) async fn files(args: &FilesArgs) -> Result<ExitCode> {
    let destination = config::destination(&args.destination.destination)?;
    let stream = find(destination.as_ref(), &args.stream).await?;
    let files = destination.files(&stream).await?;
    match args.output {
        OutputFormat::Text if files.is_empty() => {}
        OutputFormat::Text => {
            print(&files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join("\n"))?;
        }
        OutputFormat::Json => {
            let list: Vec<_> = files
                .iter()
                .map(|file| json!({ "path": file.path, "rows": file.rows, "bytes": file.bytes }))
                .collect();
            print_json(&list)?;
        }
    }
    Ok(ExitCode::DONE)
}

/// Prints the stream's latest view as a query.
pub(crate) async fn view(args: &ViewArgs) -> Result<ExitCode> {
    let destination = config::destination(&args.destination.destination)?;
    let stream = find(destination.as_ref(), &args.stream).await?;
    print(&destination.view(&stream, &args.engine).await?)?;
    Ok(ExitCode::DONE)
}

async fn find(destination: &dyn Destination, text: &str) -> Result<StreamId> {
    let streams: Vec<StreamId> = destination.heads().await?.into_iter().map(|(id, _)| id).collect();
    choose(&streams, text).cloned()
}

/// The stream that a text names: `namespace.name`, whatever dots are in either, or a name that only one has.
fn choose<'a>(streams: &'a [StreamId], text: &str) -> Result<&'a StreamId> {
    if let Some(id) = streams.iter().find(|id| id.to_string() == text) {
        return Ok(id);
    }
    let named: Vec<&StreamId> = streams.iter().filter(|id| id.name == text).collect();
    let refuse = |message: String, hint: String| Err(Error::new(ErrorKind::Config, message).hint(hint));
    match named.as_slice() {
        [id] => Ok(id),
        [] if streams.is_empty() => {
            refuse("the destination holds no stream yet".to_owned(), "run `lakeward sync` first".to_owned())
        }
        [] => {
            let names: Vec<String> = streams.iter().map(ToString::to_string).collect();
            refuse(
                format!("the destination holds no stream \"{text}\""),
                match nearest(text, names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("it holds {}", listed(&names)),
                },
            )
        }
        several => refuse(
            format!("several streams are called \"{text}\""),
            format!("say which: {}", several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_found_by_full_name_or_by_a_name_that_is_enough() {
        let streams =
            [StreamId::new("public", "orders"), StreamId::new("old", "orders"), StreamId::new("a.b", "c.d")];
        assert_eq!(choose(&streams, "old.orders").unwrap(), &streams[1]);
        assert_eq!(choose(&streams, "a.b.c.d").unwrap(), &streams[2]);
        assert_eq!(choose(&streams, "c.d").unwrap(), &streams[2]);
        let ambiguous = choose(&streams, "orders").unwrap_err();
        assert_eq!(ambiguous.remedy(), Some("say which: public.orders, old.orders"));
        let mistyped = choose(&streams, "public.order").unwrap_err();
        assert_eq!(mistyped.remedy(), Some("did you mean public.orders?"));
        assert!(choose(&[], "x").unwrap_err().remedy().unwrap().contains("sync"));
    }
}
