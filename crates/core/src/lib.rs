//! plinth-core
