#!/usr/bin/env bash
# Times fallline beside torch, lion-pytorch, dadaptation, DeepSpeed and candle. README.md tells how to make the environment.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
env=${1:?usage: run.sh DIR [arguments of compare.py], where DIR is the Python environment of the peers}
[ -x "$env/bin/python" ] || { echo "run.sh: $env holds no bin/python; README.md tells how to make it" >&2; exit 2; }
shift
# On the path, so that DeepSpeed finds ninja.
PATH="$(cd "$env" && pwd)/bin:$PATH"
export PATH DS_ACCELERATOR=cpu
cargo build --release --manifest-path "$here/../../Cargo.toml" --example peers_side
cargo build --release --manifest-path "$here/candle/Cargo.toml"
exec python "$here/compare.py" "$@"
