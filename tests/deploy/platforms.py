"""What each platform gives the tasks of one night: its manifest's words, and its own numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

DEPLOY = REPOSITORY / "deploy"
Task = tuple[list[str], dict[str, str]]
"""The arguments of the image, and the environment."""


class Template(yaml.SafeLoader):
    """YAML of CloudFormation, whose functions are kept as what stands behind them."""


Template.add_multi_constructor(
    "!", lambda loader, suffix, node: f"{suffix} {getattr(node, 'value', '')}"
)


def read(name: str) -> list[Any]:
    """The manifests in a file."""
    text = (DEPLOY / name).read_text()
    return [json.loads(text)] if name.endswith(".json") else list(yaml.safe_load_all(text))


def read_cron_job(name: str) -> dict[str, Any]:
    (manifest,) = read(f"kubernetes/{name}")
    return manifest["spec"]["jobTemplate"]["spec"]


def read_resources(name: str) -> dict[str, Any]:
    return yaml.load((DEPLOY / name).read_text(), Template)["Resources"]


def read_policy(name: str, role: str, values: dict[str, str]) -> dict[str, Any]:
    """What a role of a CloudFormation template may do, with its parameters put in."""
    (policy,) = read_resources(name)[role]["Properties"]["Policies"]
    text = json.dumps(policy["PolicyDocument"]).replace("Sub arn:", "arn:")
    for parameter, value in {"AWS::Partition": "aws", **values}.items():
        text = text.replace(f"${{{parameter}}}", value)
    assert "${" not in text
    document: dict[str, Any] = json.loads(text)
    return document


def kubernetes() -> list[Task]:
    job = read_cron_job("nightly.yaml")
    (container,) = job["template"]["spec"]["containers"]
    (last,) = read_cron_job("finish.yaml")["template"]["spec"]["containers"]
    _, config = read("kubernetes/config.yaml")
    said = {**config["data"], **_pairs(container["env"])}
    tasks = [
        {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"cxr-batch-29384720-{index}"}
        for index in range(job["completions"])
    ]
    night = [(container["args"], {**said, **task}) for task in tasks]
    return [*night, (last["args"], config["data"])]


def cloud_run() -> list[Task]:
    (manifest,) = read("cloud-run/job.yaml")
    execution = manifest["spec"]["template"]["spec"]
    (container,) = execution["template"]["spec"]["containers"]
    count = execution["taskCount"]
    own = {"CLOUD_RUN_EXECUTION": "cxr-batch-7xkq2", "CLOUD_RUN_TASK_COUNT": str(count)}
    tasks = [{**own, "CLOUD_RUN_TASK_INDEX": str(index)} for index in range(count)]
    return [(container["args"], {**_pairs(container["env"]), **task}) for task in tasks]


def aws_batch() -> list[Task]:
    container = read_resources("aws-batch/nightly.yaml")["Definition"]["Properties"]
    container = container["ContainerProperties"]
    said = {each["Name"]: each["Value"] for each in container["Environment"]}
    tasks = [
        {
            "AWS_BATCH_JOB_ID": f"6c3e1c1b-7a43-4b1a-9a3e-2f0d5c3c2f11:{index}",
            "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
            "AWS_BATCH_JOB_ARRAY_SIZE": "2",
        }
        for index in range(2)
    ]
    return [(container["Command"], {**said, **task}) for task in tasks]


def azure() -> list[Task]:
    (template,) = read("azure-container-apps/job.json")
    count = str(template["parameters"]["tasks"]["defaultValue"])
    (container,) = template["resources"][0]["properties"]["template"]["containers"]
    said = {**_pairs(container["env"]), "CXR_JOB_TASKS": count}
    own = {"CONTAINER_APP_JOB_EXECUTION_NAME": "cxr-batch-ab12cd3"}
    return [(container["args"], {**said, **own})]  # one replica that claims all shares


PLATFORMS: dict[str, Callable[[], list[Task]]] = {
    "kubernetes": kubernetes,
    "cloud-run": cloud_run,
    "aws-batch": aws_batch,
    "azure-container-apps": azure,
}
"""The tasks of a night, in the order in which they are run here."""


def _pairs(variables: list[dict[str, str]]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in variables}
