"""SageMaker's contract with a training container: what lies where below /opt/ml, and what it means to us.

    /opt/ml/input/config/   hyperparameters.json, inputdataconfig.json, resourceconfig.json, checkpointconfig.json
    /opt/ml/input/data/X/   channel X: `recipe` (recipe.yaml), `model` and `data` (folders of finished artifacts)
    /opt/ml/checkpoints/    copied to S3 file by file while we run; put back at the start, perhaps with files missing
    /opt/ml/model/          the result; its manifest comes last, so the result of a stopped job is none
    /opt/ml/output/failure  why it failed, at most 1,024 characters

The image is started as `image train`. SIGTERM means: save, you have 120 seconds. Sources: docs.aws.amazon.com,
SageMaker Developer Guide, "How Amazon SageMaker Runs Your Training Image", "… Provides Training Information" and
"… Processes Training Output", read 2026-11.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm.errors import NexusError, TrainingError, UsageError

ROOT = Path("/opt/ml")
MAX_FAILURE_CHARACTERS = 1024
MASTER_PORT = 7777  # SageMaker opens every port between the hosts of one job; any free one will do
SECONDS_TO_FIND_HOSTS = 300
RECIPE_FILE = "recipe.yaml"

# `token` only at the end of a name: TOKENIZERS_PARALLELISM and tokens_per_second are no secrets.
_HIDDEN_WORD = r"secret\w*|password|passwd|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|token"
_SECRET_NAME = re.compile(rf"(?i)(?:{_HIDDEN_WORD})$")
_SECRETS = (
    re.compile(r"\b(?:AKIA|ASIA|AROA)[A-Z0-9]{16}\b"),  # ids of AWS access keys and roles' sessions
    re.compile(r"\b(?:hf|sk|ghp|gho|glpat|xox[bp])[_-][A-Za-z0-9_-]{10,}"),  # keys of well-known services
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # JSON web tokens
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),  # user:password of a URL
    re.compile(rf"(?i)(?:x-amz-signature|[\w-]*(?:{_HIDDEN_WORD}))\s*[=:]\s*[^\s,;&]+"),
)
_HIDDEN = "[hidden]"


@dataclass(frozen=True)
class Contract:
    """What SageMaker told the container."""

    root: Path
    hyperparameters: dict[str, str]
    channels: dict[str, dict[str, Any]]
    """Name → what `inputdataconfig.json` says of it."""
    hosts: tuple[str, ...]
    """Of all containers of the job, in the order that all of them see."""
    current_host: str
    network_interface: str
    checkpoints: Path
    """What lies here survives the machine, if the job has a checkpoint configuration."""

    @property
    def model(self) -> Path:
        """Becomes model.tar.gz."""
        return self.root / "model"

    @property
    def failure(self) -> Path:
        """The file that tells why."""
        return self.root / "output" / "failure"

    @property
    def host_rank(self) -> int:
        """This host's number, from 0."""
        return self.hosts.index(self.current_host)

    @property
    def master_address(self) -> str:
        """Where the processes of all hosts meet."""
        return self.hosts[0]

    def channel(self, name: str) -> Path:
        """The folder of a channel.

        Raises:
            TrainingError: the job has no such channel, or nothing arrived in it.
        """
        folder = self.root / "input" / "data" / name
        if not folder.is_dir() or not any(folder.iterdir()):
            known = ", ".join(sorted(self.channels)) or "none"
            raise TrainingError(
                f"channel {name} has no files at {folder} (the job's channels: {known})",
                fix=f"give the job an input channel named {name}; nexus train --on sagemaker does",
            )
        return folder


def read_contract(root: Path = ROOT) -> Contract:
    """What the files below `root` say. An absent file means its default: one host, no hyperparameters.

    Raises:
        TrainingError: a file is not what SageMaker writes.
    """
    config = root / "input" / "config"
    resources = _object(config / "resourceconfig.json")
    hosts = tuple(str(host) for host in resources.get("hosts", ["localhost"]))
    current = str(resources.get("current_host", hosts[0] if hosts else ""))
    if current not in hosts:
        raise TrainingError(
            f"{config / 'resourceconfig.json'}: current_host {current!r} is none of the hosts {', '.join(hosts)}",
            fix="this file is SageMaker's: start the job again",
        )
    hyperparameters = _object(config / "hyperparameters.json")
    checkpoints = _object(config / "checkpointconfig.json")
    return Contract(
        root=root,
        hyperparameters={name: _text(value) for name, value in hyperparameters.items()},
        channels=_object(config / "inputdataconfig.json"),
        hosts=hosts,
        current_host=current,
        network_interface=str(resources.get("network_interface_name", "")),
        checkpoints=_below(root, str(checkpoints.get("LocalPath") or ROOT / "checkpoints")),
    )


def recipe_overrides(hyperparameters: Mapping[str, str]) -> tuple[str, ...]:
    """Hyperparameters as overrides of the recipe, `a.b=c`, sorted by name.

    Their values are strings, which other tools fill with JSON; YAML reads both. Names that begin with `sagemaker_` are
    of SageMaker's own SDK and mean nothing here.

    >>> recipe_overrides({"train.max_steps": "50", "sagemaker_program": "x.py", "train.dtype": '"float32"'})
    ('train.dtype="float32"', 'train.max_steps=50')

    Raises:
        UsageError: a name has no dot, so it is no field of a section.
    """
    ours = {name: value for name, value in hyperparameters.items() if not name.startswith("sagemaker_")}
    for name in ours:
        if name != "seed" and not re.fullmatch(r"[a-z_]+(\.\w+)+", name):
            raise UsageError(
                f"hyperparameter {name!r} is no field of a recipe", fix="use dotted names such as train.max_steps"
            )
    return tuple(f"{name}={ours[name]}" for name in sorted(ours))


def network_variables(contract: Contract) -> dict[str, str]:
    """What NCCL and Gloo must be told: hosts have several interfaces, and only one reaches the others."""
    if len(contract.hosts) == 1 or not contract.network_interface:
        return {}
    return dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), contract.network_interface)


def await_hosts(
    hosts: Sequence[str], *, resolve: Callable[[str], object], sleep: Callable[[float], None], pause_seconds: float = 2
) -> None:
    """Returns when every host's name resolves: SageMaker's containers do not come up at the same moment.

    Raises:
        TrainingError: one still does not after five minutes.
    """
    for host in hosts:
        for attempt in range(round(SECONDS_TO_FIND_HOSTS / pause_seconds) + 1):
            try:
                resolve(host)
                break
            except OSError as error:
                if (attempt + 1) * pause_seconds > SECONDS_TO_FIND_HOSTS:
                    raise TrainingError(
                        f"host {host} of this job has no address after {SECONDS_TO_FIND_HOSTS} s ({error})",
                        fix="start the job again; if it happens again, check the security group lets its hosts meet",
                    ) from error
                sleep(pause_seconds)


def failure_text(error: BaseException, *, secrets: Iterable[str] = ()) -> str:
    """Why the job failed, for /opt/ml/output/failure: at most 1,024 characters, without what looks like a secret.

    `secrets` are strings to hide wherever they occur. The fix is kept whole; the description is what gets cut.
    """
    if isinstance(error, NexusError):
        what, fix = error.what, f"\nfix: {error.fix}"
    else:
        what, fix = f"{type(error).__name__}: {error}", "\nfix: read the job's log for the place in the code"
    what, fix = hide_secrets(what, secrets=secrets), hide_secrets(fix, secrets=secrets)[: MAX_FAILURE_CHARACTERS // 2]
    room = MAX_FAILURE_CHARACTERS - len(fix)
    return (what if len(what) <= room else what[: room - 1] + "…") + fix


def hide_secrets(text: str, *, secrets: Iterable[str] = ()) -> str:
    """`text` with everything that looks like a secret replaced.

    >>> hide_secrets("s3://user:hunter2@host refused AKIAABCDEFGHIJKLMNOP, password=x")
    's3://[hidden]@host refused [hidden], [hidden]'
    """
    for secret in sorted({one for one in secrets if len(one) >= 6}, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    for pattern in _SECRETS:
        text = pattern.sub(_HIDDEN, text)
    return text


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values of environment variables whose names say that they are secret."""
    return [environment[name] for name in secret_names(environment)]


def secret_names(names: Collection[str]) -> list[str]:
    """Those that say of themselves that they hold a secret.

    >>> secret_names(["HF_TOKEN", "AWS_REGION"])
    ['HF_TOKEN']
    """
    return [name for name in names if _SECRET_NAME.search(name)]


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file or only `null`."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(
            f"{path} is not JSON ({error})", fix="this file is SageMaker's: start the job again"
        ) from error
    if value is not None and not isinstance(value, dict):
        raise TrainingError(f"{path} holds no JSON object", fix="this file is SageMaker's: start the job again")
    return value or {}


def _text(value: object) -> str:
    """SageMaker sends strings; a tree that was made by hand may hold numbers."""
    return value if isinstance(value, str) else json.dumps(value)


def _below(root: Path, path: str) -> Path:
    """A path of the contract below another root: a rehearsal has no /opt/ml."""
    try:
        return root / Path(path).relative_to(ROOT)
    except ValueError:
        return Path(path)
