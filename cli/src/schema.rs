//! `fallline schema`: what the JSON of a command looks like.

use crate::common::print;
use crate::error::Result;

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The schema is JSON Schema 2020-12. Its $id ends in a version: keys may be added under the same one, a shape that changes has \
another.

Example: fallline schema bench")]
pub struct Args {
    /// The command whose --json it describes
    #[arg(value_enum)]
    command: Name,
}

macro_rules! schemas {
    ($($variant:ident $name:literal)*) => {
        /// The commands that print JSON.
        #[derive(Clone, Copy, Debug, clap::ValueEnum)]
        enum Name {
            $(#[value(name = $name)] $variant,)*
        }

        impl Name {
            fn text(self) -> &'static str {
                match self {
                    $(Name::$variant => include_str!(concat!("../schemas/", $name, ".json")),)*
                }
            }
        }
    };
}
schemas! {
    Bench "bench"
    Convert "convert"
    Describe "describe"
    Diff "diff"
    Explain "explain"
    Inspect "inspect"
    List "list"
    Minimize "minimize"
    Schedule "schedule"
}

/// Prints a schema.
pub fn run(args: Args) -> Result<()> {
    print(args.command.text())
}
