"""gs:// through gcsfs, one try at a time. Imported only where an address asks for it."""

import base64
import hashlib
import inspect
import json
import os
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gcsfs.core import GCSFileSystem, initiate_upload
from gcsfs.retry import HttpError

SMALL_BYTES = 8 << 20
"""Below this a file goes in one request; above in two, of which the second reads it from the disk."""

_once = inspect.unwrap(GCSFileSystem._request)  # noqa: SLF001 - without its decorator, which tries six times


class OneTry(GCSFileSystem):  # type: ignore[misc] # published without types
    """The plain JSON API of Google's store; what it answers in its own way is raised as everywhere else.

    gcsfs's decorator waits up to 31 s between six tries and has no option; whoever asks here tries again himself
    (`Retries`). The class that gcsfs itself exports asks each bucket's kind over gRPC first, which no corpus needs. And
    gcsfs parts what it uploads by a fixed line: a document with that line in it would be cut there.
    """

    async def _request(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await _once(self, *arguments, **named)
        except HttpError as error:
            if error.code in (401, "401"):
                raise PermissionError(str(error)) from error
            raise
        except OSError as error:
            if str(error).startswith("Forbidden"):
                raise PermissionError(str(error)) from error
            raise

    async def _pipe_file(
        self,
        path: str,
        value: bytes,
        metadata: Mapping[str, str] | None = None,
        generation: str | None = None,
        mode: str = "overwrite",
        **named: Any,
    ) -> None:
        """One request, over the named generation; with mode "create" where there is none. Else FileExistsError."""
        bucket, key, _ = self.split_path(path)
        md5 = hashlib.md5(value, usedforsecurity=False).digest()
        about = {"metadata": metadata or {}, "md5Hash": base64.b64encode(md5).decode()}
        between = secrets.token_hex(16).encode()
        parts = (
            (b"application/json; charset=UTF-8", json.dumps(about).encode()),
            (b"application/octet-stream", value),
        )
        body = b"".join(
            b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (between, *one) for one in parts
        )
        await self._call(
            "POST",
            f"{self._location}/upload/storage/v1/b/{quote(bucket)}/o",
            uploadType="multipart",
            name=key,
            ifGenerationMatch="0" if mode == "create" else generation,
            headers={"Content-Type": f'multipart/related; boundary="{between.decode()}"'},
            data=body + b"--%s--" % between,
        )
        self.invalidate_cache(self._parent(path))

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        metadata: Mapping[str, str] | None = None,
        mode: str = "overwrite",
        **named: Any,
    ) -> None:
        """As `_pipe_file`. A big file appears when its second request is complete; Google drops one that never is."""
        with open(lpath, "rb") as file:  # noqa: ASYNC230, PTH123 - a local file, as gcsfs itself does it
            if os.fstat(file.fileno()).st_size < SMALL_BYTES:
                await self._pipe_file(rpath, file.read(), metadata, mode=mode)
                return
            bucket, key, _ = self.split_path(rpath)
            location = await initiate_upload(self, bucket, key, metadata=metadata, mode=mode)
            await self._call("PUT", location, data=file)
        self.invalidate_cache(self._parent(rpath))
