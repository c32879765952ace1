//! The program: runs the command line, and says how that went.

mod cli;

use cli::failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let failure = match cli::run(lexopt::Parser::from_env()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let status = match failure {
        Failure::Closed => return ExitCode::SUCCESS,
        Failure::Told => return ExitCode::FAILURE,
        Failure::Runtime(_) => 1,
        Failure::Usage { .. } => 2,
    };
    cli::console::complain(&format!("aodns: {failure}\n"));
    ExitCode::from(status)
}
