"""Processes as vLLM's: an API server, an engine core in it and a worker, each a child of the other.

Its engine core has a ring, as with the plugin. It refuses a model that is none, and a port that is
taken, as vLLM does: at the end of its log.
"""

from __future__ import annotations

import argparse
import http.server
import subprocess
import sys
from pathlib import Path

SLEEPS = "import time; time.sleep(600)"
CORE = f"""
import subprocess, sys, os
from pathlib import Path
from voltana_ring.hooks.settings import read_settings
from voltana_ring.writer import RingWriter
name, facts = os.environ["VOLTANA_VLLM_INSTANCE"], {{
    "version": "0.32.0", "role": os.environ["VOLTANA_VLLM_ROLE"], "model": "tiny", "tp_size": 1,
    "kv_capacity_tokens": 200_000, "max_running_requests": 32, "max_prefill_tokens": 4096,
}}
rings = read_settings(Path(os.environ["VOLTANA_VLLM_CONFIG"])).rings
rings.mkdir(parents=True, exist_ok=True, mode=0o700)
ring = RingWriter(rings / (name + "@dp0.pp0.tp0.ring"), rings / (name + ".bell"), facts)
subprocess.run([sys.executable, "-S", "-c", {SLEEPS!r}])
"""


class Answers(http.server.BaseHTTPRequestHandler):
    """Healthy, and nothing else."""

    def do_GET(self) -> None:
        """Say so."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--host", "--kv-transfer-config"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    told = parser.parse_args()
    core = subprocess.Popen([sys.executable, "-c", CORE], start_new_session=True)
    if not (Path(told.model) / "config.json").exists():
        core.kill()
        sys.exit(f"OSError: {told.model} is not a local folder and is not a valid model identifier")
    http.server.ThreadingHTTPServer((told.host, told.port), Answers).serve_forever()


if __name__ == "__main__":
    main()
