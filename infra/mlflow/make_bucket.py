"""Make the bucket of MLflow's artifacts where there is none, before the server starts.

The address is MLFLOW_ARTIFACTS_DESTINATION (s3://bucket/prefix), the store MLFLOW_S3_ENDPOINT_URL, keys are boto3's.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError


def main() -> None:
    """Ask for the bucket, and make it where the store answers that there is none."""
    address = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    if address.scheme != "s3":
        raise SystemExit(f"MLFLOW_ARTIFACTS_DESTINATION: {address.scheme}: allowed: s3://bucket/prefix")
    store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    try:
        store.head_bucket(Bucket=address.netloc)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        store.create_bucket(Bucket=address.netloc)


if __name__ == "__main__":
    main()
