//! plinth-events
