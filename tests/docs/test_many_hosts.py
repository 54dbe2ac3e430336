"""docs/many-hosts.md and its recipes: what they start is there, and starts so."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from torch.distributed.run import get_args_parser

from unshard.cli.main import COMMANDS, unshard
from unshard.library.machines import MACHINES
from unshard.parallel.rendezvous import JOIN_SECONDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "many-hosts.md").read_text()
SLURM = DOCS / "recipes" / "unshard.sbatch"
KUBERNETES = DOCS / "recipes" / "unshard.yaml"


def check(words: list[str]) -> dict[str, Any]:
    """What torchrun is told; what unshard is told has to be right."""
    assert words[0] == "torchrun"
    at = words.index("-m")
    assert words[at + 1] == "unshard"
    command, *arguments = words[at + 2 :]
    with click.Context(unshard) as context:
        found = unshard.get_command(context, command)
        assert command in COMMANDS
        assert found is not None
        options = found.make_context(command, arguments, parent=context).params
    get_args_parser().parse_args(words[1:])
    launcher = dict(zip(words[1:at:2], words[2:at:2], strict=True))
    return launcher | {"options": options}


def test_the_commands_of_the_page() -> None:
    first, second = (
        check(shlex.split(line)) for line in re.findall(r"^\$ (torchrun .*)$", PAGE, re.MULTILINE)
    )
    assert (first.pop("--node-rank"), second.pop("--node-rank")) == ("0", "1")
    assert first == second


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DOCS / link).exists(), link


def test_its_numbers() -> None:
    assert f"after {JOIN_SECONDS} s (`UNSHARD_JOIN_SECONDS`)" in PAGE
    assert any(each.name.startswith("16 x 40 GB") for each in MACHINES)
    assert "21.9 GB + 47k" in (DOCS / "plan.md").read_text()


def test_slurm_starts_each_node_as_the_page_does(tmp_path: Path) -> None:
    """With a Slurm of two nodes that are this machine."""
    programs = {
        "scontrol": 'test "$1 $2 $3" = "show hostnames n[1-2]"; echo n1; echo n2',
        "srun": 'shift; for id in 0 1; do SLURM_NNODES=2 SLURM_NODEID=$id "$@"; done',
        "torchrun": 'printf "%q " torchrun "$@"; echo',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nset -eu\n{script}\n")
        (tmp_path / name).chmod(0o700)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]"}
    ran = subprocess.run(
        ["bash", str(SLURM), "/shared/a model"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = (
        check(shlex.split(line)) for line in ran.stdout.splitlines() if line.startswith("torchrun")
    )
    assert (first.pop("--node-rank"), second.pop("--node-rank")) == ("0", "1")
    assert first == second
    assert (first["--nnodes"], first["--master-addr"]) == ("2", "n1")
    assert first["options"]["source"] == "/shared/a model"
    tasks = dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", SLURM.read_text(), re.MULTILINE))
    assert (tasks["nodes"], tasks["ntasks-per-node"]) == ("2", "1")
    assert tasks["gpus-per-node"] == first["--nproc-per-node"]
    assert f"6010:127.0.0.1:{first['options']['port']} n1" in ran.stdout
    refused = subprocess.run(
        ["bash", str(SLURM)], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "which checkpoint?" in refused.stderr


def test_the_parts_of_the_kubernetes_recipe_fit_together() -> None:
    ranks, api, policy, pods = yaml.safe_load_all(KUBERNETES.read_text())
    spec = pods["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    labels = pods["spec"]["template"]["metadata"]["labels"]
    first_pod = {"statefulset.kubernetes.io/pod-name": f"{pods['metadata']['name']}-0"}
    assert pods["spec"]["selector"]["matchLabels"] == labels == ranks["spec"]["selector"]
    assert api["spec"]["selector"] == labels | first_pod
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert pods["spec"]["serviceName"] == ranks["metadata"]["name"]

    as_second = container["command"][2].removeprefix("exec ").replace("${HOSTNAME##*-}", "1")
    told = check(shlex.split(as_second))
    (port,) = container["ports"]
    assert told["--master-addr"] == f"{pods['metadata']['name']}-0.{ranks['metadata']['name']}"
    assert int(told["--master-port"]) == ranks["spec"]["ports"][0]["port"]
    assert int(told["--nnodes"]) == pods["spec"]["replicas"]
    assert int(told["--nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert told["options"]["port"] == port["containerPort"] == api["spec"]["ports"][0]["port"]
    assert port["name"] == api["spec"]["ports"][0]["targetPort"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}
    assert told["options"]["source"] == mounts["model"]
    for script in (container["command"][2], container["readinessProbe"]["exec"]["command"][2]):
        subprocess.run(["bash", "-n", "-c", script], check=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kubectl_reads_the_recipe() -> None:
    """`--local` asks no server; a dry run does."""
    command = ["kubectl", "annotate", "--local", "-f", str(KUBERNETES), "seen=yes", "-o", "name"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(ran.stdout.splitlines()) == 4
