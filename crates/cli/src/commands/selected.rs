//! The selected streams, by the names that a command line gives them.

use lakeward_core::{Catalog, Destination, Error, ErrorKind, Result, StreamId, nearest};

/// A stream's name at the source and at the destination.
pub(crate) type Names = (StreamId, StreamId);

/// The selected streams of those names, or of a name that only one has; all where none is named.
pub(crate) fn choose(catalog: &Catalog, names: &[String]) -> Result<Vec<Names>> {
    let selected: Vec<Names> = catalog
        .selections()?
        .into_iter()
        .map(|(id, selection)| {
            let name = selection.destination_table.unwrap_or_else(|| id.name.clone());
            let target = StreamId::new(&id.namespace, name);
            (id, target)
        })
        .collect();
    if selected.is_empty() {
        return Err(Error::new(ErrorKind::Config, "no stream is selected")
            .hint("choose streams under selected_streams in streams.json"));
    }
    if names.is_empty() {
        return Ok(selected);
    }
    let mut chosen: Vec<Names> = Vec::with_capacity(names.len());
    for name in names {
        let mut called = selected.iter().filter(|(id, _)| id.name == *name);
        let only = called.next().filter(|_| called.next().is_none());
        let exact = selected.iter().find(|(id, _)| id.to_string() == *name);
        let Some(found) = exact.or(only) else {
            let known: Vec<String> = selected.iter().map(|(id, _)| id.to_string()).collect();
            let error = Error::new(ErrorKind::Config, format!("no stream \"{name}\" is selected"));
            return Err(match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint("name it as namespace.name, as under selected_streams in streams.json"),
            });
        };
        if !chosen.contains(found) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}

/// The streams of those names, selected or not: what was taken out of streams.json may still be at the destination.
pub(crate) async fn choose_known(
    catalog: &Catalog,
    names: &[String],
    destination: &dyn Destination,
) -> Result<Vec<Names>> {
    let mut chosen: Vec<Names> = Vec::with_capacity(names.len());
    for name in names {
        let found = match choose(catalog, std::slice::from_ref(name)) {
            Ok(found) => found,
            Err(error) => {
                let left = destination.heads().await?.into_iter().find_map(|(target, head)| {
                    let [namespace, stream] = head.definition?.source_stream;
                    let id = StreamId::new(namespace, stream);
                    (id.to_string() == *name).then_some((id, target))
                });
                vec![left.ok_or(error)?]
            }
        };
        chosen.extend(found.into_iter().filter(|names| !chosen.contains(names)).collect::<Vec<_>>());
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::Selection;

    #[test]
    fn names_are_those_of_the_source_and_targets_those_of_the_destination() {
        let selection = |name: &str, table: Option<&str>| Selection {
            stream_name: name.to_owned(),
            destination_table: table.map(str::to_owned),
            ..Selection::default()
        };
        let mut catalog = Catalog::default();
        catalog
            .selected_streams
            .insert("public".to_owned(), vec![selection("a", Some("b")), selection("c", None)]);
        let a = (StreamId::new("public", "a"), StreamId::new("public", "b"));
        assert_eq!(choose(&catalog, &["public.a".to_owned()]).unwrap(), std::slice::from_ref(&a));
        assert_eq!(choose(&catalog, &["a".to_owned()]).unwrap(), [a]);
        assert_eq!(choose(&catalog, &[]).unwrap().len(), 2);
        assert!(choose(&catalog, &["public.z".to_owned()]).is_err());
        assert!(choose(&Catalog::default(), &[]).is_err());
    }
}
