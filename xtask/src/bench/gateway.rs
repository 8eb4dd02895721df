//! The gateway against its peers: CPU time of the proxy per proxied request. The proxy has core 0 for itself; load
//! generator and upstream share core 1. Proxies are measured in short slices in turns, so that a noisy machine hits
//! all of them; a figure is the median of the ratios within a turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::process::Failed;
use crate::provision;

use super::running::Running;
use super::{cpu, http, kongfile, median, pinned, program, wrk};

const TURNS: usize = 12;
const SLICE_SECONDS: u32 = 2;
const CONNECTIONS: u32 = 64;
const PATH: &str = "/api/v1/users/42";

struct Peer {
    name: &'static str,
    address: SocketAddr,
    headers: Vec<String>,
    running: Running,
    /// CPU microseconds per request, one a turn.
    costs: Vec<f64>,
    p99_ms: Vec<f64>,
}

/// Plain proxying next to nginx, on two upstreams.
pub fn plain(folder: &Path) -> Result<(), Failed> {
    let mut ratios = Vec::new();
    for (upstream_name, upstream) in [("nginx", address(19_000)), ("raw", address(19_001))] {
        let _upstream = start_upstream(upstream_name, upstream, folder)?;
        let file = kongfile::plain(folder, upstream)?;
        let mut peers =
            vec![gateway("gateway", 18_001, &file, Vec::new(), folder)?, nginx(upstream, folder)?];
        measure(&mut peers)?;
        ratios.push(report(&format!("plain, upstream {upstream_name}"), &peers, "nginx"));
    }
    let mean = ratios.iter().product::<f64>().powf(1.0 / ratios.len() as f64);
    println!("\ngateway / nginx, geometric mean of both upstreams: {mean:.2} (bar: at most 1.25)");
    Ok(())
}

/// The seed's plugins next to the same gateway without any, with a short request and with theirs, and next to plain
/// Envoy and Traefik.
pub fn plugins(folder: &Path) -> Result<(), Failed> {
    let peers_folder = provision::proxies()?;
    let upstream = address(19_000);
    let _upstream = start_upstream("nginx", upstream, folder)?;
    let (file, headers) = kongfile::with_plugins(folder, upstream)?;
    let without = kongfile::plain(folder, upstream)?;
    let mut peers = vec![
        gateway("gateway+plugins", 18_001, &file, headers.clone(), folder)?,
        gateway("gateway", 18_005, &without, Vec::new(), folder)?,
        gateway("gateway, same request", 18_006, &without, headers, folder)?,
        envoy(&peers_folder, upstream, folder)?,
        traefik(&peers_folder, upstream, folder)?,
    ];
    measure(&mut peers)?;
    let plain = report("the seed's plugins against the gateway without", &peers, "gateway");
    println!("\ngateway with plugins / gateway: {plain:.2} (bar: at most 1.25)");
    for peer in ["envoy", "traefik"] {
        let ratio = report("the seed's plugins against plain proxying", &peers, peer);
        println!("\ngateway with plugins / plain {peer}: {ratio:.2} (bar: at most 0.50)");
    }
    Ok(())
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn measure(peers: &mut [Peer]) -> Result<(), Failed> {
    for turn in 0..=TURNS {
        let count = peers.len();
        // Turn 0 warms up; the order moves on each turn.
        for at in 0..count {
            let peer = &mut peers[(at + turn) % count];
            let before = cpu::seconds(peer.running.id());
            let load = wrk::run(
                &format!("http://{}{PATH}", peer.address),
                CONNECTIONS,
                SLICE_SECONDS,
                &peer.headers,
            )?;
            let cost = (cpu::seconds(peer.running.id()) - before) / load.requests * 1e6;
            if turn > 0 {
                peer.costs.push(cost);
                peer.p99_ms.push(load.p99_ms);
            }
        }
    }
    Ok(())
}

/// Prints the table; the median ratio of the first peer to `reference`.
fn report(title: &str, peers: &[Peer], reference: &str) -> f64 {
    println!("\n{title}; {TURNS} turns of {SLICE_SECONDS} s, {CONNECTIONS} connections, 1 KiB\n");
    println!("| | CPU us/request, median | least | x {reference} | p99 ms |\n|---|---|---|---|---|");
    let base = peers.iter().find(|peer| peer.name == reference);
    let ratio = |peer: &Peer| {
        let pairs: Vec<f64> = base
            .iter()
            .flat_map(|base| peer.costs.iter().zip(&base.costs))
            .map(|(own, other)| own / other)
            .collect();
        median(&pairs)
    };
    for peer in peers {
        let least = peer.costs.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "| {} | {:.1} | {least:.1} | {:.2} | {:.1} |",
            peer.name,
            median(&peer.costs),
            ratio(peer),
            median(&peer.p99_ms)
        );
    }
    peers.first().map_or(f64::NAN, ratio)
}

fn start_upstream(name: &str, upstream: SocketAddr, folder: &Path) -> Result<Running, Failed> {
    let command = if name == "raw" {
        let mut command = pinned(1, std::env::current_exe().map_err(|error| Failed(error.to_string()))?);
        command.args(["bench-upstream", &upstream.to_string()]);
        command
    } else {
        let body = "x".repeat(1024);
        let server = format!("listen {upstream} backlog=4096; location / {{ return 200 \"{body}\"; }}");
        nginx_command(1, "upstream", &server, "", folder)?
    };
    let mut running = Running::start(&format!("upstream-{name}"), command, folder)?;
    running.listening(upstream)?;
    Ok(running)
}

fn checked(
    name: &'static str,
    address: SocketAddr,
    headers: Vec<String>,
    mut running: Running,
) -> Result<Peer, Failed> {
    running.until(&format!("{name} proxies"), || {
        http::ask(address, "GET", PATH, &headers, "")
            .is_some_and(|answer| answer.status == 200 && answer.body.len() == 1024)
    })?;
    Ok(Peer { name, address, headers, running, costs: Vec::new(), p99_ms: Vec::new() })
}

fn gateway(
    name: &'static str,
    port: u16,
    file: &Path,
    headers: Vec<String>,
    folder: &Path,
) -> Result<Peer, Failed> {
    let mut command = pinned(0, program("gateway"));
    command.arg("--config").arg(file).args(["--proxy-listen", &address(port).to_string(), "--workers", "1"]);
    command.args([
        "--admin-listen",
        "127.0.0.1:0",
        "--status-listen",
        "127.0.0.1:0",
        "--register",
        "false",
        "--log-level",
        "error",
    ]);
    // Nothing of these files is discovered; a Consul is not needed.
    command.env("CONSUL_HTTP_ADDR", "127.0.0.1:1");
    checked(name, address(port), headers, Running::start(name, command, folder)?)
}

fn nginx(upstream: SocketAddr, folder: &Path) -> Result<Peer, Failed> {
    let listen = address(18_002);
    let server = format!(
        "listen {listen} reuseport; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; }}"
    );
    let group = format!(
        "upstream up {{ server {upstream}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}"
    );
    let command = nginx_command(0, "nginx", &server, &group, folder)?;
    checked("nginx", listen, Vec::new(), Running::start("nginx", command, folder)?)
}

fn nginx_command(
    core: u32,
    name: &str,
    server: &str,
    group: &str,
    folder: &Path,
) -> Result<std::process::Command, Failed> {
    let at = folder.display();
    let text = format!(
        "daemon off; worker_processes 1; pid {at}/{name}.pid; error_log {at}/{name}-error.log error; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; multi_accept on; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on; default_type text/plain;
client_body_temp_path {at}/{name}-b; proxy_temp_path {at}/{name}-p; fastcgi_temp_path {at}/{name}-f; uwsgi_temp_path {at}/{name}-u; scgi_temp_path {at}/{name}-s;
{group}
server {{ {server} }} }}
"
    );
    let file = folder.join(format!("{name}.conf"));
    std::fs::write(&file, text).map_err(|error| Failed(format!("{}: {error}", file.display())))?;
    let mut command = pinned(core, "nginx");
    command.arg("-p").arg(folder).arg("-c").arg(file);
    Ok(command)
}

fn envoy(peers: &Path, upstream: SocketAddr, folder: &Path) -> Result<Peer, Failed> {
    let listen = address(18_003);
    let text = format!(
        r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP1
          use_remote_address: true
          generate_request_id: false
          route_config: {{virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: u}}}}]}}]}}
          http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
  clusters:
  - name: u
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}]}}
    load_assignment: {{cluster_name: u, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
"#,
        listen.port(),
        upstream.port()
    );
    let file = folder.join("envoy.yaml");
    std::fs::write(&file, text).map_err(|error| Failed(format!("{}: {error}", file.display())))?;
    let mut command = pinned(0, peers.join("envoy"));
    command.arg("-c").arg(file).args(["--concurrency", "1", "-l", "error"]);
    checked("envoy", listen, Vec::new(), Running::start("envoy", command, folder)?)
}

fn traefik(peers: &Path, upstream: SocketAddr, folder: &Path) -> Result<Peer, Failed> {
    let listen = address(18_004);
    let dynamic = folder.join("traefik-dynamic.yaml");
    let routes = format!(
        "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: s, entryPoints: [web]}}}}\n  services: {{s: {{loadBalancer: {{passHostHeader: true, servers: [{{url: \"http://{upstream}\"}}]}}}}}}\n"
    );
    let file = folder.join("traefik.yaml");
    let text = format!(
        "global: {{checkNewVersion: false, sendAnonymousUsage: false}}\nlog: {{level: ERROR}}\nentryPoints: {{web: {{address: \"{listen}\"}}}}\nserversTransport: {{maxIdleConnsPerHost: 256}}\nproviders: {{file: {{filename: \"{}\"}}}}\n",
        dynamic.display()
    );
    for (path, text) in [(&dynamic, &routes), (&file, &text)] {
        std::fs::write(path, text).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
    }
    let mut command = pinned(0, peers.join("traefik"));
    command.arg(format!("--configFile={}", file.display())).env("GOMAXPROCS", "1");
    checked("traefik", listen, Vec::new(), Running::start("traefik", command, folder)?)
}
