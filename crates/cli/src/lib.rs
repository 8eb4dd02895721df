//! plinth
