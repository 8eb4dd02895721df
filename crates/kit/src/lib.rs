//! plinth-kit
