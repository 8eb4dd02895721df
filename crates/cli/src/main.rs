//! `plinth`: the whole platform in one process, the embedded agent alone, and commands for operators.

mod agent;
mod api;
mod commands;
mod config;
mod doctor;
mod failure;
mod gateway;
mod health;
mod healthcheck;
mod print;
mod services;
mod table;
mod token;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use commands::{Command, Verb};
use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(up::DEMO_INSTANCE) {
        return up::demo_instance(words.collect());
    }
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            let _closed_pipe = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(command.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("plinth: {failure}");
            failure.code()
        }
    }
}

fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "plinth", &mut std::io::stdout());
            Ok(())
        }
        Verb::Services(command) => ask(services::run(command)),
        Verb::Config(command) => ask(config::run(command)),
        Verb::Health(command) => ask(health::run(command)),
        Verb::Gateway(command) => ask(gateway::run(command)),
        Verb::Token(command) => token::run(&command),
        Verb::Doctor(command) => ask(doctor::run(command)),
        Verb::Healthcheck { url } => ask(healthcheck::run(url)),
        Verb::Up(command) => up::run(&command),
        Verb::Agent(command) => agent::run(&command),
    }
}

/// Commands that talk to a service need no more than this thread.
fn ask(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::no)?;
    runtime.block_on(command)
}
