//! The crate `rs-consul` against the server of CONSUL_HTTP_ADDR; prints one line a part, ends with an error otherwise.

use std::collections::HashMap;
use std::time::Duration;

use rs_consul::types::{
    CreateOrUpdateKeyRequest, DeleteKeyRequest, DeregisterEntityPayload, GetNodesRequest,
    GetServiceNodesRequest, LockRequest, LockWatchRequest, QueryOptions, ReadKeyRequest,
    RegisterEntityPayload, RegisterEntityService,
};
use rs_consul::{Config, Consul};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn consul() -> Consul {
    let address = std::env::var("CONSUL_HTTP_ADDR").expect("CONSUL_HTTP_ADDR");
    // The crate wants a scheme, which the variable may leave out.
    Consul::new(Config { address: format!("http://{address}"), ..Config::default() })
}

#[tokio::main]
async fn main() -> Outcome {
    let consul = consul();
    kv(&consul).await?;
    println!("kv ok");
    locks(&consul).await?;
    println!("locks ok");
    catalog(&consul).await?;
    println!("catalog ok");
    Ok(())
}

fn key(key: &str) -> CreateOrUpdateKeyRequest<'_> {
    CreateOrUpdateKeyRequest { key, ..Default::default() }
}

async fn kv(consul: &Consul) -> Outcome {
    let (written, _) = consul.create_or_update_key(key("rs/a"), b"one".to_vec()).await?;
    assert!(written);
    let read = consul.read_key(ReadKeyRequest { key: "rs/a", ..Default::default() }).await?;
    assert_eq!(read.response[0].value.as_deref(), Some("one"));
    let index = read.index;
    let stale = CreateOrUpdateKeyRequest { check_and_set: Some(0), ..key("rs/a") };
    assert!(!consul.create_or_update_key(stale, b"no".to_vec()).await?.0);
    let fresh =
        CreateOrUpdateKeyRequest { check_and_set: Some(read.response[0].modify_index), ..key("rs/a") };
    assert!(consul.create_or_update_key(fresh, b"two".to_vec()).await?.0);
    // A blocking read comes back with the next change.
    let poll = consul.read_key(ReadKeyRequest {
        key: "rs/a",
        index: Some(index),
        wait: Duration::from_secs(10),
        ..Default::default()
    });
    assert_eq!(poll.await?.response[0].value.as_deref(), Some("two"));
    consul
        .create_or_update_key(CreateOrUpdateKeyRequest { flags: u64::MAX, ..key("rs/b/c") }, Vec::new())
        .await?;
    let all = consul.read_key(ReadKeyRequest { key: "rs/", recurse: true, ..Default::default() }).await?;
    let keys: Vec<&str> = all.response.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["rs/a", "rs/b/c"]);
    assert_eq!(all.response[1].flags, u64::MAX);
    assert!(consul.delete_key(DeleteKeyRequest { key: "rs/", recurse: true, ..Default::default() }).await?);
    assert!(consul.read_key(ReadKeyRequest { key: "rs/a", ..Default::default() }).await.is_err());
    Ok(())
}

async fn locks(consul: &Consul) -> Outcome {
    let request = LockRequest { key: "rs/lock", lock_delay: Duration::ZERO, ..Default::default() };
    let lock = consul.get_lock(request, b"first").await?;
    assert!(consul.get_lock(request, b"second").await.is_err());
    let held = consul.read_key(ReadKeyRequest { key: "rs/lock", ..Default::default() }).await?;
    assert_eq!(held.response[0].session.as_deref(), Some(lock.session_id.as_str()));
    let watch = LockWatchRequest {
        key: "rs/lock",
        index: Some(held.index),
        wait: Duration::from_secs(10),
        ..Default::default()
    };
    let (seen, ()) = tokio::join!(consul.watch_lock(watch), async {
        // Letting it go is a synchronous request.
        tokio::task::block_in_place(|| drop(lock));
    });
    assert_eq!(seen?.response[0].session, None);
    drop(consul.get_lock(request, b"second").await?);
    Ok(())
}

async fn catalog(consul: &Consul) -> Outcome {
    let payload = RegisterEntityPayload {
        ID: None,
        Node: "rs-node".into(),
        Address: "10.0.0.9".into(),
        Datacenter: None,
        TaggedAddresses: HashMap::new(),
        NodeMeta: HashMap::from([("kind".into(), "external".into())]),
        Service: Some(RegisterEntityService {
            ID: Some("rs-1".into()),
            Service: "rs-svc".into(),
            Tags: vec!["a".into()],
            TaggedAddresses: HashMap::new(),
            Meta: HashMap::from([("m".into(), "1".into())]),
            Port: Some(42_424),
            Namespace: None,
        }),
        Checks: Vec::new(),
        SkipNodeUpdate: None,
    };
    consul.register_entity(&payload).await?;
    let names = consul.get_all_registered_service_names(None).await?;
    assert!(names.response.contains(&"rs-svc".to_owned()), "{:?}", names.response);
    let request = GetServiceNodesRequest { service: "rs-svc", passing: true, ..Default::default() };
    let nodes = consul.get_service_nodes(request.clone(), None).await?;
    assert_eq!(nodes.response[0].service.id, "rs-1");
    assert_eq!(nodes.response[0].node.node, "rs-node");
    assert_eq!(
        consul.get_service_addresses_and_ports("rs-svc", None).await?,
        [("10.0.0.9".to_owned(), 42_424)]
    );
    let filter = GetNodesRequest { filter: Some("Meta.kind==external"), ..Default::default() };
    assert_eq!(consul.get_nodes(filter, None).await?.response.len(), 1);
    let block = QueryOptions {
        index: Some(nodes.index),
        wait: Some(Duration::from_secs(10)),
        timeout: Some(Duration::from_secs(20)),
        ..QueryOptions::default()
    };
    let payload = DeregisterEntityPayload {
        Node: Some("rs-node".into()),
        Datacenter: None,
        CheckID: None,
        ServiceID: None,
        Namespace: None,
    };
    let (left, gone) =
        tokio::join!(consul.get_service_nodes(request, Some(block)), consul.deregister_entity(&payload));
    gone?;
    assert!(left?.response.is_empty());
    Ok(())
}
