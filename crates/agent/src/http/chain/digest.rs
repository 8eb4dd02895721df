//! The hash by which chains are told apart that were customized differently.

use std::collections::BTreeSet;

use super::compile::Overrides;

/// Eight digits that tell chains apart which overrides changed differently: the same as Consul's, which hashes a structure
/// by the hashes of its name, its fields' names and their values.
pub fn of(customized: &BTreeSet<&'static str>, overrides: &Overrides) -> String {
    let chosen = |what: &'static str, value: u64, nothing: u64| {
        if customized.contains(what) { value } else { nothing }
    };
    let text = |text: &str| fnv(text.as_bytes());
    let pair = |field: &str, value: u64| fnv([text(field), value].map(u64::to_le_bytes).as_flattened());
    let mesh = |mode: &str| text("MeshGatewayConfig") ^ pair("Mode", text(mode));
    let nanos = u64::try_from(overrides.connect_timeout.as_nanos()).unwrap_or(u64::MAX);
    let mesh = chosen("mesh gateway", mesh(&overrides.mesh_gateway), mesh(""));
    let protocol = chosen("protocol", text(&overrides.protocol), text(""));
    let timeout = chosen("timeout", fnv(&nanos.to_le_bytes()), fnv(&[0; 8]));
    let hash = text("")
        ^ pair("OverrideMeshGateway", mesh)
        ^ pair("OverrideProtocol", protocol)
        ^ pair("OverrideConnectTimeout", timeout);
    format!("{hash:x}").chars().take(8).collect()
}

/// FNV-1 of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn customized_chains_have_consuls_hash() {
        let overrides = Overrides {
            mesh_gateway: "local".to_owned(),
            protocol: "grpc".to_owned(),
            connect_timeout: Duration::from_secs(22),
        };
        let all = BTreeSet::from(["mesh gateway", "protocol", "timeout"]);
        assert_eq!(of(&all, &overrides), "98809527");
    }
}
