"""The fake package for a process of its own: put this folder's parent on PYTHONPATH.

SGLANG_FAKE is a JSON object: "version", and fields of `Behaviour`.
"""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[5]))

from tests.fakes.libraries.fake_sglang import Package
from tests.fakes.libraries.worker import Behaviour

_settings = json.loads(os.environ["SGLANG_FAKE"])
_package = Package(_settings.pop("version"), Behaviour(**_settings))
_modules = _package.modules()
globals().update(_modules.pop("sglang").__dict__)
sys.modules.update(_modules)
