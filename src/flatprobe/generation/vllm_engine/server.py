"""The vLLM process of one checkpoint: how it starts, when it is replaced by a larger one, and what it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatprobe.errors import FlatprobeError, UserError
from flatprobe.generation.vllm_engine.link import Link, ProcessDied
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.fit import require_context_length
from flatprobe.models.reference import fingerprint_folder
from flatprobe.study.recipe_schema import Precision

SCRIPT = Path(__file__).with_name("process.py")
INSTALL = 'pip install "flatprobe[vllm]", or name another interpreter in the machine file (vllm: python: …)'
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts as the largest rank
SLACK = 64  # tokens beyond what a call needs: scoring a marker after the longest answer then needs no restart
# Least context to start with. Otherwise the short calls of a stage's checks would start a process that its sampling
# must replace. vLLM allocates keys and values by pages, so this costs no memory.
FLOOR = 4096
NOISE = 64  # MiB of device memory that may change by itself
ADAPTERS_IN_MEMORY = 8  # of the host, so that switching adapters reads no file


class EngineFailed(FlatprobeError):
    """The engine's process died, and again after its restart."""

    def __init__(self, engine: str, cause: str, log: str) -> None:
        self.engine, self.cause, self.log = engine, cause, log
        super().__init__(engine, cause, log)

    def __str__(self) -> str:
        return f"the {self.engine} process failed twice: {self.cause}\nits last lines:\n{self.log}"


@dataclass(frozen=True)
class AdapterSize:
    """The room that an engine needs to serve an adapter."""

    rank: int
    """The largest rank of its updates."""
    modules: frozenset[str]
    """Names of the updated linear modules: q_proj, down_proj."""


NO_ADAPTER = AdapterSize(0, frozenset())


@dataclass(frozen=True)
class Needs:
    """The size of engine that a call needs."""

    length: int
    """Tokens of the longest prompt plus its answer."""
    adapter: AdapterSize = NO_ADAPTER


@dataclass(frozen=True)
class Freed:
    """What the process left after it ended."""

    processes_gone: bool
    """Whether all processes of its group have ended."""
    used_before: tuple[int, ...] | None
    """MiB in use on each NVIDIA device before the process started; None without such devices."""
    used_after: tuple[int, ...] | None
    """The same after it ended."""

    @property
    def left_in_use(self) -> int:
        """The largest increase of a device's memory in use, in MiB, whoever uses it."""
        pairs = zip(self.used_before or (), self.used_after or (), strict=False)
        return max((max(0, after - before) for before, after in pairs), default=0)


class VllmServer:
    """One process for one checkpoint, started at its first use and replaced when a call needs a larger one."""

    def __init__(self, checkpoint: Path, precision: Precision, options: VllmMachine) -> None:
        self.checkpoint, self.precision, self.options = checkpoint.resolve(), precision, options
        self.context = require_context_length(self.checkpoint)
        self.starts = 0
        self.started: dict[str, Any] = {}
        self.freed: Freed | None = None
        self._link: Link | None = None
        self._size = Needs(0)
        self._adapters: dict[Path, dict[str, Any]] = {}
        self._used_before: tuple[int, ...] | None = None

    @property
    def pid(self) -> int | None:
        """Id of the running process, if any."""
        return None if self._link is None else self._link.pid

    def suffices(self, needs: Needs) -> bool:
        """Whether the running process is large enough for a call."""
        running = self._link is not None and self._link.alive
        adapter, room = needs.adapter, self._size.adapter
        fits = adapter.rank <= room.rank and adapter.modules <= room.modules
        return running and needs.length <= self._size.length and fits

    def link(self, needs: Needs) -> Link:
        """The running process; starts it or replaces it by a larger one if needed.

        Raises:
            UserError: vLLM is not installed, or does not start with these options.
            ProcessDied: it died while starting.
        """
        if self._link is not None and self.suffices(needs):
            return self._link
        self.close()
        grown = self._grown(needs)
        self._used_before = used_memory()
        self._link = self._start()
        self._link.send(command="start", arguments=self._arguments(grown))
        reply = self.reply(self._link, starting=True)
        self._size = grown
        self.started = {name: reply[name] for name in reply if name not in ("reply", "pid")}
        self.starts += 1
        return self._link

    def _grown(self, needs: Needs) -> Needs:
        """The size to start with: enough for this call and all earlier ones."""
        length = max(needs.length + SLACK, self.options.max_model_len or FLOOR, self._size.length)
        room = self._size.adapter
        rank = max(_accepted_rank(needs.adapter.rank), room.rank)
        return Needs(min(self.context, length), AdapterSize(rank, room.modules | needs.adapter.modules))

    def reply(self, link: Link, *, starting: bool = False) -> dict[str, Any]:
        """The next reply.

        Raises:
            UserError: it reports that vLLM is not installed or, while `starting`, does not start.
            ProcessDied: it died, or reported any other error.
        """
        reply = link.receive()
        if reply["reply"] != "failed":
            return reply
        self.abandon()
        log = link.log  # complete now that the process has ended
        if reply["missing"]:
            raise UserError.one(
                "engine.not_installed",
                f"engine vllm: {self._python()}",
                f"vLLM is not installed ({reply['message']})",
                INSTALL,
            )
        if starting:
            raise UserError.one(
                "engine.start",
                f"engine vllm: {self.checkpoint.name}",
                f"vLLM does not start: {reply['message']}",
                "see the stage's log; if memory is short, lower `gpu_memory` or end other users of the device",
            )
        raise ProcessDied(reply["message"], log)

    def adapter(self, folder: Path | None) -> dict[str, Any] | None:
        """Name, id and path of an adapter for the process. Its name is a hash of its content.

        vLLM caches prefixes by the adapter's name and weights by its id, so two adapters must share neither. Ids have
        32 bits, too few for a hash, so adapters are numbered.
        """
        if folder is None:
            return None
        if folder not in self._adapters:
            name = f"adapter-{fingerprint_folder(folder)[:32]}"
            self._adapters[folder] = {"path": str(folder.resolve()), "name": name}
        adapter = self._adapters[folder]
        names = list(dict.fromkeys(other["name"] for other in self._adapters.values()))
        return {**adapter, "id": names.index(adapter["name"]) + 1}

    def close(self) -> Freed | None:
        """End the process, if any; returns what it left."""
        return self._end(graceful=True)

    def abandon(self) -> None:
        """Kill the process at once."""
        self._end(graceful=False)

    def _end(self, *, graceful: bool) -> Freed | None:
        link, self._link = self._link, None
        if link is None:
            return self.freed
        if graceful:
            link.end()
        else:
            link.kill()
        self.freed = Freed(link.group_is_gone(), self._used_before, used_memory())
        if not self.freed.processes_gone:
            sys.stderr.write(f"processes of the vLLM engine {link.pid} still run\n")
        if self.freed.left_in_use > NOISE:
            sys.stderr.write(
                f"a device has {self.freed.left_in_use} MiB more in use than before the vLLM engine started\n"
            )
        return self.freed

    def _python(self) -> str:
        return self.options.python or sys.executable

    def _start(self) -> Link:
        environment = dict(os.environ)
        if self.options.python is not None:
            environment.pop("PYTHONPATH", None)  # its packages are for another interpreter
        environment |= {
            "PYTHONSAFEPATH": "1",  # do not import from the script's folder
            "VLLM_LOGGING_STREAM": "ext://sys.stderr",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the checkpoint is local
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # schedule independently of timing
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_BATCH_INVARIANT": str(int(self.options.batch_invariant)),
        }
        python = self._python()
        try:
            return Link([python, str(SCRIPT)], environment)
        except OSError as error:
            raise UserError.one(
                "engine.not_installed",
                "engine vllm",
                f"cannot run {python}: {error.strerror}",
                "correct `python` in the machine file",
            ) from error

    def _arguments(self, size: Needs) -> dict[str, Any]:
        """Arguments of vLLM's engine. Everything that affects the distribution is set, not left to defaults."""
        arguments = {
            "model": str(self.checkpoint),
            "dtype": self.precision,
            "max_model_len": size.length,
            "gpu_memory_utilization": self.options.gpu_memory,
            "enforce_eager": self.options.enforce_eager,
            "tensor_parallel_size": self.options.tensor_parallel_size,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "enable_prefix_caching": True,
            "trust_remote_code": False,
            "seed": 0,
            "load_format": "safetensors",
            "disable_log_stats": True,
        }
        if size.adapter.rank:
            # Not the output head: there vLLM looks adapters up by request instead of by token, so scores of given
            # tokens would fail or be wrong.
            arguments |= {
                "enable_lora": True,
                "max_lora_rank": size.adapter.rank,
                "max_loras": 1,
                "max_cpu_loras": ADAPTERS_IN_MEMORY,
                "lora_target_modules": sorted(size.adapter.modules),
            }
        return arguments


def _accepted_rank(rank: int) -> int:
    """The smallest rank that vLLM accepts for an adapter of this rank; 0 without one.

    Raises:
        UserError: the rank is too high.
    """
    if rank == 0:
        return 0
    if rank > RANKS[-1]:
        raise UserError.one(
            "adapter.not_served",
            "engine vllm",
            f"an adapter has rank {rank}: vLLM accepts at most {RANKS[-1]}",
            "use engine: transformers",
        )
    return next(accepted for accepted in RANKS if accepted >= rank)


def used_memory() -> tuple[int, ...] | None:
    """MiB in use on each NVIDIA device, from the driver (opens no device here); None without such devices."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:  # the driver hangs; the engine will report it
        return None
    numbers = result.stdout.split()
    valid = result.returncode == 0 and all(number.isdigit() for number in numbers)
    return tuple(map(int, numbers)) if valid else None
