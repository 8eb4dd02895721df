//! plinth-agent
