//! The history in PostgreSQL: the item's row lock serialises its changes on all replicas.

use futures_util::future::BoxFuture;
use plinth_events::outbox::insert_postgres;
use sqlx::{PgConnection, PgPool};

use super::rows::{self, HeadRow, Outgoing, RevisionRow, signed};
use super::{Head, KV_LANE, Store, Written};
use crate::Error;
use crate::domain::write::Decision;
use crate::domain::{Action, Change, ItemId, Refusal, Revision};

const LOCK_ITEM: &str =
    "SELECT revision FROM config_item WHERE namespace = $1 AND environment = $2 AND key = $3 FOR UPDATE";

#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
}

impl PostgresStore {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn write_in_transaction(&self, change: &Change) -> Result<Written, Error> {
        let mut transaction = self.pool.begin().await?;
        let id = &change.id;
        sqlx::query(rows::RESERVE_ITEM)
            .bind(id.scope.namespace())
            .bind(id.scope.environment())
            .bind(id.key.as_str())
            .bind(change.at.as_microsecond())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(LOCK_ITEM)
            .bind(id.scope.namespace())
            .bind(id.scope.environment())
            .bind(id.key.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        let head = head(&mut transaction, id).await?;
        // An adoption also gives way to a revision that has not arrived in KV yet.
        if matches!(change.action, Action::Adopt { .. }) && is_pending(&mut transaction, id).await? {
            return Ok(Written::Refused(Refusal::Superseded));
        }
        let revision = match change.decide(head.as_ref()) {
            Ok(Decision::Append(revision)) => revision,
            Ok(Decision::Unchanged) => {
                return Ok(head.map_or(Written::Refused(Refusal::NotFound), Written::Unchanged));
            }
            Err(refusal) => return Ok(Written::Refused(refusal)),
        };
        append(&mut transaction, &revision).await?;
        transaction.commit().await?;
        let before = head.filter(|head| !head.is_tombstone()).map(|head| head.revision);
        Ok(Written::Appended { revision, before })
    }
}

async fn append(transaction: &mut PgConnection, revision: &Revision) -> Result<(), Error> {
    let id = &revision.id;
    sqlx::query(rows::INSERT_REVISION)
        .bind(id.scope.namespace())
        .bind(id.scope.environment())
        .bind(id.key.as_str())
        .bind(signed(revision.revision))
        .bind(revision.kind.as_str())
        .bind(revision.value.as_ref().map(|value| value.as_str()))
        .bind(revision.description.as_deref())
        .bind(&revision.author)
        .bind(revision.item_created_at.as_microsecond())
        .bind(revision.created_at.as_microsecond())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(rows::SET_HEAD)
        .bind(id.scope.namespace())
        .bind(id.scope.environment())
        .bind(id.key.as_str())
        .bind(signed(revision.revision))
        .execute(&mut *transaction)
        .await?;
    let outgoing = Outgoing::of(revision)?;
    let publication = insert_postgres(transaction, &outgoing.publication()).await?;
    insert_postgres(transaction, &outgoing.event(publication)).await?;
    Ok(())
}

async fn head(connection: &mut PgConnection, id: &ItemId) -> Result<Option<Revision>, Error> {
    let row: Option<RevisionRow> = sqlx::query_as(rows::HEAD)
        .bind(id.scope.namespace())
        .bind(id.scope.environment())
        .bind(id.key.as_str())
        .fetch_optional(connection)
        .await?;
    row.map(|row| rows::revision(id, row)).transpose()
}

async fn is_pending(connection: &mut PgConnection, id: &ItemId) -> Result<bool, Error> {
    let waiting: i64 =
        sqlx::query_scalar(rows::PENDING).bind(KV_LANE).bind(id.to_string()).fetch_one(connection).await?;
    Ok(waiting > 0)
}

impl Store for PostgresStore {
    fn write<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Written, Error>> {
        Box::pin(self.write_in_transaction(change))
    }

    fn head<'a>(&'a self, id: &'a ItemId) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
        Box::pin(async move { head(&mut *self.pool.acquire().await?, id).await })
    }

    fn revision<'a>(
        &'a self,
        id: &'a ItemId,
        revision: u64,
    ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
        Box::pin(async move {
            let row: Option<RevisionRow> = sqlx::query_as(rows::REVISION)
                .bind(id.scope.namespace())
                .bind(id.scope.environment())
                .bind(id.key.as_str())
                .bind(signed(revision))
                .fetch_optional(&self.pool)
                .await?;
            row.map(|row| rows::revision(id, row)).transpose()
        })
    }

    fn history<'a>(
        &'a self,
        id: &'a ItemId,
        before: Option<u64>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Revision>, Error>> {
        Box::pin(async move {
            let found: Vec<RevisionRow> = sqlx::query_as(rows::HISTORY)
                .bind(id.scope.namespace())
                .bind(id.scope.environment())
                .bind(id.key.as_str())
                .bind(before.map_or(i64::MAX, signed))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            found.into_iter().map(|row| rows::revision(id, row)).collect()
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>, Error>> {
        Box::pin(async move {
            let found: Vec<HeadRow> = sqlx::query_as(rows::HEADS).fetch_all(&self.pool).await?;
            found.into_iter().map(rows::head).collect()
        })
    }

    fn is_pending<'a>(&'a self, id: &'a ItemId) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move { is_pending(&mut *self.pool.acquire().await?, id).await })
    }

    fn set_published<'a>(
        &'a self,
        id: &'a ItemId,
        revision: u64,
        index: u64,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            sqlx::query(rows::SET_PUBLISHED)
                .bind(id.scope.namespace())
                .bind(id.scope.environment())
                .bind(id.key.as_str())
                .bind(signed(revision))
                .bind(signed(index))
                .execute(&self.pool)
                .await?;
            Ok(())
        })
    }

    fn published_at<'a>(
        &'a self,
        id: &'a ItemId,
        revision: u64,
    ) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let index: Option<i64> = sqlx::query_scalar(rows::PUBLISHED_AT)
                .bind(id.scope.namespace())
                .bind(id.scope.environment())
                .bind(id.key.as_str())
                .bind(signed(revision))
                .fetch_one(&self.pool)
                .await?;
            Ok(index.map(rows::unsigned))
        })
    }

    fn republish<'a>(&'a self, revision: &'a Revision) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let outgoing = Outgoing::of(revision)?;
            insert_postgres(&mut *self.pool.acquire().await?, &outgoing.publication()).await?;
            Ok(())
        })
    }
}
