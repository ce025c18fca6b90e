"""A bucket behind a real S3 API on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def bucket() -> Iterator[str]:
    """Serve an empty bucket; yields the URI of `KEY` in it, to be replaced by what a test wants to write."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        ).create_bucket(Bucket="bucket")
        yield f"s3://key:secret@bucket/KEY?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    finally:
        server.stop()
