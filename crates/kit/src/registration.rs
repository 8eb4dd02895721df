//! Keeps a service in the catalog while it runs.

use std::time::Duration;

use plinth_core::health::Status;
use plinth_core::registration::{Owner, Registrar, Registration};
use tokio::task::JoinHandle;

/// Pauses between attempts, and between looks whether the registration is still there.
const RETRY: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_secs(10);

/// Registers, and registers again when the registration is gone.
pub(crate) struct SelfRegistration {
    registrar: Registrar,
    id: String,
    owner: Owner,
    keeper: JoinHandle<()>,
}

impl SelfRegistration {
    pub(crate) fn start(registrar: Registrar, registration: Registration, owner: Owner) -> SelfRegistration {
        let keeper = tokio::spawn(keep(registrar.clone(), registration.clone(), owner.clone()));
        SelfRegistration { registrar, id: registration.service_id, owner, keeper }
    }

    pub(crate) async fn deregister(self) {
        self.keeper.abort();
        if let Err(error) = self.registrar.deregister(&self.id, Some(&self.owner)).await {
            tracing::warn!(error = crate::problem::chain(&error), "cannot deregister");
        }
    }
}

async fn keep(registrar: Registrar, registration: Registration, owner: Owner) {
    // The first attempt always writes: what is there may be of a run that was killed.
    let (mut registered, mut failing) = (false, false);
    loop {
        let present = registrar.get(&registration.service_id).await.map(|found| found.is_some());
        let outcome = match present {
            Ok(true) if registered => Ok(()),
            Ok(_) => registrar.register(&registration, &owner, Status::Passing).await.map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                (registered, failing) = (true, false);
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(error = crate::problem::chain(&error), "cannot register; trying on");
                }
                (registered, failing) = (false, true);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
