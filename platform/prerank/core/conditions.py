"""Puts that a store makes only if an object is still the one that was read: nobody is overwritten.

S3 and Azure have them (``If-Match``, ``If-None-Match``), PyArrow and fsspec have not: the store's
own client does it, where it is installed. Azure's comes with adlfs, S3's is botocore (the extra
``s3``). Without one, ``prerank.core.objects`` looks before and after a put instead.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from prerank.core.object_stores import CALL_S, scheme_of


class Conditions(Protocol):
    """Objects of a store, by their path there. Every method raises OSError where the store does."""

    def read(self, path: str) -> tuple[bytes | None, str | None]:
        """Content of an object and a tag of this content; None where there is none."""

    def write(self, path: str, data: bytes, tag: str | None) -> bool:
        """Write an object with this tag, or (None) where there is none; False where it is another.

        A store that knows no conditions writes whatever it has.
        """


def conditions_of(uri: str) -> Conditions | None:
    """Those of the store of a URI; None where its client is not installed, or knows none."""
    try:
        if scheme_of(uri) == "s3":
            return _S3()
        if scheme_of(uri) == "az":
            return _Azure(uri)
    except ImportError:
        pass
    return None


@functools.lru_cache
def _s3_client(endpoint: str | None, region: str | None) -> Any:
    import botocore.session
    from botocore.config import Config

    return botocore.session.get_session().create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=CALL_S,
            read_timeout=CALL_S,
            # Tries and waits are the caller's.
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path" if endpoint else "auto"},
            # Not every store that speaks S3 knows the trailing ones.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class _S3:
    def __init__(self) -> None:
        # As PyArrow does.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._client = _s3_client(endpoint, region)

    def read(self, path: str) -> tuple[bytes | None, str | None]:
        bucket, _, key = path.partition("/")
        try:
            with _as_os_error():
                found = self._client.get_object(Bucket=bucket, Key=key)
                return found["Body"].read(), found["ETag"]
        except FileNotFoundError:
            return None, None

    def write(self, path: str, data: bytes, tag: str | None) -> bool:
        bucket, _, key = path.partition("/")
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        try:
            with _as_os_error():
                self._client.put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except NotImplementedError:
            with _as_os_error():
                self._client.put_object(Bucket=bucket, Key=key, Body=data)
        except (FileExistsError, FileNotFoundError):
            return False
        return True


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Tell botocore's errors as ``prerank.core.object_stores`` reads them."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(str(error)) from None
        # 409: another put of the object is at work.
        if status in (409, 412) and code != "NoSuchBucket":
            raise FileExistsError(str(error)) from None
        if status == 501 or code == "NotImplemented":
            raise NotImplementedError from None
        raise OSError(f"{code}: {error}: HTTP status {status}") from None
    except BotoCoreError as error:
        raise OSError(str(error)) from None


class _Azure:
    def __init__(self, uri: str) -> None:
        import fsspec
        from azure.storage.blob import BlobServiceClient

        # Adlfs knows the account, and every way to name its key.
        system, _ = fsspec.core.url_to_fs(uri)
        connection = getattr(system, "connection_string", None)
        if connection:
            self._client: Any = BlobServiceClient.from_connection_string(connection)
            return
        credential = system.account_key or system.sas_token
        if not credential or not isinstance(credential, str):
            # A credential of its asynchronous kind.
            raise ImportError("no key of the account is known")
        self._client = BlobServiceClient(account_url=str(system.account_url), credential=credential)

    def read(self, path: str) -> tuple[bytes | None, str | None]:
        try:
            with _azure_as_os_error():
                found = self._blob(path).download_blob()
                return bytes(found.readall()), str(found.properties.etag)
        except FileNotFoundError:
            return None, None

    def write(self, path: str, data: bytes, tag: str | None) -> bool:
        from azure.core import MatchConditions

        condition: dict[str, Any] = (
            {"etag": tag, "match_condition": MatchConditions.IfNotModified, "overwrite": True}
            if tag
            else {"overwrite": False}
        )
        try:
            with _azure_as_os_error():
                self._blob(path).upload_blob(data, **condition)
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def _blob(self, path: str) -> Any:
        container, _, name = path.strip("/").partition("/")
        return self._client.get_blob_client(container, name)


@contextmanager
def _azure_as_os_error() -> Iterator[None]:
    from azure.core.exceptions import (
        AzureError,
        HttpResponseError,
        ResourceExistsError,
        ResourceModifiedError,
        ResourceNotFoundError,
    )

    try:
        yield
    except (ResourceExistsError, ResourceModifiedError) as error:
        raise FileExistsError(str(error)) from None
    except ResourceNotFoundError as error:
        raise FileNotFoundError(str(error)) from None
    except HttpResponseError as error:
        if error.status_code == 412:
            raise FileExistsError(str(error)) from None
        raise OSError(f"{error}: HTTP status {error.status_code}") from None
    except AzureError as error:
        raise OSError(str(error)) from None
