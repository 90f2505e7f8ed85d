"""The manifests are what their platforms take, and say to `cxr job` what it reads."""

from __future__ import annotations

import copy
import json
import re
import urllib.request
from typing import TYPE_CHECKING, Any

import boto3
import click
import pytest
import yaml

from batch_scorer import errors
from batch_scorer.cli.main import cxr as commands
from batch_scorer.imaging import deidentify
from batch_scorer.results import shards
from tests.deploy.platforms import (
    DEPLOY,
    PLATFORMS,
    Template,
    read,
    read_cron_job,
    read_policy,
    read_resources,
)
from tests.deploy.validators import (
    check_azure,
    check_cloudformation,
    check_google,
    check_kubernetes,
)
from tests.servers import run_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES = ("config.yaml", "nightly.yaml", "finish.yaml")
CLOUDFORMATION = ("aws-batch/nightly.yaml", "aws-lambda/small.yaml")
MANIFESTS = (
    *(f"kubernetes/{name}" for name in KUBERNETES),
    *CLOUDFORMATION,
    "cloud-run/job.yaml",
    "cloud-run/schedule.json",
    "azure-container-apps/job.json",
)
NEVER_AGAIN = [errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_NOT_ALL_SCORED]
VARIABLE = re.compile(r"\bCXR_\w+")
PLACEHOLDER = re.compile(r"<[A-Z]+>")


def command_variables(*words: str) -> set[str]:
    """The environment variables that a command reads, as click itself would look them up."""
    context = click.Context(commands, info_name="cxr")
    command: click.Command = commands
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command = found
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return set(_variables(command, context))


def _variables(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        named = parameter.envvar or ()
        yield from [named] if isinstance(named, str) else named
        if isinstance(parameter, click.Option) and parameter.allow_from_autoenv:
            yield f"{context.auto_envvar_prefix}_{parameter.name}".upper()


def known_variables() -> set[str]:
    return (
        command_variables("job", "run")
        | command_variables("job", "finish")
        | {shards.SHARD_COUNT_VARIABLE, deidentify.KEY_VARIABLE}
    )


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_takes_the_manifest(name):
    manifests = list(read(f"kubernetes/{name}"))
    assert manifests
    for manifest in manifests:
        assert check_kubernetes(manifest) == []


@pytest.mark.parametrize("name", CLOUDFORMATION)
def test_cloudformation_takes_the_template(name):
    assert check_cloudformation(DEPLOY / name) == []


def test_cloud_run_and_scheduler_take_the_manifests():
    assert check_google(*read("cloud-run/job.yaml"), "run.v1", "Job") == []
    assert check_google(*read("cloud-run/schedule.json"), "cloudscheduler.v1", "Job") == []


def test_azure_takes_the_template():
    assert check_azure(*read("azure-container-apps/job.json")) == []


def put(manifest: dict[str, Any], value: Any, *path: str | int) -> dict[str, Any]:
    """A copy in which one place holds another value, or nothing for None."""
    broken = copy.deepcopy(manifest)
    at: Any = broken
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return broken


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ("Never", ("concurencyPolicy",), "concurencyPolicy"),
        ("four", ("jobTemplate", "spec", "completions"), "four"),
        (None, ("jobTemplate", "spec", "template"), "template"),
    ],
)
def test_kubernetes_refuses_a_broken_manifest(value, path, message):
    (manifest,) = read("kubernetes/nightly.yaml")
    (found,) = check_kubernetes(put(manifest, value, "spec", *path))
    assert message in found


def test_cloudformation_refuses_a_broken_template(tmp_path):
    text = (DEPLOY / "aws-batch" / "nightly.yaml").read_text()
    for sound, broken in [
        ("ReadonlyRootFilesystem:", "ReadOnlyRootFilesystem:"),
        ("Type: VCPU", "Type: CORES"),
        ("!GetAtt TaskRole.Arn", "!GetAtt NoRole.Arn"),
        ("Size: !Ref Tasks", "Size: many"),
    ]:
        assert sound in text
        text = text.replace(sound, broken)
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    found = "\n".join(check_cloudformation(path))
    assert all(word in found for word in ("ReadOnlyRootFilesystem", "cores", "NoRole", "many"))


def test_cloud_run_refuses_a_broken_manifest():
    (job,) = read("cloud-run/job.yaml")
    spec = ("spec", "template", "spec")
    for value, path in [
        (3, (*spec, "template", "spec", "maxRetry")),
        ("four", (*spec, "taskCount")),
        ([{"name": "CXR_JOB_MODEL", "val": "cnn"}], (*spec, "template", "spec", "containers")),
    ]:
        assert check_google(put(job, value, *path), "run.v1", "Job")
    (schedule,) = read("cloud-run/schedule.json")
    broken = put(schedule, "SEND", "httpTarget", "httpMethod")
    assert check_google(broken, "cloudscheduler.v1", "Job")


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ("Nightly", ("properties", "configuration", "triggerType"), "is no TriggerType"),
        (3, ("properties", "configuration", "retries"), "retries is not known"),
        (None, ("properties", "configuration", "replicaTimeout"), "replicaTimeout is missing"),
        ("2", ("properties", "template", "containers", 0, "resources", "cpu"), "is no number"),
        ("[parameters('place')]", ("location",), "no parameter place"),
        ("Microsoft.App/job", ("type",), "expected a Microsoft.App/jobs"),
    ],
)
def test_azure_refuses_a_broken_template(value, path, message):
    (template,) = read("azure-container-apps/job.json")
    assert any(message in line for line in check_azure(put(template, value, "resources", 0, *path)))


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_variable_is_one_that_the_program_reads(name):
    text = (DEPLOY / name).read_text()
    assert set(VARIABLE.findall(text)) <= known_variables()


def test_all_platforms_say_the_same():
    said = {
        name: set(VARIABLE.findall(re.sub("#.*", "", (DEPLOY / name).read_text())))
        for name in MANIFESTS
        if not name.endswith(("nightly.yaml", "finish.yaml", "schedule.json"))
        or name.startswith("aws")
    }
    common = {
        "CXR_JOB_IMAGES",
        "CXR_JOB_OUTPUT",
        "CXR_JOB_MODEL",
        "CXR_JOB_LABELS",
        "CXR_JOB_FORMAT",
        "CXR_LOG_FORMAT",
    }
    claims = {"CXR_JOB_SHARD", "CXR_JOB_TASKS"}
    assert said.pop("azure-container-apps/job.json") == common | claims
    assert all(names == common for names in said.values())


def test_kubernetes_repeats_what_may_work_and_nothing_else():
    for name in ("nightly.yaml", "finish.yaml"):
        job = read_cron_job(name)
        rules = job["podFailurePolicy"]["rules"]
        asked = {
            code: rule["action"]
            for rule in rules
            for code in rule.get("onExitCodes", {}).get("values", ())
        }
        assert asked == {**dict.fromkeys(NEVER_AGAIN, "FailJob"), errors.EXIT_RETRY: "Count"}
        containers = {part["name"] for part in job["template"]["spec"]["containers"]}
        named = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
        assert named == containers
        assert job["template"]["spec"]["restartPolicy"] == "Never"  # as the policy demands


def test_kubernetes_tells_the_tasks_how_many_they_are():
    job = read_cron_job("nightly.yaml")
    (container,) = job["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["CXR_JOB_TASKS"] == str(job["completions"]) == str(job["parallelism"])
    assert job["completionMode"] == "Indexed"


@pytest.mark.parametrize("name", ["nightly.yaml", "finish.yaml"])
def test_kubernetes_runs_nothing_as_root_and_writes_below_tmp_alone(name):
    pod = read_cron_job(name)["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_aws_batch_repeats_what_may_work_and_nothing_else():
    definition = read_resources("aws-batch/nightly.yaml")["Definition"]["Properties"]
    rules = definition["RetryStrategy"]["EvaluateOnExit"]
    asked = {int(rule["OnExitCode"]): rule["Action"] for rule in rules}
    assert asked == {**dict.fromkeys(NEVER_AGAIN, "EXIT"), errors.EXIT_RETRY: "RETRY"}
    assert definition["ContainerProperties"]["ReadonlyRootFilesystem"] is True


def test_the_lambda_function_is_there():
    function = read_resources("aws-lambda/small.yaml")["Function"]["Properties"]
    module, _, name = function["ImageConfig"]["Command"][0].rpartition(".")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_page_beside_it_says_what_to_change(name):
    manifest, page = DEPLOY / name, (DEPLOY / name).parent / "README.md"
    text, said = manifest.read_text(), page.read_text()
    changed = set(PLACEHOLDER.findall(text))
    if name.startswith("aws"):
        changed |= set(yaml.load(text, Template)["Parameters"])
    if name.startswith("azure"):
        changed |= set(json.loads(text)["parameters"])
    assert all(f"`{word}`" in said for word in changed), changed
    assert manifest.name in said


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_tasks_of_a_platform_do_a_night_together(cxr, folder, tiny_model, platform):
    tasks = PLATFORMS[platform]()
    nights = folder.parent / "nights"
    places = {
        "CXR_JOB_IMAGES": str(folder),
        "CXR_JOB_OUTPUT": str(nights),
        "CXR_JOB_MODEL": str(tiny_model),
    }
    for arguments, said in tasks:
        assert places.keys() <= said.keys()
        result = cxr(*arguments, **{**said, **places})
        assert result.returncode == errors.EXIT_OK, result.stderr
    run = json.loads((nights / "latest" / "run.json").read_text())
    assert (run["found"], run["scored"], run["labelled"]) == (6, 6, 0)
    assert (nights / "latest" / "report.pdf").is_file()
    assert (nights / "latest" / "report.html").is_file()


@pytest.mark.cloud
@pytest.mark.parametrize(
    ("name", "role"), [("aws-batch/nightly.yaml", "TaskRole"), ("aws-lambda/small.yaml", "Role")]
)
def test_what_the_role_of_aws_allows_is_enough_for_a_night(cxr, folder, tiny_model, name, role):
    """The server refuses whatever the template's own policy does not allow."""
    places = {"FilmsPrefix": "films", "OutputPrefix": "nights"}
    places |= {"FilmsBucket": "films-bucket", "OutputBucket": "results-bucket"}
    with run_s3() as cloud:
        films = cloud.fill("films-bucket", folder)
        cloud.filesystem().mkdir("results-bucket")
        iam = boto3.client(
            "iam",
            endpoint_url=cloud.endpoint,
            aws_access_key_id=cloud.options["key"],
            aws_secret_access_key=cloud.options["secret"],
            region_name=cloud.environment["AWS_DEFAULT_REGION"],
        )
        iam.create_user(UserName="task")
        policy = json.dumps(read_policy(name, role, places))
        iam.put_user_policy(UserName="task", PolicyName="role", PolicyDocument=policy)
        key = iam.create_access_key(UserName="task")["AccessKey"]
        enforce = f"{cloud.endpoint}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(enforce, b"0", plain)).close()
        allowed = {
            **cloud.environment,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
        arguments = ("job", "run", films, "--model", tiny_model, "--no-report", "-o")
        night = cxr(*arguments, "s3://results-bucket/nights", **allowed)
        elsewhere = cxr(*arguments, "s3://results-bucket/elsewhere", **allowed)
    assert night.returncode == errors.EXIT_OK, night.stderr
    assert elsewhere.returncode == errors.EXIT_FAILED
    assert "access is refused" in elsewhere.stderr
