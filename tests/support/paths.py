"""Where things lie in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
LOADTEST = ROOT / "loadtest"
DEMO = BUILD / "demo"
DEMO_CHECKPOINT = DEMO / "checkpoint"
TESTS = ROOT / "tests"
FAKES = TESTS / "fakes"
ROOM_2 = ROOT / "model_repository" / "tensorrt_llm" / "1"
