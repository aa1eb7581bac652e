//! `defer-host plan`: the planner's own command.

use crate::client::UsageError;
use crate::stdout;
use anyhow::Result;
use defer_partition::command::{self, PlanArgs};

/// Runs the command.
pub fn plan(args: &PlanArgs) -> Result<()> {
    let text = command::run(args, &|line| eprintln!("{line}")).map_err(|error| match error.is_usage() {
        true => anyhow::Error::from(UsageError(error.to_string())),
        false => error.into(),
    })?;
    Ok(stdout::write(&text)?)
}
