"""The files for Ray, KubeRay and Prefect are taken by these engines' own readers."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.config import Settings
from tests.conftest import REPOSITORY

RAY_UP = REPOSITORY / "docs" / "cluster" / "ray-up.yaml"
KUBERAY = REPOSITORY / "docs" / "cluster" / "kuberay.yaml"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:ray")


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return values


def locked(package: str) -> str:
    lines = (REPOSITORY / "requirements.lock").read_text("utf-8").splitlines()
    (version,) = [line.partition("==")[2] for line in lines if line.startswith(f"{package}==")]
    return version


def test_ray_up_takes_its_file_and_will_start_every_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.autoscaler._private import commands, util

    monkeypatch.chdir(REPOSITORY)
    config = util.prepare_config(read(RAY_UP))
    util.validate_config(config)
    # Without the autoscaler on the head, no other machine is ever started; Ray only warns of it.
    complaints: list[str] = []
    monkeypatch.setattr(
        commands.cli_logger, "warning", lambda text, *_, **__: complaints.append(text)
    )
    commands.warn_about_bad_start_command(config["head_start_ray_commands"])

    assert complaints == []
    assert config["available_node_types"]["local.cluster.node"]["min_workers"] == 2
    assert (REPOSITORY / config["file_mounts"]["~/sisr-requirements.lock"]).is_file()


def test_the_kuberay_job_runs_what_is_locked_under_settings_that_exist() -> None:
    from ray.runtime_env import RuntimeEnv

    spec = read(KUBERAY)["spec"]

    assert spec["rayClusterSpec"]["rayVersion"] == locked("ray")
    environment = RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"])).env_vars()
    assert {f"SISR_{name.upper()}" for name in Settings.model_fields} >= environment.keys()
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        # The operator takes strings only.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}


def test_the_deployment_for_a_work_pool_is_that_flow_with_those_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(REPOSITORY)
    values = read(REPOSITORY / "prefect.yaml")
    (deployment,) = values["deployments"]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])

    assert values["prefect-version"] == locked("prefect")
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(flow.fn).parameters.items()
    }
    assert deployment["parameters"] == defaults
