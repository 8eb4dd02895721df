//! demo-service
