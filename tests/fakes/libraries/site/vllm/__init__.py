"""The fake package for a process of its own: put this folder's parent on PYTHONPATH.

VLLM_FAKE is a JSON object: "version", and fields of `Behaviour`.
"""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[5]))

from tests.fakes.libraries.fake_vllm import Package
from tests.fakes.libraries.worker import Behaviour

_settings = json.loads(os.environ["VLLM_FAKE"])
_package = Package(_settings.pop("version"), Behaviour(**_settings))
_modules = _package.modules()
globals().update(_modules.pop("vllm").__dict__)
sys.modules.update(_modules)
