//! Nodes and services.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Decoded, Fields, Malformed, Place};
use crate::schema;
use crate::state::model::{Node, Proxy, Service, ServiceAddress, Weights};

/// A node of a transaction, or of a registration once its own names are mapped.
pub fn node(value: Value, datacenter: &str) -> Decoded<Node> {
    let mut fields = Fields::new(value)?;
    let node = Node {
        id: fields.name(&["ID"])?,
        node: fields.name(&["Node"])?,
        address: fields.text(&["Address"])?,
        datacenter: Some(fields.text(&["Datacenter"])?)
            .filter(|d| !d.is_empty())
            .unwrap_or(datacenter.to_owned()),
        tagged_addresses: fields.pairs(&["TaggedAddresses"])?,
        meta: fields.pairs(&["Meta"])?,
        create_index: fields.unsigned(&["CreateIndex"])?,
        modify_index: fields.unsigned(&["ModifyIndex"])?,
    };
    fields.ignore(&["Partition", "PeerName"]);
    fields.finish()?;
    Ok(node)
}

fn weights(fields: &mut Fields) -> Decoded<Option<Weights>> {
    let Some(map) = fields.object(&["Weights"])? else { return Ok(None) };
    let mut fields = Fields::new(Value::Object(map))?;
    let passing = fields.number(&["Passing"])?.unwrap_or(0);
    let warning = fields.number(&["Warning"])?.unwrap_or(0);
    fields.finish()?;
    Ok(Some(Weights { passing, warning }))
}

fn tagged(fields: &mut Fields) -> Decoded<Option<BTreeMap<String, ServiceAddress>>> {
    let Some(map) = fields.object(&["TaggedAddresses", "tagged_addresses"])? else { return Ok(None) };
    let mut all = BTreeMap::new();
    for (name, value) in map {
        let whole = "struct field .TaggedAddresses of type structs.ServiceAddress";
        let mut fields = Fields::at(value, Place { whole, ..Place::default() })?;
        let address = fields.text(&["Address"])?;
        let port = fields.number(&["Port"])?.unwrap_or(0);
        fields.finish()?;
        all.insert(name, ServiceAddress { address, port });
    }
    Ok(Some(all).filter(|a| !a.is_empty()))
}

fn proxy(fields: &mut Fields) -> Decoded<Proxy> {
    let given = fields.object(&["Proxy"])?.unwrap_or_default();
    let mut faults = schema::Faults::default();
    let mut read = schema::read(given, schema::PROXY, "", &mut faults);
    if let Some(key) = faults.keys.first() {
        let name = key.rsplit('.').next().unwrap_or(key);
        return Err(Malformed(format!("json: unknown field {name:?}")));
    }
    if let Some(fault) = faults.values.into_iter().next() {
        return Err(Malformed(fault));
    }
    // what says nothing and what is absent are printed alike, so they are kept alike
    schema::strip(schema::PROXY, &mut read);
    Ok(Proxy { fields: read })
}

/// A service as the catalog and transactions take it: the name is in `Service`.
pub fn service(value: Value, place: Place) -> Decoded<Service> {
    let mut fields = Fields::at(value, place)?;
    let mut service = service_fields(&mut fields, "Service")?;
    // no weight at all is the default here, unlike in a registration with an agent
    if service.weights == (Weights { passing: 0, warning: 0 }) {
        service.weights = Weights::default();
    }
    service.create_index = fields.unsigned(&["CreateIndex"])?;
    service.modify_index = fields.unsigned(&["ModifyIndex"])?;
    fields.ignore(&[
        "LocallyRegisteredAsSidecar",
        "Namespace",
        "Partition",
        "Datacenter",
        "ContentHash",
        "PeerName",
        "Locality",
    ]);
    fields.finish()?;
    Ok(service)
}

/// Only whether the service speaks the mesh's protocol itself is kept; a sidecar is a service of its own.
fn connect(fields: &mut Fields) -> Decoded<Map<String, Value>> {
    let given = fields.object(&["Connect"])?.unwrap_or_default();
    let native =
        given.into_iter().any(|(name, v)| name.eq_ignore_ascii_case("Native") && v == Value::Bool(true));
    Ok(native.then(|| ("Native".to_owned(), Value::Bool(true))).into_iter().collect())
}

/// The fields every form of a service has.
pub fn service_fields(fields: &mut Fields, name: &str) -> Decoded<Service> {
    let service = fields.name(&[name])?;
    let id = fields.name(&["ID"])?;
    Ok(Service {
        kind: fields.text(&["Kind"])?,
        id: if id.is_empty() { service.clone() } else { id },
        service,
        tags: fields.texts(&["Tags"])?,
        address: fields.text(&["Address"])?,
        tagged_addresses: tagged(fields)?,
        meta: fields.pairs(&["Meta"])?,
        port: fields.number(&["Port"])?.unwrap_or(0),
        socket_path: fields.text(&["SocketPath"])?,
        weights: weights(fields)?.unwrap_or_default(),
        enable_tag_override: fields.flag(&["EnableTagOverride", "enable_tag_override"])?,
        proxy: proxy(fields)?,
        connect: connect(fields)?,
        create_index: 0,
        modify_index: 0,
    })
}
