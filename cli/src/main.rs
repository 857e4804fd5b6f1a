//! The command `fallline`, with the shipped algorithms.

fn main() -> std::process::ExitCode {
    fallline_cli::main(fallline::Registry::standard())
}
