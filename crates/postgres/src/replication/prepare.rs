//! Making the log followable, and finding out whether it still holds what comes next.

use std::sync::Arc;

use lakeward_core::{ConfiguredStream, Error, ErrorKind, Prepared, Result};

use super::lsn::{Found, LogPosition, Lsn, Names};
use super::slot::{Place, Slot};
use super::{publication, slot};
use crate::config::{OnSlotLost, ReplicationConfig};
use crate::connect::{Connection, Connector};

/// Enough of a pipeline's id to tell pipelines apart: of its end, which is drawn, where its beginning is the time.
const PIPELINE_DIGITS: usize = 10;

/// What is said where somebody else has to make something.
pub(crate) const UNMADE: &str =
    "the slot, a publication or a table in it is missing, and replication.manage is false";

/// The settings where the config has none.
pub(crate) fn settings(connector: &Connector) -> ReplicationConfig {
    connector.settings().replication.clone().unwrap_or_default()
}

/// The names that the config gives a pipeline's slot and publication.
fn names(settings: &ReplicationConfig, pipeline: &str) -> Names {
    let name: Vec<char> = pipeline.chars().filter(char::is_ascii_alphanumeric).collect();
    let short: String =
        name[name.len().saturating_sub(PIPELINE_DIGITS)..].iter().map(char::to_ascii_lowercase).collect();
    let named = |name: &Option<String>| name.clone().unwrap_or_else(|| format!("lakeward_{short}"));
    Names { slot: named(&settings.slot), publication: named(&settings.publication), ..Names::default() }
}

/// What is saved before slot and publications are made: the config's names, or those under which there is something
/// already.
///
/// # Errors
/// `Config` where the config asks for other names than those.
pub(crate) async fn intent(
    connector: &Connector,
    pipeline: &str,
    saved: Option<LogPosition>,
) -> Result<LogPosition> {
    let settings = settings(connector);
    let wanted = names(&settings, pipeline);
    let mut intended = LogPosition {
        slot: Some(wanted.slot.clone()),
        publication: Some(wanted.publication.clone()),
        // What somebody else is to make is not ours once it is there.
        made: settings.manage.then_some(false),
        ..LogPosition::default()
    };
    let Some(saved) = saved.filter(|saved| saved.lsn.is_some() || saved.made == Some(false)) else {
        if settings.manage {
            let connection = connector.connect().await?;
            // A name that is drawn is nobody else's.
            if settings.slot.is_some() {
                refuse_slot(connector, &connection, &wanted.slot).await?;
            }
            if settings.publication.is_some() {
                intended.found.publications = publication::existing(&connection, &wanted).await?;
            }
            connector.rest(connection);
        }
        return Ok(intended);
    };
    let known = saved.names()?;
    if saved.lsn.is_some() {
        // A config without names asks for no others.
        if settings.slot.is_some() && wanted.slot != known.slot {
            return Err(renamed("slot", &known.slot, &wanted.slot));
        }
        if settings.publication.is_some() && wanted.publication != known.publication {
            return Err(renamed("publication", &known.publication, &wanted.publication));
        }
        return Ok(saved);
    }
    if !settings.manage {
        // What was made under the names that were intended before stays, and is not read.
        return Ok(intended);
    }
    // What an intent of ours names is ours.
    intended.found = saved.found;
    if wanted.slot != known.slot || wanted.publication != known.publication {
        let connection = connector.connect().await?;
        if wanted.slot != known.slot {
            if let Some(found) = slot::find(&connection, &known.slot).await?
                && found.check_kind(&known.slot, &connector.settings().database).is_ok()
            {
                return Err(renamed("slot", &known.slot, &wanted.slot));
            }
            refuse_slot(connector, &connection, &wanted.slot).await?;
        }
        if wanted.publication != known.publication {
            if publication::existing(&connection, &known).await?.iter().any(|name| known.owns(name)) {
                return Err(renamed("publication", &known.publication, &wanted.publication));
            }
            intended.found.publications = publication::existing(&connection, &wanted).await?;
        }
        connector.rest(connection);
    }
    Ok(intended)
}

/// A slot that this pipeline did not make is somebody's place in the log: it is not dropped to be made anew.
async fn refuse_slot(connector: &Connector, connection: &Connection, name: &str) -> Result<()> {
    let Some(found) = slot::find(connection, name).await? else { return Ok(()) };
    found.check_kind(name, &connector.settings().database)?;
    Err(Error::new(ErrorKind::Source, "there is a slot of this name already, and it is not this pipeline's")
        .at("slot", name)
        .hint(format!(
            "name another slot in replication.slot; or set replication.manage to false, to read on from where it \
             stands; or, if nobody needs it: SELECT pg_drop_replication_slot({});",
            crate::sql::literal(name)
        )))
}

/// A server whose log says too little.
async fn refuse_level(connection: &Connection) -> Result<()> {
    let row = connection.row("SELECT current_setting('wal_level')", &[]).await?;
    match row.get::<_, String>(0) {
        level if level == "logical" => Ok(()),
        level => Err(Error::new(
            ErrorKind::Source,
            format!("wal_level is {level}: changes cannot be decoded from the log"),
        )
        .hint("ALTER SYSTEM SET wal_level = 'logical', then restart the server; `lakeward check` says what else is missing")),
    }
}

fn renamed(what: &'static str, known: &str, wanted: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the config names another {what} than the one that was made"))
        .at(what, known)
        .at("in the config", wanted)
        .hint(format!(
            "put {known} back into replication.{what}; or let go of it with `lakeward clear --log`: the streams that \
             follow the log are then read again"
        ))
}

/// Makes slot and publications, or checks those that there are. What has one of the places `kept` stays published.
/// `unreadable` says why the log cannot be read on, where that was found out.
pub(crate) async fn prepare(
    connector: &Connector,
    streams: &[Arc<ConfiguredStream>],
    kept: &[String],
    saved: &LogPosition,
    unreadable: Option<String>,
) -> Result<Prepared> {
    let mut names = saved.names()?;
    let connection = connector.connect().await?;
    let manage = settings(connector).manage;
    let wanted = streams.iter().map(AsRef::as_ref).filter(|stream| stream.sync_mode.follows_log());
    publication::check(&connection, &names, wanted.clone()).await?;
    let place = Place::current(&connection).await?;
    let (position, lost) = match saved.lsn {
        None => (begin(connector, &connection, &names, wanted.clone()).await?, None),
        Some(lsn) => match loss(connector, &connection, &names, saved, lsn, &place).await?.or(unreadable) {
            None => (lsn, None),
            Some(reason) => match settings(connector).on_slot_lost {
                OnSlotLost::Error => {
                    return Err(Error::new(ErrorKind::Source, format!("changes since {lsn} are lost: {reason}"))
                        .at("slot", &names.slot)
                        .hint(
                            "set replication.on_slot_lost to \"resnapshot\" to read all tables again and keep their history; \
                             where only the state is older than the slot, `lakeward state rebuild` makes it anew (its \
                             --accept-slot says that nothing was committed in between)",
                        ));
                }
                OnSlotLost::Resnapshot => {
                    tracing::warn!(slot = names.slot, reason, "changes are lost: all tables are read again");
                    (begin(connector, &connection, &names, wanted.clone()).await?, Some(reason))
                }
            },
        },
    };
    if saved.lsn.is_none() || lost.is_some() {
        names.since = Some(position);
        // Where it was somebody else's and is no more, it was made anew by us.
        names.found.slot &= !manage;
    }
    if !manage {
        let publications = publication::existing(&connection, &names).await?;
        names.found = Found { slot: true, publications };
    }
    let members = publication::members(&connection, &names).await?;
    if manage {
        let version = connector.version().await?;
        publication::detach(&connection, version, &names, &members, wanted.clone(), kept).await?;
    }
    let position = LogPosition {
        lsn: Some(position),
        timeline: Some(place.timeline),
        slot: Some(names.slot.clone()),
        publication: Some(names.publication.clone()),
        system_identifier: Some(place.system_identifier),
        made: None,
        since: names.since,
        found: names.found.clone(),
    };
    Ok(Prepared {
        position: position.to_position(),
        places: publication::places(&members, &names, wanted),
        lost,
    })
}

/// Begins anew: publications first and committed, then the slot, because a publication that is younger than the
/// slot's log cannot be used to read it.
async fn begin<'a>(
    connector: &Connector,
    connection: &Connection,
    names: &Names,
    wanted: impl Iterator<Item = &'a ConfiguredStream> + Clone,
) -> Result<Lsn> {
    if settings(connector).manage {
        let version = connector.version().await?;
        refuse_level(connection).await?;
        if names.found.slot {
            refuse_slot(connector, connection, &names.slot).await?;
        } else if let Some(found) = slot::find(connection, &names.slot).await? {
            found.check_kind(&names.slot, &connector.settings().database)?;
        }
        slot::drop(connection, &names.slot).await?;
        for statement in publication::missing(connection, names, version).await? {
            connection.run(&statement).await.map_err(|error| {
                error.hint(format!(
                    "the role needs CREATE on the database; or somebody else runs: {statement};"
                ))
            })?;
        }
        return slot::create(connector, &names.slot).await;
    }
    let (missing, begins) = unmade(connector, connection, names, wanted).await?;
    match begins {
        Some(confirmed) if missing.is_empty() => Ok(confirmed),
        _ => Err(Error::new(ErrorKind::Source, UNMADE)
            .at("slot", &names.slot)
            .at("publication", &names.publication)
            .hint(missing)),
    }
}

/// The statements by which somebody else makes what is missing of slot and publications, and where the slot that
/// there is begins.
pub(crate) async fn unmade<'a>(
    connector: &Connector,
    connection: &Connection,
    names: &Names,
    wanted: impl Iterator<Item = &'a ConfiguredStream> + Clone,
) -> Result<(String, Option<Lsn>)> {
    let version = connector.version().await?;
    let found = slot::find(connection, &names.slot).await?;
    if let Some(found) = &found {
        found.check_kind(&names.slot, &connector.settings().database)?;
    }
    let mut missing = publication::unpublished(connection, names, version, wanted).await?;
    let begins = found.as_ref().and_then(|found| {
        found.confirmed_flush_lsn.filter(|confirmed| found.loss(&names.slot, *confirmed).is_none())
    });
    if begins.is_none() || missing.publications {
        let name = crate::sql::literal(&names.slot);
        if found.is_some() {
            missing.statements.push(format!("SELECT pg_drop_replication_slot({name})"));
        }
        missing.statements.push(format!("SELECT pg_create_logical_replication_slot({name}, 'pgoutput')"));
    }
    let statements: Vec<String> = missing.statements.iter().map(|sql| format!("{sql};")).collect();
    Ok((statements.join(" "), begins))
}

/// Why what follows a saved position cannot be had any more.
async fn loss(
    connector: &Connector,
    connection: &Connection,
    names: &Names,
    saved: &LogPosition,
    lsn: Lsn,
    place: &Place,
) -> Result<Option<String>> {
    if let Some(reason) = slot::foreign_log(connector, saved, lsn, place).await? {
        return Ok(Some(reason));
    }
    let found = slot::await_idle(connection, &names.slot).await?;
    made_lost(connector, connection, names, lsn, found.as_ref()).await
}

/// The same for somebody who only looks, and does not mind that the slot is being read.
pub(crate) async fn lost(
    connector: &Connector,
    connection: &Connection,
    saved: &LogPosition,
    slot: Option<&Slot>,
    place: &Place,
) -> Result<Option<String>> {
    let Some(lsn) = saved.lsn else { return Ok(None) };
    match slot::foreign_log(connector, saved, lsn, place).await? {
        None => made_lost(connector, connection, &saved.names()?, lsn, slot).await,
        foreign => Ok(foreign),
    }
}

/// Why the slot and the publications, as they are, do not give what follows.
async fn made_lost(
    connector: &Connector,
    connection: &Connection,
    names: &Names,
    lsn: Lsn,
    slot: Option<&Slot>,
) -> Result<Option<String>> {
    let Some(found) = slot else {
        return Ok(Some(format!("slot {} is gone", names.slot)));
    };
    found.check_kind(&names.slot, &connector.settings().database)?;
    if let Some(reason) = found.loss(&names.slot, lsn) {
        return Ok(Some(reason));
    }
    let publications = publication::existing(connection, names).await?;
    let needed = if settings(connector).manage { 2 } else { 1 };
    if publications.len() < needed || !publications.contains(&names.publication) {
        return Ok(Some(format!("publication {} or {} is gone", names.publication, names.insert_only())));
    }
    Ok(None)
}

/// Removes slot and publications, and says what is kept.
pub(crate) async fn clear(connector: &Connector, saved: &LogPosition) -> Result<Vec<String>> {
    let names = saved.names()?;
    let mut kept = Vec::new();
    if !settings(connector).manage {
        kept.push(format!("slot {}: replication.manage is false", names.slot));
        kept.push(format!("publication {}: replication.manage is false", names.publication));
        return Ok(kept);
    }
    let connection = connector.connect().await?;
    match slot::find(&connection, &names.slot).await? {
        None => {}
        Some(_) if names.found.slot => {
            kept.push(format!("slot {}: it was there before the pipeline", names.slot))
        }
        Some(found) => match found.check_kind(&names.slot, &connector.settings().database) {
            Ok(()) => slot::drop(&connection, &names.slot).await?,
            Err(error) => kept.push(format!("slot {}: {}", names.slot, error.message())),
        },
    }
    publication::drop(&connection, &names).await?;
    kept.extend(
        names
            .found
            .publications
            .iter()
            .map(|name| format!("publication {name}: it was there before the pipeline")),
    );
    Ok(kept)
}
