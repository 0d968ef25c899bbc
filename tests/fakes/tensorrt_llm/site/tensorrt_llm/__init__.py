"""The fake package for a process of its own: put this folder's parent on PYTHONPATH.

TENSORRT_LLM_FAKE is a JSON object: "version", and fields of `Behaviour`.
"""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[5]))

from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.fake_package import Package

_settings = json.loads(os.environ["TENSORRT_LLM_FAKE"])
_package = Package(_settings.pop("version"), Behaviour(**_settings))
_modules = _package.modules()
globals().update(_modules.pop("tensorrt_llm").__dict__)
sys.modules.update(_modules)
