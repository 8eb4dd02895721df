//! plinth-kong
