#!/bin/sh
# Install what Ductile needs into an environment, by the pins in constraints.txt: what `make venv` installs, less the
# tools of its developers. The code itself is not installed; it is found through PYTHONPATH (platform/ and the root).
#
#     infra/docker/install.sh [PYTHON]        default: python3
#
# TORCH_FLAGS: options for pip's install of torch alone, as in TORCH_FLAGS="--index-url <PyTorch's index of CPU builds>".
# Both images and the clusters of `ray up` are made with this script.
set -eu

python=${1:-python3}
cd "$(dirname "$0")/../.."
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT

# DeepSpeed is installed as Python alone: no op is compiled.
export DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# torch comes first: DeepSpeed asks for it while it is built. The flags are several words where there are several.
# shellcheck disable=SC2086
"$python" -m pip install --quiet ${TORCH_FLAGS:-} -c constraints.txt "$(grep '^torch==' constraints.txt)"

"$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >"$wanted"
"$python" -m pip install --quiet -c constraints.txt -r "$wanted"
"$python" -m pip check
