//! Live states as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Path, Problem, Query};
use serde::Deserialize;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::AppState;
use super::parameters::ScopePath;
use super::views::ListView;
use crate::configuration::Watcher;
use crate::domain::{Scope, Snapshot};

/// A comment this often keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WatchQuery {
    /// Only keys that begin with this text.
    #[serde(default)]
    prefix: String,
}

/// The whole state below a prefix, at once and after each change.
///
/// Each event is named `state`, has Consul's index as id and a list as data. States never go backwards and the last
/// one is never missed; states in between may be left out, and a repeat after reconnecting is normal.
#[utoipa::path(
    get, path = "/api/v1/watch/{namespace}/{environment}", tag = "watch",
    params(("namespace" = String, Path), ("environment" = String, Path), WatchQuery),
    responses(
        (status = 200, body = ListView, content_type = "text/event-stream"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub async fn watch(
    State(state): State<AppState>,
    caller: Caller,
    Path(path): Path<ScopePath>,
    Query(query): Query<WatchQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let scope = path.scope()?;
    caller.require("config", "read", Some(&scope.to_string()))?;
    let place = state.configuration.watcher()?;
    // Nobody is told "empty" only because this replica has read nothing yet.
    state.configuration.live.at_least(0, state.configuration.limits.index_wait).await?;
    let states = States {
        scope,
        prefix: query.prefix,
        snapshots: state.configuration.live.subscribe(),
        sent: None,
        stop: state.configuration.stop.clone(),
        _place: place,
    };
    let stream = futures_util::stream::unfold(states, |mut states| async move {
        let event = states.next().await?;
        Some((Ok(event), states))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct States {
    scope: Scope,
    prefix: String,
    snapshots: Receiver<Option<Arc<Snapshot>>>,
    /// Index of the last state that was sent.
    sent: Option<u64>,
    stop: CancellationToken,
    _place: Watcher,
}

impl States {
    /// The next state to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let now = self.snapshots.borrow_and_update().clone();
            if let Some(now) = now.filter(|now| self.is_news(now)) {
                self.sent = Some(now.index);
                let list = ListView::of(&now, &self.scope, &self.prefix);
                let event = Event::default().event("state").id(now.index.to_string()).json_data(list);
                return event.inspect_err(|error| tracing::error!(%error, "a state cannot be sent")).ok();
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = self.snapshots.changed() => changed.ok()?,
            }
        }
    }

    fn is_news(&self, now: &Snapshot) -> bool {
        match self.sent {
            None => true,
            // An index below the last one: Consul was reset, and everything may be different.
            Some(sent) => now.index < sent || now.changed_below(&self.scope, &self.prefix) > sent,
        }
    }
}
