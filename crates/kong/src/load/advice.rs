//! What is right by Kong's rules and still surprises people.

use std::sync::Arc;

use crate::model::{Config, Plugin, PluginConfig, Route};
use crate::{Segment, Warning};

/// Warnings on a whole, valid configuration about some of its routes and the places those have in the file.
pub(super) fn advise(
    config: &Config,
    routes: impl Iterator<Item = (Arc<Route>, Vec<Segment>)>,
) -> Vec<Warning> {
    let cors: Vec<&Plugin> = config
        .plugins
        .iter()
        .map(AsRef::as_ref)
        .filter(|plugin| {
            plugin.enabled && matches!(&plugin.config, PluginConfig::Cors(cors) if !cors.preflight_any_method)
        })
        .collect();
    routes
        .filter(|(route, _)| misses_preflight(route) && cors.iter().any(|plugin| applies(plugin, route)))
        .map(|(_, mut path)| {
            path.push(Segment::from("methods"));
            Warning {
                path,
                message: "a CORS preflight (OPTIONS) does not match this route and gets 404, as in Kong; add OPTIONS to \
                          its methods, or set the cors plugin's preflight_any_method"
                    .into(),
            }
        })
        .collect()
}

fn misses_preflight(route: &Route) -> bool {
    !route.methods.is_empty() && !route.methods.iter().any(|method| method == "OPTIONS")
}

fn applies(plugin: &Plugin, route: &Route) -> bool {
    plugin.route.is_none_or(|id| id == route.id) && plugin.service.is_none_or(|id| Some(id) == route.service)
}
