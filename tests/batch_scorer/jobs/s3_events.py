"""A bucket of a real S3 server that sends events about new objects."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import pytest

from tests.images import make_film
from tests.servers import SECRET, run_proxy, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Cloud, Proxy


@dataclass(frozen=True)
class Clinic:
    """Images and results in one bucket, and the queue of its events."""

    cloud: Cloud
    bucket: str
    queue: str

    @classmethod
    def open(cls, cloud: Cloud, through_bridge: bool = False) -> Clinic:
        """Create a bucket whose events come directly from S3, or through EventBridge."""
        name = f"clinic-{uuid.uuid4().hex[:8]}"
        _client(cloud, "s3").create_bucket(Bucket=name)
        sqs = _client(cloud, "sqs")
        queue = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        arn = arn["Attributes"]["QueueArn"]
        told: dict[str, Any] = {
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
        }
        if through_bridge:
            told = {"EventBridgeConfiguration": {}}
            bridge = _client(cloud, "events")
            pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": [name]}}}
            bridge.put_rule(Name=name, EventPattern=json.dumps(pattern))
            bridge.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
        _client(cloud, "s3").put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration=told
        )
        return cls(cloud, name, queue)

    @property
    def output(self) -> str:
        return f"s3://{self.bucket}/results"

    def settings(self, model: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process that works on the bucket."""
        named = {
            "CXR_JOB_IMAGES": f"s3://{self.bucket}/films",
            "CXR_JOB_OUTPUT": self.output,
            "CXR_JOB_MODEL": str(model),
            "CXR_JOB_BATCH_SIZE": "4",
        }
        return {**without_credentials(), **self.cloud.environment, **named, **more}

    def put(self, name: str, data: bytes) -> None:
        client = _client(self.cloud, "s3")
        client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def put_films(self, first: int, count: int, folder: str = "films") -> None:
        for index in range(first, first + count):
            self.put(f"{folder}/für {index}.png", make_film(60 + 12 * index, seed=index))

    def get(self, name: str) -> bytes:
        return self.cloud.filesystem().cat_file(f"{self.bucket}/{name}")

    def names(self) -> list[str]:
        found = self.cloud.filesystem().find(self.bucket)
        return [path.removeprefix(f"{self.bucket}/") for path in found]

    def wait_for(self, beginning: str) -> None:
        """Wait for an object with a prefix."""
        for _ in range(600):
            if any(name.startswith(beginning) for name in self.names()):
                return
            time.sleep(0.1)
        pytest.fail(f"nothing came below {beginning}")

    def events(self) -> list[dict[str, Any]]:
        """Receive the events since the last call."""
        client, events = _client(self.cloud, "sqs"), []
        while found := client.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in found:
                events.append(json.loads(message["Body"]))
                client.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return events


class Held(NamedTuple):
    """Parts of a test with concurrent events."""

    clinic: Clinic
    event: dict[str, Any]
    proxy: Proxy
    environment: dict[str, str]


@contextmanager
def hold_one_film(cloud: Cloud, model: Path) -> Iterator[Held]:
    """Set up a clinic whose last image the proxy holds back until its next order."""
    clinic = Clinic.open(cloud)
    clinic.put_films(0, 3)
    clinic.put("films/gated.png", clinic.get("films/für 0.png"))
    event = clinic.events()[-1]
    with run_proxy(cloud, "calm") as proxy:
        proxy.order(hold="GET .*/gated.png")
        environment = clinic.settings(model, CXR_JOB_LEASE_S="15")
        yield Held(clinic, event, proxy, environment | cloud.behind(proxy.url).environment)


def _client(cloud: Cloud, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=cloud.endpoint,
        aws_access_key_id="AKIATESTS",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
