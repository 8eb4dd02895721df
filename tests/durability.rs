//! `plinth agent` as its own process: killed hard under load, on a disk that is full, and its histories checked for
//! linearizability, on real Consul too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support {
    pub mod program;
}
mod agent {
    pub mod client;
    pub mod full_disk;
    pub mod history;
    pub mod killed;
    pub mod linear;
    pub mod node;
    pub mod objects;
}
