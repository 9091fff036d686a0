"""An AWS in this process: moto behind a loopback port, reached by nothing but environment variables.

Terraform, boto3 and s3fs all honour AWS_ENDPOINT_URL, so what runs against the emulator is the very configuration that
runs against an account: no provider block, no backend and no client is written for it. What moto cannot do is patched
(`emulator_patches.py`), each with its reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import MissingExtraError

if TYPE_CHECKING:
    from nexus_llm.cloud.emulator_patches import Wsgi

ACCOUNT = "123456789012"  # moto's own account: who asks with unknown keys is root there
REGION = "eu-central-1"
JOINING_SECONDS = 600  # moto joins the parts of a large file while its sender waits: on a busy machine over a minute


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running one."""

    url: str
    region: str
    account: str = ACCOUNT

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs beside PATH and HOME to see this AWS and no other. The keys are no secrets."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "emulated",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,  # a profile of the user's would win over some of these
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            # What moto does not know it answers with 500, which clients retry for minutes.
            "AWS_MAX_ATTEMPTS": "2",
        }


def without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without every variable that leads to an AWS account."""
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


@contextlib.contextmanager
def running_emulator(
    *, region: str = REGION, wrap: Callable[[Wsgi], Wsgi] | None = None, log: Path | None = None
) -> Iterator[Emulator]:
    """A patched, empty AWS on a free loopback port, in threads of this process, until the block ends.

    One at a time: moto's state is global to a process. `wrap` sees every request first, to record or to refuse it;
    `log` receives a line for each.

    Raises:
        MissingExtraError: moto or Flask is not installed.
    """
    os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")  # read when moto is imported
    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server
    except ImportError as error:
        raise MissingExtraError.for_extra("rehearse", error.name or "moto") from error
    from nexus_llm.cloud.emulator_missing import ALL_PATCHES
    from nexus_llm.cloud.emulator_patches import PatchedApplication

    application: Wsgi = PatchedApplication(DomainDispatcherApplication(create_backend_app), ALL_PATCHES)
    application = wrap(application) if wrap else application
    forget()
    with _logged(log):
        server = make_server("127.0.0.1", 0, application, threaded=True)
        thread = threading.Thread(target=server.serve_forever, name="emulator", daemon=True)
        thread.start()
        try:
            yield Emulator(f"http://127.0.0.1:{server.server_port}", region)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            forget()


@contextlib.contextmanager
def entered(emulator: Emulator) -> Iterator[None]:
    """A block in which this process and its children see the emulated account and no other."""
    import fsspec

    buckets = fsspec.get_filesystem_class("s3")
    before, configured = dict(os.environ), dict(fsspec.config.conf)
    buckets.clear_instance_cache()  # it remembers where it was led
    fsspec.config.conf["s3"] = {"config_kwargs": {"read_timeout": JOINING_SECONDS}}
    os.environ.clear()
    os.environ.update(without_aws(before) | emulator.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        fsspec.config.conf.clear()
        fsspec.config.conf.update(configured)
        buckets.clear_instance_cache()


def forget() -> None:
    """Empties the emulated account."""
    from moto.core.base_backend import BackendDict
    from moto.core.model_instances import reset_model_data

    BackendDict.reset()
    reset_model_data()


@contextlib.contextmanager
def _logged(file: Path | None) -> Iterator[None]:
    """werkzeug's request lines go to `file`, or nowhere: never to the user's terminal."""
    lines = logging.getLogger("werkzeug")
    handler = logging.FileHandler(file) if file else logging.NullHandler()
    level, propagates = lines.level, lines.propagate
    lines.addHandler(handler)
    lines.setLevel(logging.INFO if file else logging.CRITICAL)
    lines.propagate = False
    try:
        yield
    finally:
        lines.removeHandler(handler)
        handler.close()
        lines.setLevel(level)
        lines.propagate = propagates
