//! Between replicas: am I alive, and what do you see?

use std::time::Duration;

use axum::extract::State;
use futures_util::future::join_all;
use plinth_core::health::Status;
use plinth_kit::auth::Caller;
use plinth_kit::problem::{Json, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use crate::Error;
use crate::domain::target::Target;

/// Instances in one question.
const MOST: usize = 16;
/// Whoever asks does not wait for longer ones.
const LONGEST_PROBE: Duration = Duration::from_secs(5);

/// Which replica answers. No secret: anyone may ask.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    pub id: String,
}

/// Instances to look at now. Only registered ones: this is no way to have any address probed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProbeQuestion {
    pub service_ids: Vec<String>,
}

/// What was found; instances that are not registered or not probed are left out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProbeAnswer {
    pub results: Vec<ProbeResult>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProbeResult {
    pub service_id: String,
    #[schema(value_type = String)]
    pub status: Status,
}

/// This replica's id.
#[utoipa::path(get, path = "/api/v1/internal/member", tag = "internal", security(()), responses(
    (status = 200, body = Identity)))]
pub async fn member(State(state): State<AppState>) -> Json<Identity> {
    Json(Identity { id: state.me })
}

/// Looks at instances now and says what it found. Changes nothing.
#[utoipa::path(post, path = "/api/v1/internal/probe", tag = "internal", request_body = ProbeQuestion, responses(
    (status = 200, body = ProbeAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem)))]
pub async fn probe(
    State(state): State<AppState>,
    caller: Caller,
    Json(question): Json<ProbeQuestion>,
) -> Result<Json<ProbeAnswer>, Problem> {
    caller.require("health", "probe", None)?;
    if question.service_ids.len() > MOST {
        return Err(Error::TooMany { most: MOST }.into());
    }
    let targets: Vec<(String, Target, Duration)> = {
        let warden = state.warden.lock();
        question
            .service_ids
            .into_iter()
            .filter_map(|id| {
                let target = warden.case(&id)?.target()?;
                let timeout = target.timeout.min(LONGEST_PROBE);
                Some((id, target.clone(), timeout))
            })
            .collect()
    };
    let looks = targets.into_iter().map(|(service_id, target, timeout)| {
        let prober = &state.prober;
        async move {
            let found = prober.probe_service(&target.service, &target.probe, timeout).await;
            ProbeResult { service_id, status: found.status }
        }
    });
    Ok(Json(ProbeAnswer { results: join_all(looks).await }))
}
