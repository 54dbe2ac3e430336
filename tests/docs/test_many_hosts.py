"""docs/many-hosts.md: torchrun and unshard take its commands; its shell and its YAML are whole."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from unshard.cli.serve import DEFAULT_PORT, command
from unshard.parallel.place import SILENCE_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/many-hosts.md").read_text()
[SLURM] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
KUBERNETES = list(yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]))
SERVICE, PODS, API = KUBERNETES
TEMPLATE = PODS["spec"]["template"]
[CONTAINER] = TEMPLATE["spec"]["containers"]
BY_HAND = re.findall(r"^\$ (torchrun .*)$", PAGE, re.MULTILINE)
VALUES = {"$SLURM_NNODES": "2", "$SLURM_NODEID": "1", "$MASTER": "node0", "${HOSTNAME##*-}": "1"}


def in_slurm() -> str:
    [line] = re.findall(r"torchrun .*(?=')", SLURM.replace("\\\n", " "))
    return line


def in_kubernetes() -> str:
    bash, option, line = CONTAINER["command"]
    assert (bash, option) == ("bash", "-c")
    return line.removeprefix("exec ")


@pytest.mark.parametrize("line", [*BY_HAND, in_slurm(), in_kubernetes()])
def test_torchrun_and_unshard_take_it(line):
    for name, value in VALUES.items():
        line = line.replace(name, value)
    assert "$" not in line
    program, *arguments = shlex.split(line)
    assert program == "torchrun"
    said = get_args_parser().parse_args(arguments)
    assert said.no_python
    assert said.training_script == "unshard"
    assert (said.nnodes, said.nproc_per_node, said.master_port) == ("2", "8", 29500)
    assert said.node_rank in {0, 1}
    serve, *options = said.training_script_args
    assert serve == "serve"
    served = command.make_context("serve", options).params
    assert served["device"] == "cuda"
    assert served["tp"] is None
    assert not served["flags"]
    assert served["source"].endswith("opt-175b")


def test_each_host_has_its_number():
    ranks = [re.findall(r"--node-rank (\d)", line) for line in BY_HAND]
    assert ranks == [["0"], ["1"]]


@pytest.mark.parametrize("script", [SLURM, CONTAINER["command"][-1]], ids=["slurm", "kubernetes"])
def test_the_shell_is_whole(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_pod_is_found_by_the_name_that_torchrun_is_given():
    name, service = PODS["metadata"]["name"], SERVICE["metadata"]["name"]
    assert PODS["spec"]["serviceName"] == service
    assert f"--master-addr {name}-0.{service} " in CONTAINER["command"][-1]
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert PODS["spec"]["replicas"] == 2
    labels = TEMPLATE["metadata"]["labels"]
    assert labels == SERVICE["spec"]["selector"] == PODS["spec"]["selector"]["matchLabels"]
    assert {v["name"] for v in TEMPLATE["spec"]["volumes"]} == {
        mount["name"] for mount in CONTAINER["volumeMounts"]
    }
    assert API["spec"]["selector"] == {"statefulset.kubernetes.io/pod-name": f"{name}-0"}
    assert API["spec"]["ports"][0]["targetPort"] == DEFAULT_PORT


def test_its_figures_are_the_programs():
    assert f"waited for for {SILENCE_SECONDS // 60} minutes" in PAGE
    plan = (ROOT / "docs/plan.md").read_text()
    assert re.search(r"^16 x 40 GB .*21\.9 GB \+ 47k", plan, re.MULTILINE)
    assert "21.9 GB of weights each in 16 bits, and room for 47 k tokens" in PAGE


def test_links_exist():
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert link.startswith("https:") or (ROOT / "docs" / link).exists(), link
