//! Flags and environment of the demo service.

use std::net::SocketAddr;
use std::time::Duration;

use plinth_core::consul;
use plinth_kit::lifecycle::Advertise;
use plinth_kit::mtls::MtlsSettings;
use plinth_kit::settings::Reader;

/// What `demo-service --help` lists.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name in the catalog.
    pub name: String,
    /// Id in the catalog; none: `<name>-<host>-<port>`.
    pub id: Option<String>,
    pub listen: SocketAddr,
    pub advertise: Advertise,
    /// Time between two probes of `/health`.
    pub check_interval: Duration,
    /// After SIGTERM: how long requests are still taken once the instance is out of the catalog.
    pub drain: Duration,
    pub consul: consul::Settings,
    pub mtls: Option<MtlsSettings>,
}

impl Settings {
    /// `CONSUL_HTTP_ADDR` and its companions mean what they mean to every Consul client; `--consul-address` wins.
    pub fn read(reader: &mut Reader) -> Self {
        let consul = consul::Settings::from_env(|name| reader.env(name).map(str::to_owned));
        let mut consul = consul.unwrap_or_else(|error| {
            reader.fault("consul.address", error.to_string());
            consul::Settings::http(SocketAddr::from(([127, 0, 0, 1], 8500)))
        });
        let address = "Consul's HTTP API or the embedded agent's (also CONSUL_HTTP_ADDR)";
        consul.address = reader.get("consul.address", address, consul.address.clone());
        let host: Option<String> = reader.opt(
            "advertise",
            "host under which others reach this process, or auto: this machine's address on the way to Consul",
        );
        let advertise = match host.as_deref() {
            Some("auto") => Advertise::auto(&consul.address).unwrap_or_else(|fault| {
                reader.fault("advertise", fault);
                Advertise::listener()
            }),
            Some(host) => Advertise::host(host),
            None => Advertise::listener(),
        };
        let listen =
            reader.get("listen", "address and port; port 0 takes a free one", ([127, 0, 0, 1], 0).into());
        Self {
            name: reader.get("name", "name of the service in the catalog", "demo-service".to_owned()),
            id: reader.opt("id", "id of this instance; by default <name>-<host>-<port>"),
            listen,
            advertise,
            check_interval: reader.duration(
                "check_interval",
                "time between probes of /health",
                Duration::from_secs(2),
            ),
            drain: reader.duration(
                "drain",
                "after SIGTERM, how long requests are still taken",
                Duration::from_secs(1),
            ),
            consul,
            mtls: MtlsSettings::read(reader, false),
        }
    }
}
