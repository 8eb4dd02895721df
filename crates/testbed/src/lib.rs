//! plinth-testbed
