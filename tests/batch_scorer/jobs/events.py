"""Events of each cloud's storage, in their documented form."""

from __future__ import annotations


def s3_event(key="films/film.png", name="ObjectCreated:Put", bucket="clinic") -> dict:
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 9, "eTag": "0"}},
    }
    return {"Records": [record]}


def bridge_event(key="films/film.png", kind="Object Created") -> dict:
    detail = {"bucket": {"name": "clinic"}, "object": {"key": key, "size": 9}}
    return {"version": "0", "detail-type": kind, "source": "aws.s3", "detail": detail}


def gcs_event(name="films/film.png", kind="finalized") -> dict:
    return {
        "specversion": "1.0",
        "type": f"google.cloud.storage.object.v1.{kind}",
        "source": "//storage.googleapis.com/projects/_/buckets/clinic",
        "data": {"bucket": "clinic", "name": name, "size": "9"},
    }


def azure_event(path="films/film.png", kind="BlobCreated") -> dict:
    return {
        "specversion": "1.0",
        "type": f"Microsoft.Storage.{kind}",
        "source": "/subscriptions/1/storageAccounts/account",
        "subject": f"/blobServices/default/containers/clinic/blobs/{path}",
        "data": {"url": f"https://account.blob.core.windows.net/clinic/{path}"},
    }
