"""The bundled model behind the API, against all that its own description can think of.

schemathesis lives in an environment of its own, which SCHEMATHESIS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO_MODEL = Path(__file__).parents[2] / "src/unshard/demo_model"
SCHEMATHESIS = os.environ.get("SCHEMATHESIS", "")
"""A path, from where the tests are started."""
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "5")
CONFIGURATION = """
[checks]
# Rules between fields, and the length of the context, are in no schema.
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "504"]
# It likes to ask for sixteen answers as long as the context.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not SCHEMATHESIS, reason="SCHEMATHESIS names no program")
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "unshard", "serve", DEMO_MODEL, "--port", "0"),
            *(
                "--request-timeout",
                "1",
                "--chat-template",
                "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            ),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            url = server.stderr.readline().split()[3]
            done = subprocess.run(
                [
                    *(Path(SCHEMATHESIS).absolute(), "run", f"{url}/openapi.json"),
                    *("--seed", "1", "--max-examples", EXAMPLES, "--no-color"),
                    # The original has five names for one thing, of which one is asked.
                    *("--exclude-path-regex", "engines|/generate"),
                ],
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            server.terminate()
            assert server.wait(30) == 0
