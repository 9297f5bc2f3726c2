"""What stands in deploy/ is valid, asks for a token wherever it listens, and runs our commands."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from conftest import ROOT
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.main import get_command

from hpo.cli import app

DEPLOY = ROOT / "deploy"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    (compose,) = documents("compose.yaml")
    services: dict[str, dict[str, Any]] = compose["services"]
    return services


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    job, _volume = documents("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec: dict[str, Any] = job["spec"]
    return spec


def pods(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = rayjob["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    found = [group["template"]["spec"] for group in groups]
    return {pod["containers"][0]["name"]: pod for pod in found}


# --- commands ---


def commands() -> Iterator[str]:
    """Every line of deploy/ that runs `hpo`, in scripts and in entry points."""
    for path in sorted(DEPLOY.iterdir()):
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                for marker in ("python -m hpo ", "    hpo "):
                    if marker in line:
                        yield line.split(marker, maxsplit=1)[1]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_is_one_of_ours(line: str) -> None:
    """Parsed, not run: an option that is gone would be found by nobody else."""
    name, *arguments = shlex.split(line)
    command = get_command(app)
    found = command.get_command(None, name)  # type: ignore[attr-defined]
    assert found is not None, line
    found.make_context(name, arguments)


# --- compose ---


def test_ports_are_published_on_loopback_alone(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_listens_asks_for_a_token(services: dict[str, dict[str, Any]]) -> None:
    for name in ("ray-head", "ray-worker"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"  # noqa: S105  a path
        assert "ray_token" in services[name]["secrets"]
    assert "ENV HPO_RUNS" in (image := (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    assert "RAY_AUTH_MODE=token" in image
    assert "--app-name basic-auth" in services["mlflow"]["command"][-1]
    assert "HPO_DASHBOARD_TOKEN" in services["dashboard"]["command"][-1]


def test_what_a_service_needs_is_there_and_no_worker_has_the_database_password(
    services: dict[str, dict[str, Any]],
) -> None:
    (compose,) = documents("compose.yaml")
    for name, service in services.items():
        assert set(service.get("secrets", ())) <= set(compose["secrets"]), name
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= set(compose["volumes"]), name
        assert set(service.get("depends_on", ())) <= set(services), name
    assert services["ray-worker"]["secrets"] == ["ray_token"]
    assert "HPO_STORAGE_URL" not in services["ray-worker"]["environment"]


def test_what_our_image_mounts_belongs_to_its_user(services: dict[str, dict[str, Any]]) -> None:
    """A volume takes the owner of the folder that it is put on; without one that is root."""
    image = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    ours = [service for service in services.values() if service["image"].startswith("hpo:")]
    for service in ours:
        assert service["build"]["args"] == {"UID": "${HPO_UID:-1000}"}
        for volume in service.get("volumes", ()):
            assert f" {volume.rpartition(':')[2]}" in image.partition("chown hpo:")[2]


def test_a_secret_that_cannot_be_read_ends_the_service(
    services: dict[str, dict[str, Any]],
) -> None:
    """`sh -e` sees a failure in an assignment of its own, not one inside of a word."""
    for service in services.values():
        for line in str(service.get("command", [""])[-1]).splitlines():
            if "/run/secrets/" in line:
                assert line.startswith(("password=", "MLFLOW_", "HPO_")), line
                assert service["command"][:2] == ["sh", "-ec"]


def test_each_secret_is_drawn_once_and_kept_from_others(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    script.write_bytes((DEPLOY / "make-secrets.sh").read_bytes())
    (compose,) = documents("compose.yaml")
    contents = []
    for _ in range(2):
        subprocess.run(["sh", script], check=True, capture_output=True)
        files = sorted((tmp_path / "secrets").iterdir())
        assert [f"secrets/{file.name}" for file in files] == [
            compose["secrets"][name]["file"] for name in sorted(compose["secrets"])
        ]
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        contents.append([file.read_text(encoding="utf-8") for file in files])
    assert contents[0] == contents[1]
    assert {len(content) for content in contents[0]} == {64}


def test_no_secret_stands_in_a_file() -> None:
    for path in DEPLOY.iterdir():
        if path.suffix == ".yaml":
            for line in path.read_text(encoding="utf-8").splitlines():
                assert line.strip().startswith("#") or ":...@" not in line, (path, line)
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/deploy/secrets/" in ignored


# --- Ray's launcher ---


def test_rays_launcher_takes_its_file_and_every_start_asks_for_a_token() -> None:
    (config,) = documents("ray-cluster.yaml")
    validate_config(prepare_config(config))
    lines = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [line for line in lines if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert not any("hpo.env" in file for file in config["file_mounts"])  # which go to all machines
    assert "ray rsync-up deploy/ray-cluster.yaml ~/hpo.env" in launcher_head()


def test_who_follows_the_launchers_first_lines_has_its_workers_asked_for() -> None:
    (config,) = documents("ray-cluster.yaml")
    assert config["available_node_types"]["worker"]["min_workers"] == 0
    assert "hpo submit search_spaces/cnn.yaml -o concurrency=16" in launcher_head()


def launcher_head() -> str:
    """What its first lines say to type."""
    lines = (DEPLOY / "ray-cluster.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


# --- KubeRay ---


def test_the_rayjob_goes_on_where_it_was_cut_off_and_asks_for_a_token(
    rayjob: dict[str, Any],
) -> None:
    assert "--begin-or-resume" in rayjob["entrypoint"]
    assert rayjob["backoffLimit"] > 0
    cluster = rayjob["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_its_pods_share_a_volume_and_only_the_head_knows_the_database(
    rayjob: dict[str, Any],
) -> None:
    found = pods(rayjob)
    head, worker = (found[name]["containers"][0] for name in ("ray-head", "ray-worker"))
    assert head["volumeMounts"] == worker["volumeMounts"]
    for pod in found.values():
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
    assert "HPO_STORAGE_URL" in [variable["name"] for variable in head["env"]]
    assert "env" not in worker
    _job, volume = documents("rayjob.yaml")
    assert volume["metadata"]["name"] == "hpo-shared"
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
