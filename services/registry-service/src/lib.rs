//! registry-service
