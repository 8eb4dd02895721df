//! The shortest way from one version to the next: the texts differ within one entity, which stays what it was to all others (same
//! id, same name, same references). Then only it is read, and nothing between entities has to be checked again.
//!
//! In doubt this gives up, and the document is taken apart as a whole; so do faults, of which the whole document tells best.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::found::{Document, Found, Source};
use super::fresh::fresh;
use super::link::references;
use super::ready::{Ready, Reference, Typed};
use super::reload::{Made, PutTogether, Reloader, Upstreams, with_targets};
use super::vault::Vaults;
use super::{Card, Fresh, Loader, State, Version, advice, segments, split, steps};
use crate::model::Config;
use crate::report::Report;
use crate::{Loaded, Warning};

/// The last document and what it gave.
#[derive(Debug)]
pub(super) struct Last {
    text: String,
    pieces: Pieces,
    cards: Vec<Card>,
    config: Config,
    version: Version,
    vaults: Vaults,
}

/// Whose text stands where: ranges of bytes and positions of cards, in the order of the text.
#[derive(Debug)]
pub(super) struct Pieces(Vec<(Range<usize>, usize)>);

impl Pieces {
    pub fn of(document: &str, found: &[Found<'_>]) -> Pieces {
        let base = document.as_ptr().addr();
        let mut pieces = Vec::with_capacity(found.len());
        for (card, one) in found.iter().enumerate() {
            if let Source::Text(texts) = &one.source {
                pieces.extend(texts.iter().map(|text| {
                    let start = text.as_ptr().addr() - base;
                    (start..start + text.len(), card)
                }));
            }
        }
        pieces.sort_unstable_by_key(|(range, _)| range.start);
        Pieces(pieces)
    }

    /// The piece a change happens in. What is put in between two pieces belongs to the first: nothing but its own lines can
    /// follow a dash.
    fn around(&self, change: &Range<usize>) -> Option<usize> {
        let before = if change.is_empty() { change.start } else { change.start + 1 };
        let at = self.0.partition_point(|(range, _)| range.start < before).checked_sub(1)?;
        self.0.get(at).filter(|(range, _)| change.end <= range.end).map(|_| at)
    }
}

/// Where two texts differ, in whole lines of both.
fn change(old: &str, new: &str) -> (Range<usize>, Range<usize>) {
    let (old, new) = (old.as_bytes(), new.as_bytes());
    let same = common(old.iter().zip(new), old.chunks(BLOCK).zip(new.chunks(BLOCK)));
    let start =
        old.get(..same).and_then(|same| same.iter().rposition(|b| *b == b'\n')).map_or(0, |at| at + 1);
    // from the line's start: an added line may begin as the one it is put before
    let (old_rest, new_rest) = (old.get(start..).unwrap_or_default(), new.get(start..).unwrap_or_default());
    let tail = common(
        old_rest.iter().rev().zip(new_rest.iter().rev()),
        old_rest.rchunks(BLOCK).zip(new_rest.rchunks(BLOCK)),
    );
    let at_line = |text: &[u8], end: usize| end <= start || text.get(end - 1) == Some(&b'\n');
    let (mut old_end, mut new_end) = (old.len() - tail, new.len() - tail);
    if !(at_line(old, old_end) && at_line(new, new_end)) {
        let rest = old.get(old_end..).unwrap_or_default();
        let more = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
        old_end += more;
        new_end += more;
    }
    (start..old_end, start..new_end)
}

const BLOCK: usize = 4096;

/// How long two texts are the same: first by blocks, then by bytes.
fn common<'t>(
    bytes: impl Iterator<Item = (&'t u8, &'t u8)>,
    blocks: impl Iterator<Item = (&'t [u8], &'t [u8])>,
) -> usize {
    let same = blocks.take_while(|(one, other)| one.len() == BLOCK && one == other).count() * BLOCK;
    same + bytes.skip(same).take_while(|(one, other)| one == other).count()
}

/// Whether a text is one entry of such a list, whatever stands around it.
fn is_lone(entity: &'static crate::entities::Entity, text: &str) -> bool {
    let list = format!("{}:\n{text}", entity.collection);
    let Some(Document { head, found }) = split::split(&list) else { return false };
    let own = |source: &Source<'_>| matches!(source, Source::Text(pieces) if matches!(pieces.as_slice(), [own] if *own == text));
    head.is_empty()
        && matches!(found.as_slice(), [one] if std::ptr::eq(one.entity, entity) && own(&one.source))
}

/// To all other entities both are the same.
fn stands_for(ready: &Ready, fresh: &Fresh) -> bool {
    !ready.by_content
        && !fresh.by_content
        && (ready.id, ready.given_id) == (fresh.id, fresh.given_id)
        && (&ready.key, &ready.unique) == (&fresh.key, &fresh.unique)
        && ready.secrets.is_empty()
        && fresh.secrets.is_empty()
}

fn swap<T>(list: &mut [Arc<T>], old: &Arc<T>, new: &Arc<T>) -> Option<()> {
    let place = list.iter_mut().find(|one| Arc::ptr_eq(one, old))?;
    *place = Arc::clone(new);
    Some(())
}

/// Puts an entity where its former version is. Not vaults, whose values are everywhere.
fn replace(config: &mut Config, upstreams: &mut Upstreams, old: &Typed, new: &Typed) -> Option<()> {
    match (old, new) {
        (Typed::Upstream(_), Typed::Upstream(new)) => {
            let parts = upstreams.get_mut(&new.id)?;
            parts.0 = Arc::clone(new);
            put_together(config, parts)
        }
        (Typed::Target(of, old), Typed::Target(to, new)) if of == to => {
            let parts = upstreams.get_mut(of)?;
            swap(&mut parts.1, old, new)?;
            put_together(config, parts)
        }
        (Typed::Service(old), Typed::Service(new)) => swap(&mut config.services, old, new),
        (Typed::Route(old), Typed::Route(new)) => swap(&mut config.routes, old, new),
        (Typed::Consumer(old), Typed::Consumer(new)) => swap(&mut config.consumers, old, new),
        (Typed::Plugin(old), Typed::Plugin(new)) => {
            let scope = |plugin: &crate::Plugin| (plugin.service, plugin.route, plugin.consumer);
            let same = old.name == new.name && scope(old) == scope(new);
            same.then(|| swap(&mut config.plugins, old, new)).flatten()
        }
        (Typed::Certificate(old), Typed::Certificate(new)) => swap(&mut config.certificates, old, new),
        (Typed::Key(old), Typed::Key(new)) => swap(&mut config.keyauth_credentials, old, new),
        (Typed::Jwt(old), Typed::Jwt(new)) => swap(&mut config.jwt_secrets, old, new),
        (Typed::Basic(old), Typed::Basic(new)) => swap(&mut config.basicauth_credentials, old, new),
        (Typed::Hmac(old), Typed::Hmac(new)) => swap(&mut config.hmacauth_credentials, old, new),
        (Typed::Acl(old), Typed::Acl(new)) => swap(&mut config.acls, old, new),
        (Typed::OAuth2(old), Typed::OAuth2(new)) => swap(&mut config.oauth2_credentials, old, new),
        (Typed::Sni(old), Typed::Sni(new)) => swap(&mut config.snis, old, new),
        (Typed::CaCertificate(old), Typed::CaCertificate(new)) => swap(&mut config.ca_certificates, old, new),
        _ => None,
    }
}

/// An upstream of which a part is another one now.
fn put_together(config: &mut Config, (bare, targets, made): &mut PutTogether) -> Option<()> {
    let new = with_targets(bare, targets);
    swap(&mut config.upstreams, made, &new)?;
    *made = new;
    Some(())
}

impl Reloader {
    /// Keeps what the next version may be a small change of.
    pub(super) fn remember(&mut self, document: &str, pieces: Pieces, made: Made) -> Loaded {
        let Made { loaded, cards, version, vaults } = made;
        let config = loaded.config.clone();
        self.last = Some(Last { text: document.to_owned(), pieces, cards, config, version, vaults });
        loaded
    }

    /// The next version, if it is such a change of the last one.
    pub(super) fn patch(&mut self, document: &str) -> Option<Loaded> {
        let last = self.last.as_ref()?;
        let (old, new) = change(&last.text, document);
        if old.is_empty() && new.is_empty() {
            let config = last.config.clone();
            return Some(Loaded { config, report: Report::default(), warnings: Vec::new() });
        }
        let (piece, at) = {
            let piece = last.pieces.around(&old)?;
            (piece, last.pieces.0.get(piece)?.1)
        };
        let card = last.cards.get(at)?;
        let State::Kept(before) = &card.state else { return None };
        let mut text = String::new();
        for (index, (range, _)) in last.pieces.0.iter().enumerate().filter(|(_, (_, of))| *of == at) {
            if index == piece {
                text.push_str(last.text.get(range.start..old.start)?);
                text.push_str(document.get(new.clone())?);
                text.push_str(last.text.get(old.end..range.end)?);
            } else {
                text.push_str(last.text.get(range.clone())?);
            }
        }
        if !is_lone(card.entity, &text) {
            return None;
        }
        let ready = self.reread(last, card, before, &text)?;
        let mut config = last.config.clone();
        replace(&mut config, &mut self.upstreams, &before.typed, &ready.typed)?;
        let place = steps(&last.cards, card.entity, card.index, card.parent);
        let mut warnings: Vec<Warning> = ready.warnings_at(&place).collect();
        if let Typed::Route(route) = &ready.typed {
            warnings.extend(advice::advise(&config, std::iter::once((Arc::clone(route), segments(&place)))));
        }
        self.settle(document, piece, (old, new), ready, config.clone());
        Some(Loaded { config, report: Report::default(), warnings })
    }

    /// The entity in its new version, with the references it had.
    fn reread(&self, last: &Last, card: &Card, before: &Ready, text: &str) -> Option<Arc<Ready>> {
        let parent = card.parent.and_then(|(at, back)| Some((back, last.cards.get(at)?.id())));
        let mut loader = Loader::new(self.secrets.clone(), false);
        loader.version = last.version;
        loader.vaults.clone_from(&last.vaults);
        let one = Found {
            entity: card.entity,
            index: card.index,
            parent: card.parent,
            source: Source::Text(Vec::new()),
        };
        let text = (text, self.digest(card.entity, text, parent.map(|(_, id)| id)));
        let mut fresh = fresh(&mut loader, &last.cards, &one, text, parent, &mut HashMap::default()).ok()?;
        if !loader.faults.is_empty() || !stands_for(before, &fresh) {
            return None;
        }
        let resolved: Option<Vec<Reference>> = references(card.entity, &fresh.map)
            .map(|(field, to, text)| {
                before
                    .references
                    .iter()
                    .find(|one| (one.field, one.to, &*one.text) == (field, to, text))
                    .cloned()
            })
            .collect();
        fresh.references = resolved?;
        fresh.finish(card.entity, card.parent).ok()?;
        fresh.typed.as_ref()?;
        Some(Arc::new(fresh.into_ready()))
    }

    /// The new version is the last one from now on.
    fn settle(
        &mut self,
        document: &str,
        piece: usize,
        (old, new): (Range<usize>, Range<usize>),
        ready: Arc<Ready>,
        config: Config,
    ) {
        let Some(mut last) = self.last.take() else { return };
        let Some((_, at)) = last.pieces.0.get(piece).cloned() else { return };
        let Some(card) = last.cards.get_mut(at) else { return };
        self.loads += 1;
        if let State::Kept(before) = &card.state {
            self.ready.remove(&(before.digest, before.copy));
        }
        self.ready.insert((ready.digest, ready.copy), (Arc::clone(&ready), self.loads));
        card.state = State::Kept(ready);
        let moved = |place: usize| place - old.end + new.end;
        for (index, (range, _)) in last.pieces.0.iter_mut().enumerate().skip(piece) {
            let start = if index == piece { range.start } else { moved(range.start) };
            *range = start..moved(range.end);
        }
        last.text.replace_range(old.clone(), document.get(new).unwrap_or_default());
        last.config = config;
        self.last = Some(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Secrets};

    const FILE: &str = "_format_version: \"3.0\"\nservices:\n- name: one\n  host: one.example\n  routes:\n  - name: a\n    paths: [/a]\n  tags: [t]\nroutes:\n- name: b\n  service: one\n  paths: [/b]\nupstreams:\n- name: up\n  targets:\n  - target: a:1\n    weight: 5\n  - target: b:2\nconsumers:\n- username: c\n  acls:\n  - group: g\n    tags: [h]\n";

    /// Which changes take the short way; that both ways give the same is tested from outside.
    #[test]
    fn only_changes_within_one_entity_take_the_short_way() {
        let short = |from: &str, to: &str| {
            let mut reloader = Reloader::new(Secrets::required(|_| None));
            reloader.load(FILE, Format::Yaml).unwrap_or_else(|faults| panic!("{faults}"));
            assert!(FILE.contains(from), "{from}");
            reloader.patch(&FILE.replacen(from, to, 1)).is_some()
        };
        assert!(short("[/a]", "[/a, /c]") && short("[/b]", "[/b]\n  strip_path: false"));
        assert!(short("host: one", "host: two") && short("  tags: [t]\n", ""), "around what is nested");
        assert!(short("weight: 5", "weight: 7"), "a target");
        assert!(short("- name: up\n", "- name: up\n  slots: 100\n"), "its upstream");
        assert!(short("tags: [h]", "tags: [i]"), "what belongs to a consumer");
        assert!(short("name: one", "name: one"), "no change at all");
        assert!(!short("name: one", "name: other"), "others may refer to the name");
        assert!(!short("  service: one\n", "  service: two\n"), "another reference");
        assert!(!short("- name: b", "- name: c\n  paths: [/c]\n- name: b"), "one entity more");
        assert!(!short("paths: [/a]", "paths: /a"), "a fault");
        assert!(!short("3.0", "2.1"), "what all depend on");
    }
}
