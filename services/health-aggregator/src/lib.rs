//! health-aggregator
