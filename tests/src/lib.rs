//! plinth-tests
